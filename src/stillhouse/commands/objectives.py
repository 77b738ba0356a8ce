"""`stillhouse objectives`: what a student can be asked to match, one line each, or one of them in full."""

import inspect
from collections.abc import Iterable, Mapping
from itertools import groupby

from rich.console import Console

from stillhouse.core.errors import RecipeError
from stillhouse.objectives import CATALOGUE, FEATURES, FeatureObjective, Objective, objective

Entry = Objective | FeatureObjective

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
}
"""What each signal is called in front of people."""


def show(name: str | None) -> None:
    """The whole catalogue as a table, or everything about one objective.

    Raises:
        RecipeError: for an unknown name, naming the nearest.
    """
    if name is None:
        _show_all()
    else:
        _show_one(name)


def _show_all() -> None:
    """One line each, under what they read and what that costs."""
    console = Console(highlight=False)
    for title, entries in (("What the student answers", CATALOGUE), ("What happens inside it", FEATURES)):
        console.print(f"[bold]{title}[/bold]")
        listed: Iterable[Entry] = entries.values()
        for (reads, cost), group in groupby(listed, key=lambda entry: (_reads(entry), entry.cost)):
            console.print(f"\n  [dim]reads {reads}. {cost}[/dim]", soft_wrap=True)
            for entry in group:
                console.print(f"    {entry.name:<24}{entry.summary}", soft_wrap=True)
        console.print()
    console.print("One in full: stillhouse objectives NAME. In a recipe: objectives: \\[{name: NAME, weight: 1.0}]")


def _show_one(name: str) -> None:
    try:
        entry = objective(name)
    except ValueError as error:
        raise RecipeError([str(error)], source="stillhouse objectives") from None
    console = Console(highlight=False)
    console.print(f"[bold]{entry.name}[/bold]: {entry.summary}\n")
    facts = {"reads": _reads(entry), "costs": entry.cost, "one number a": _unit(entry), "source": entry.source}
    for key, value in facts.items():
        console.print(f"  {key:<14} {value}", soft_wrap=True)
    console.print("\n  keys in a recipe")
    for key, default in _keys(entry).items():
        console.print(f"    {key:<14} {default}")
    known: Entry = CATALOGUE[name] if name in CATALOGUE else FEATURES[name]
    console.print(f"\n{inspect.getdoc(known.function)}", markup=False, soft_wrap=True)


def _reads(entry: Entry) -> str:
    signals = [entry.reads] if isinstance(entry, FeatureObjective) else sorted(entry.reads, reverse=True)
    return ", ".join(READS[signal] for signal in signals)


def _unit(entry: Entry) -> str:
    return entry.unit if isinstance(entry, FeatureObjective) else "prediction"


def _keys(entry: Entry) -> Mapping[str, object]:
    own: dict[str, object] = {}
    if isinstance(entry, Objective):
        own = {"where": "targets", **({"temperature": 1.0} if entry.takes_temperature else {})}
    elif entry.reads != "embeddings":
        own = {"layers": entry.default_layers}
    return {"weight": 1.0, **own, **entry.parameters}
