"""Teachers: objectives cannot tell them apart."""

from stillhouse.teachers.config import TeacherConfig
from stillhouse.teachers.local import LocalTeacher, LocalTeacherConfig
from stillhouse.teachers.own import SelfTeacher, SelfTeacherConfig
from stillhouse.teachers.remote import RemoteWriter, scoring_teacher
from stillhouse.teachers.remote_config import BudgetConfig, PricesConfig, RemoteTeacherConfig, RemoteWriterConfig
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.teachers.told import ScoringTeacher, TokenNames, ToldTeacher
from stillhouse.teachers.writer import LocalWriter, Message, Reply, Request, Writer

__all__ = [
    "BudgetConfig",
    "LocalTeacher",
    "LocalTeacherConfig",
    "LocalWriter",
    "Message",
    "PricesConfig",
    "RemoteTeacherConfig",
    "RemoteWriter",
    "RemoteWriterConfig",
    "Reply",
    "Request",
    "ScoringTeacher",
    "SelfTeacher",
    "SelfTeacherConfig",
    "StoredTeacher",
    "TeacherConfig",
    "TokenNames",
    "ToldTeacher",
    "Writer",
    "scoring_teacher",
]
