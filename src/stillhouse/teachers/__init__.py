"""Teachers: objectives cannot tell them apart."""

from stillhouse.teachers.config import TeacherConfig
from stillhouse.teachers.local import LocalTeacher, LocalTeacherConfig
from stillhouse.teachers.own import SelfTeacher, SelfTeacherConfig
from stillhouse.teachers.stored import StoredTeacher

__all__ = [
    "LocalTeacher",
    "LocalTeacherConfig",
    "SelfTeacher",
    "SelfTeacherConfig",
    "StoredTeacher",
    "TeacherConfig",
]
