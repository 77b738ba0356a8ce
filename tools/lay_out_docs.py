"""Lay the pages out in build/docs as they lie here, with a reference made of docstrings, for mkdocs to make a site of.

Pages link to each other, to recipes and to code as they lie in the repository, so that they can be read there. With the same
places in build/docs every link leads on; what is no page is copied as it is.
"""

import ast
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "docs"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "recipes/README.md", "benchmarks/README.md")


def main() -> None:
    """Write build/docs anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(ROOT / "docs", OUT / "docs")
    for name in PAGES:
        if (ROOT / name).exists():
            copy(ROOT / name)
    for page in sorted(OUT.rglob("*.md")):
        copy_what_it_links_to(page)
    (OUT / "reference.md").write_text(reference(), encoding="utf-8")


def copy(file: Path) -> None:
    """One file, to the same place."""
    place = OUT / file.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)


def copy_what_it_links_to(page: Path) -> None:
    """Recipes, pictures, code: whatever is no page yet."""
    home = ROOT / page.relative_to(OUT).parent
    for target in re.findall(r"\]\((?!\w+:)([^)#]+)", page.read_text(encoding="utf-8")):
        file = (home / target).resolve()
        if file.is_file() and not (OUT / file.relative_to(ROOT)).exists():
            copy(file)


def reference() -> str:
    """A section for each name that `stillhouse` itself has, and one for the objectives."""
    tree = ast.parse((ROOT / "src" / "stillhouse" / "__init__.py").read_text(encoding="utf-8"))
    homes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    names = sorted(
        (alias.asname or alias.name, f"{node.module}.{alias.name}") for node in homes for alias in node.names
    )
    sections = [f"## {name}\n\n::: {home}\n    options:\n      show_root_heading: false" for name, home in names]
    opening = "# Reference\n\nWhat `stillhouse` itself has; guide: [Python](docs/python.md)."
    objectives = "## stillhouse.objectives\n\n::: stillhouse.objectives\n    options:\n      members: false"
    return "\n\n".join([opening, *sections, f"{objectives}\n      show_root_heading: false"])


if __name__ == "__main__":
    main()
