"""What a recipe can say about the teacher."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from stillhouse.teachers.local import LocalTeacherConfig
from stillhouse.teachers.own import SelfTeacherConfig
from stillhouse.teachers.remote_config import RemoteTeacherConfig


def _kind(values: Any) -> str:
    """The kind that is said, or else local."""
    found = values.get("kind", "local") if isinstance(values, dict) else getattr(values, "kind", "local")
    return str(found)


TeacherConfig = Annotated[
    Annotated[LocalTeacherConfig, Tag("local")]
    | Annotated[SelfTeacherConfig, Tag("self")]
    | Annotated[RemoteTeacherConfig, Tag("remote")],
    Discriminator(_kind),
]
"""A recipe's `teacher`."""
