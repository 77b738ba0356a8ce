"""The pages on objectives say what the catalogue says, and their recipes can be read."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from stillhouse.commands.objectives import READS
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.core.config import parse_recipe
from stillhouse.core.yaml_text import from_yaml
from stillhouse.objectives import (
    CATALOGUE,
    FEATURES,
    POLICIES,
    PREFERENCES,
    RANKINGS,
    SPANS,
    AnyObjective,
    FeatureObjective,
    Objective,
    names,
)
from stillhouse.training.config import ObjectiveConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted((DOCS / "objectives").glob("*.md"))}
ENTRIES: Mapping[str, AnyObjective] = {**CATALOGUE, **FEATURES, **SPANS, **POLICIES, **PREFERENCES, **RANKINGS}
BLOCKS = [
    (page, from_yaml(block))
    for page, text in TEXTS.items()
    for block in re.findall(r"^```yaml\n(.+?)^```", text, re.DOTALL | re.MULTILINE)
]


def headings(text: str) -> Iterator[tuple[str, str]]:
    """Each heading, and what stands under it up to the next."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def anchor(heading: str) -> str:
    """What GitHub calls a heading in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section_of(name: str) -> tuple[str, str, str]:
    """The page, heading and text that are about an objective."""
    found = [
        (page, heading, text)
        for page, whole in TEXTS.items()
        for heading, text in headings(whole)
        if f"`{name}`" in heading
    ]
    assert len(found) == 1, f"{name} should have one section, and has {[heading for _, heading, _ in found]}"
    return found[0]


def references(source: str) -> list[str]:
    """The papers that a source names, by a number that can be looked up; what it says where there is none."""
    return re.findall(r"arXiv:[\d.]+\d|doi:[^\s.]+\.[^\s]+\d", source) or [source.rstrip(".")]


def linked(reference: str) -> str:
    kind, _, number = reference.partition(":")
    places = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return f"[{reference}]({places[kind]}{number})" if kind in places else reference


def row_of(name: str) -> str:
    entry, (page, heading, _) = ENTRIES[name], section_of(name)
    signals = sorted(entry.reads, reverse=True) if isinstance(entry, Objective) else [entry.reads]
    cells = [
        f"[`{name}`]({page}#{anchor(heading)})",
        ", ".join(READS[signal] for signal in signals),
        "prediction" if isinstance(entry, Objective) else entry.unit,
        entry.cost,
        entry.summary,
        ", ".join(linked(reference) for reference in references(entry.source)),
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_has_a_row_for_each_objective_as_the_catalogue_has_it():
    rows = [line for line in TEXTS["README.md"].splitlines() if line.startswith("| [`")]
    assert "\n".join(rows) == "\n".join(row_of(name) for name in names())


@pytest.mark.parametrize("name", names())
def test_a_section_names_its_objectives_sources_and_parameters(name):
    entry, (_, _, text) = ENTRIES[name], section_of(name)
    said = " ".join(text.split())
    missing = [reference for reference in references(entry.source) if linked(reference) not in said]
    assert not missing
    assert all(re.search(rf"\\{name}\b|[`$]{name}[`$]", said) for name in entry.parameters)
    if isinstance(entry, FeatureObjective) and entry.reads_layers:
        assert f"Usual map: `{entry.default_layers}`" in said


@pytest.mark.parametrize(("page", "values"), BLOCKS, ids=[f"{page}-{index}" for index, (page, _) in enumerate(BLOCKS)])
def test_every_recipe_on_the_pages_is_read(page, values):
    if is_of_retrieval(values):
        assert [one.build().name for one in parse_recipe(RetrievalRecipe, values).objectives]
        return
    if "teacher" in values:
        chosen = list(parse_recipe(Recipe, values).objectives)
    else:
        chosen = [ObjectiveConfig.model_validate(objective) for objective in values["objectives"]]
    for objective in chosen:
        assert objective.build(student_layers=6, teacher_layers=24).term.name == objective.name


def test_every_link_from_a_page_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, wanted = target.partition("#")
            place = page.parent / path if path else page
            assert place.exists(), f"{page} links to {target}"
            if wanted:
                found = {anchor(heading) for heading, _ in headings(place.read_text(encoding="utf-8"))}
                assert wanted in found, f"{page} links to {target}"


def test_every_picture_is_shown_and_says_what_it_shows():
    shown = {name for text in TEXTS.values() for name in re.findall(r"images/objectives/([\w-]+\.svg)", text)}
    pictures = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "images" / "objectives").glob("*.svg")}
    assert shown == pictures.keys()
    assert all("<title" in picture and "<desc" in picture for picture in pictures.values())
