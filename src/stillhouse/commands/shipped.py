"""The recipes that come with stillhouse: where they are, what each is for, and how a command names one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.core.errors import StillhouseError
from stillhouse.core.faults import nearest

WIDEST = 128
"""Characters in a line of the table, however wide the terminal."""


@dataclass(frozen=True)
class Shipped:
    """One recipe, with what `recipes/README.md` says of it."""

    name: str
    path: Path
    makes: str
    learns_from: str
    bring: str
    measured: str
    """What a whole run of it took, and where; empty where nobody measured."""


def folder() -> Path:
    """Inside the installed package, or beside `src` in a clone.

    Raises:
        StillhouseError: if there is neither.
    """
    package = Path(__file__).parents[1]
    places = [package / "recipes", package.parents[1] / "recipes"]
    for place in places:
        if (place / "README.md").is_file():
            return place
    raise StillhouseError(
        f"the shipped recipes are neither in {places[0]} nor in {places[1]}. Install stillhouse again, or work in a clone."
    )


def shipped() -> list[Shipped]:
    """All of them, in the order of the table."""
    home = folder()
    page = (home / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\.yaml\]\(\1\.yaml\) \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    return [
        Shipped(name, home / f"{name}.yaml", makes, learns_from, bring, _measured(home / f"{name}.yaml"))
        for name, makes, learns_from, bring in rows
    ]


def _measured(path: Path) -> str:
    """What the recipe itself says that a run of it took, in a comment `# Measured: ...`."""
    said = re.search(r"^# Measured: (.+?)\.?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return said[1] if said else ""


def named(name: str) -> Shipped:
    """The recipe of this name.

    Raises:
        StillhouseError: naming the nearest.
    """
    known = {one.name: one for one in shipped()}
    if name not in known:
        raise StillhouseError(f"there is no shipped recipe {name!r}.{nearest(name, list(known))}")
    return known[name]


def found(recipe: str) -> str:
    """The path that a command reads: what was said, or, where no such file is here, the shipped recipe that is named so, as
    `chat` or as `recipes/chat.yaml`."""
    path = Path(recipe)
    inside = path.parent == Path("recipes") and path.suffix == ".yaml"
    if path.exists() or not (inside or re.fullmatch(r"\w+", recipe)):
        return recipe
    known = {one.name: one.path for one in shipped()}
    return str(known.get(path.stem, path))


def show(name: str | None) -> None:
    """List all, or print one as it is.

    Raises:
        StillhouseError: for a name that none has.
    """
    if name is not None:
        print(named(name.removeprefix("recipes/").removesuffix(".yaml")).path.read_text(encoding="utf-8"), end="")
        return
    console = Console(highlight=False)
    console.width = min(console.width, WIDEST)
    console.print(_table(shipped()))
    print(
        "\nOne of them whole: stillhouse recipes NAME. One for your data: stillhouse init. Run one: stillhouse distill NAME "
        "key=value"
    )


def _table(recipes: Sequence[Shipped]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("recipe", "makes", "bring"):
        table.add_column(title, overflow="fold", no_wrap=title == "recipe")
    for one in recipes:
        made = Text(one.makes)
        if one.measured:
            made.append(f"\nmeasured: {one.measured}", style="dim")
        table.add_row(one.name, made, Text(one.bring))
    return table
