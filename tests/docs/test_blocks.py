"""Every block and command of every page is understood by what it is meant for: the parser, the recipes, Python."""

import argparse
import ast
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from stillhouse.cli import _parse, _parser
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.yaml_text import from_yaml
from stillhouse.synthesis.worlds.world import World

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), ROOT / "recipes" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
WHOLE = {"docs/rewards.md", "docs/behaviour.md"}
"""Pages whose Python needs nothing that is not there. docs/python.md has a test of its own, which makes what it needs."""


def blocks(language: str) -> list[Any]:
    """Each block of a language, with its page."""
    return [
        pytest.param(page, block, id=f"{page}-{number}")
        for page, text in TEXTS.items()
        for number, block in enumerate(re.findall(rf"^```{language}\n(.+?)^```", text, re.DOTALL | re.MULTILINE))
    ]


def commands() -> Iterator[tuple[str, list[str]]]:
    """The words of each command in a block, or on a line that is set apart."""
    for page, text in TEXTS.items():
        set_apart = "\n".join(re.findall(r"^ {4}(?:\S.*)$", text.replace("\\\n", " "), re.MULTILINE))
        shown = "\n".join(re.findall(r"^```sh\n(.+?)^```", text.replace("\\\n", " "), re.DOTALL | re.MULTILINE))
        for line in (set_apart + "\n" + shown).splitlines():
            if re.match(r"\s*(stillhouse|make) \w", line):
                yield page, shlex.split(line.partition(" | ")[0].partition(" > ")[0], comments=True)


COMMANDS = list(commands())


def test_every_command_is_one_that_there_is(capsys):
    targets = re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(COMMANDS) > 25
    for page, (program, *words) in COMMANDS:
        if program == "make":
            assert {word for word in words if "=" not in word} <= set(targets), f"{page}: make {words}"
            continue
        try:
            chosen = _parse(words)
        except SystemExit:
            pytest.fail(f"{page}: stillhouse {shlex.join(words)}: {capsys.readouterr().err}")
        if str(getattr(chosen, "recipe", "")).startswith("recipes/"):
            values = read_recipe(ROOT / chosen.recipe, chosen.overrides)
            load_recipe(kind_of(values), ROOT / chosen.recipe, chosen.overrides)


def test_every_verb_that_a_sentence_names_is_there():
    (verbs,) = (one.choices for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    for page, text in TEXTS.items():
        for verb in re.findall(r"`stillhouse ([a-z]\w*)", text):
            assert verb in verbs, f"{page}: stillhouse {verb}"


def kind_of(values: Any) -> type[Recipe] | type[RetrievalRecipe] | type[StoryRecipe]:
    return RetrievalRecipe if is_of_retrieval(values) else StoryRecipe if is_of_stories(values) else Recipe


LEFT_OUT = "Value error, give "
"""How a model says that one of several keys must be there."""


def faults(kind: type[BaseModel], values: Any) -> list[str]:
    """What is wrong with a part of a recipe, apart from what it leaves out."""
    try:
        kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        said = [one for one in error.errors() if one["type"] != "missing" and not one["msg"].startswith(LEFT_OUT)]
        return [f"{one['loc']}: {one['msg']}" for one in said if one["loc"][-1:] != ("...",)]
    return []


def readings(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The part as it stands, and, where it does not say what kind of synthesis it belongs to, as one of each."""
    yield values
    if isinstance(values.get("synthesis"), dict) and "kind" not in values["synthesis"]:
        for kind in ("magpie", "documents", "self_instruct"):
            yield {**values, "synthesis": {"kind": kind, **values["synthesis"]}}


KIND_OF_PAGE = {
    "docs/rag.md": RetrievalRecipe,
    "docs/objectives/ranking.md": RetrievalRecipe,
    "docs/stories.md": StoryRecipe,
}
"""Of those whose parts do not say it themselves."""


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_every_part_of_a_recipe_is_one(page, block):
    values = from_yaml(block)
    kind = World if "features" in values else KIND_OF_PAGE.get(page) or kind_of(values)
    found = [faults(kind, reading) for reading in readings(values)]
    assert not all(found), found[0]


def test_every_part_of_a_recipe_in_a_sentence_is_one():
    parts = [
        (page, key, from_yaml(value))
        for page in ("docs/choose.md", "docs/faq.md", "docs/comparison.md")
        for key, value in re.findall(r"`(\w+): (\{[^`]+\})`", TEXTS[page])
    ]
    assert len(parts) > 3
    for page, key, value in parts:
        assert not faults(Recipe, {key: value}), (page, key, value)


def test_every_figure_that_advises_stands_on_the_page_beside_it():
    cited = 0
    for item in re.split(r"\n(?=- |\n)", TEXTS["docs/choose.md"]):
        figures = re.findall(r"\*\*(-?\d[^*]*)\*\*", item)
        targets = re.findall(r"\]\((?!http)([^)#]+)", item)
        pages = [(ROOT / "docs" / target).read_text(encoding="utf-8").replace("*", "") for target in targets]
        shown = [" ".join(page.split()) for page in pages]
        for figure in figures:
            assert any(" ".join(figure.split()) in page for page in shown), f"{figure} is on none of {targets}"
        cited += len(figures)
    assert cited > 15


def test_the_gallery_has_every_recipe_and_no_figure_that_its_page_has_not():
    rows = re.findall(
        r"^\| \[(\w+)\]\(\.\./recipes/\1\.yaml\) \| .+? \| (.+) \|$", TEXTS["docs/gallery.md"], re.MULTILINE
    )
    assert sorted(name for name, _ in rows) == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    for name, said in rows:
        assert re.match(r"Measured|Estimate: |Not measured|Neither", said), name
        for target in re.findall(r"\]\(([^)#]+)", said):
            page = " ".join((ROOT / "docs" / target).read_text(encoding="utf-8").replace("*", "").split())
            for figure in re.findall(r"\d\S* (?:\S+ )?(\[[\d., ]+\])", said):
                assert figure in page, (name, figure)


@pytest.mark.parametrize(("page", "block"), blocks("json"))
def test_json_is_json(page, block):
    json.loads(block)


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_python_imports_what_is_there_and_calls_it_by_its_names(page, block):
    tree, known = ast.parse(block), dict[str, Any]()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in known:
            if not inspect.isfunction(known[call.func.id]) and not is_dataclass(known[call.func.id]):
                continue  # a class of others, or of ours that is read from a recipe
            parameters = inspect.signature(known[call.func.id]).parameters
            takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
            given = {keyword.arg for keyword in call.keywords if keyword.arg}
            assert takes_any or given <= parameters.keys(), f"{page}: {call.func.id} has no {given - parameters.keys()}"
    if page in WHOLE:
        exec(compile(tree, page, "exec"), {})
