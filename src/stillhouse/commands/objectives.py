"""`stillhouse objectives`: what a student can be asked to match, one line each, or one of them in full."""

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping

from rich.console import Console

from stillhouse.core.errors import StillhouseError
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
    SpanObjective,
    objective,
)

READS = {
    "teacher_logits": "teacher's logits",
    "target_ids": "labels",
    "target_values": "numbers in the data",
    "hidden_states": "hidden states",
    "attention_scores": "attention scores",
    "value_relations": "attention values",
    "multi_head_relations": "queries, keys, values",
    "document_states": "hidden states, by document",
    "flow": "hidden states of layer pairs",
    "embeddings": "sentence embeddings",
    "student_space": "last states, in the student's space",
    "teacher_space": "last states, in the teacher's space",
    "spans": "spans of text, by their own tokens",
    "pairs": "pairs of answers",
    "pairs_and_rewards": "pairs of answers, by how much one is better",
    "scores": "scores of a question's passages",
    "batch_scores": "scores of all passages of a batch",
    "draws": "own answers, the drawn tokens",
    "draws_and_distributions": "own answers, whole distributions",
}
"""What each signal is called in front of people."""

WIDEST = 100
"""Characters in a line, however wide the terminal: longer ones are hard to read."""


def show(name: str | None) -> None:
    """The whole catalogue, or everything about one objective.

    Raises:
        StillhouseError: for an unknown name, naming the nearest.
    """
    if name is None:
        _show_all()
    else:
        _show_one(name)


def _show_all() -> None:
    """One line each, under what they read and what that costs."""
    families: Mapping[str, Mapping[str, AnyObjective]] = {
        "What the student answers": CATALOGUE,
        "What happens inside it": FEATURES,
        "What it answers in other tokens": SPANS,
        "What it draws": POLICIES,
        "What it prefers": PREFERENCES,
        "What it finds": RANKINGS,
    }
    for title, entries in families.items():
        _print(title, style="bold")
        for heading, group in _groups(entries.values()).items():
            _print()
            _print(heading, indent="  ", hanging="  ", style="dim")
            for entry in group:
                _print_row(entry.name, entry.summary, indent=4, width=24)
        _print()
    _print("More about one: stillhouse objectives NAME")
    _print("In a recipe:    objectives: [{name: NAME, weight: 1.0}]")


def _groups(entries: Iterable[AnyObjective]) -> Mapping[str, list[AnyObjective]]:
    """Those that read the same at the same cost, in the order of the catalogue."""
    groups: dict[str, list[AnyObjective]] = {}
    for entry in entries:
        reads, cost = _reads(entry), entry.cost.rstrip(".")
        # To read the teacher's logits costs the teacher's logits: that goes without saying.
        costs = "" if cost.lower() in f"the {reads}" else f"; costs {cost[0].lower()}{cost[1:]}"
        groups.setdefault(f"reads {reads}{costs}", []).append(entry)
    return groups


def _show_one(name: str) -> None:
    try:
        entry = objective(name)
    except ValueError as error:
        raise StillhouseError(str(error)) from None
    _print(f"{entry.name}: {entry.summary}", style="bold")
    for paragraph in _explanation(name):
        _print()
        _print(paragraph)
    _print()
    facts = {"reads": _reads(entry), "costs": entry.cost.rstrip("."), "one number a": _unit(entry)}
    for key, value in {**facts, "source": entry.source.rstrip(".")}.items():
        _print_row(key, value, indent=2, width=16)
    _print()
    _print("Keys in a recipe, with their defaults:")
    for key, default in _keys(entry).items():
        _print_row(key, str(default), indent=2, width=16)


def _explanation(name: str) -> list[str]:
    """The paragraphs of the function's own words, without what is only for programmers and what is shown beside them."""
    families: tuple[Mapping[str, AnyObjective], ...] = (CATALOGUE, FEATURES, SPANS, POLICIES, PREFERENCES, RANKINGS)
    (known,) = (family[name] for family in families if name in family)
    words = re.split(r"^(?:Raises|Source):", inspect.getdoc(known.function) or "", maxsplit=1, flags=re.MULTILINE)[0]
    return [" ".join(paragraph.split()) for paragraph in words.strip().split("\n\n")]


def _reads(entry: AnyObjective) -> str:
    signals = sorted(entry.reads, reverse=True) if isinstance(entry, Objective) else [entry.reads]
    return " and ".join(READS[signal] for signal in signals)


def _unit(entry: AnyObjective) -> str:
    return "prediction" if isinstance(entry, Objective) else entry.unit


def _keys(entry: AnyObjective) -> Mapping[str, object]:
    own: dict[str, object] = {}
    if isinstance(entry, Objective):
        own = {} if entry.reads_labels else {"where": "targets"}
        own |= {"answers": "all", "average": "tokens"}
        own |= {"temperature": 1.0} if entry.takes_temperature else {}
    elif isinstance(entry, SpanObjective):
        own = {"temperature": 1.0}
    elif isinstance(entry, FeatureObjective) and entry.reads_layers:
        own = {"layers": entry.default_layers}
    return {"weight": 1.0, **own, **entry.parameters}


def _print(text: str = "", *, indent: str = "", hanging: str = "", style: str | None = None) -> None:
    """Text as it is, in lines that fit the terminal."""
    console = Console(highlight=False)
    lines = textwrap.wrap(
        text,
        min(console.width, WIDEST),
        initial_indent=indent,
        subsequent_indent=hanging,
        break_on_hyphens=False,
        break_long_words=False,
    )
    console.print("\n".join(lines), style=style, markup=False, soft_wrap=True)


def _print_row(key: str, value: str, *, indent: int, width: int) -> None:
    """A key and its value; the value's further lines stand under its first."""
    _print(value, indent=" " * indent + f"{key:<{width}}", hanging=" " * (indent + width))
