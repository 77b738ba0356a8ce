"""Teachers: objectives cannot tell them apart."""

from stillhouse.teachers.local import LocalTeacher, LocalTeacherConfig
from stillhouse.teachers.stored import StoredTeacher

__all__ = ["LocalTeacher", "LocalTeacherConfig", "StoredTeacher"]
