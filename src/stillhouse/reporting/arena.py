"""The page on which teacher and student answer side by side."""

from dataclasses import dataclass

from stillhouse.reporting.watching import live_page


@dataclass(frozen=True)
class ArenaPage:
    """Whatever stands on it before anybody has asked."""

    title: str
    teacher: str
    student: str
    votes: str
    has_template: bool


def render_arena(*, teacher: str, student: str, votes: str, has_template: bool) -> str:
    """The whole page."""
    return live_page("arena", page=ArenaPage("arena", teacher, student, votes, has_template))
