"""Teachers: objectives cannot tell them apart."""

from stillhouse.teachers.config import TeacherConfig
from stillhouse.teachers.local import LocalTeacher, LocalTeacherConfig
from stillhouse.teachers.own import SelfTeacher, SelfTeacherConfig
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.teachers.writer import LocalWriter, Message, Reply, Request, Writer

__all__ = [
    "LocalTeacher",
    "LocalTeacherConfig",
    "LocalWriter",
    "Message",
    "Reply",
    "Request",
    "SelfTeacher",
    "SelfTeacherConfig",
    "StoredTeacher",
    "TeacherConfig",
    "Writer",
]
