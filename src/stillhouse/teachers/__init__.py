"""Teachers: objectives cannot tell them apart."""

from typing import Annotated

from pydantic import Field

from stillhouse.teachers.local import LocalTeacher, LocalTeacherConfig
from stillhouse.teachers.own import SelfTeacher, SelfTeacherConfig
from stillhouse.teachers.stored import StoredTeacher

TeacherConfig = Annotated[LocalTeacherConfig | SelfTeacherConfig, Field(discriminator="kind")]

__all__ = [
    "LocalTeacher",
    "LocalTeacherConfig",
    "SelfTeacher",
    "SelfTeacherConfig",
    "StoredTeacher",
    "TeacherConfig",
]
