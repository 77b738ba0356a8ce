"""Where synthetic data comes from, as the report and the model card say it: from its data card, `data/card.json`."""

from collections.abc import Mapping
from typing import Any

from stillhouse.reporting import formatting

Fact = tuple[str, str]


def lineage_facts(card: Mapping[str, Any]) -> list[Fact]:
    """Who wrote it under which licence, from which questions, how it was drawn, and what it took."""
    if not card:
        return []
    teacher, wanted = card.get("teacher") or {}, card.get("synthesis") or {}
    facts = [
        ("written by", f"{teacher.get('name', '')} ({teacher.get('fingerprint', '')})"),
        ("its licence", str(teacher.get("says", ""))),
        ("questions from", _source(wanted)),
        ("drawn", _drawn(wanted)),
        ("took", _took(card)),
        *((f"by {name}", _coverage(counts)) for name, counts in (card.get("coverage") or {}).items()),
    ]
    return [(title, formatting.one_line(text)) for title, text in facts if text.strip(" ()")]


def _source(wanted: Mapping[str, Any]) -> str:
    """The kind of source, and what it was given."""
    number = wanted.get("number")
    parts = [str(wanted.get("kind", "")).replace("_", " ")]
    parts += [f"{formatting.count(number)} asked for"] if number else []
    for name in ("path", "root", "about", "system"):
        parts += [f"{name} {_short(str(wanted[name]))}"] if wanted.get(name) else []
    return ", ".join(part for part in parts if part)


def _drawn(wanted: Mapping[str, Any]) -> str:
    answers: Mapping[str, Any] = wanted.get("answers") or {}
    parts = [f"questions at {_temperature(wanted.get('sampling'))}"] if wanted.get("kind") != "questions" else []
    if answers:
        several = f", {answers['samples']} of each" if answers.get("samples", 1) > 1 else ""
        parts.append(f"answers at {_temperature(answers.get('sampling'))}{several}")
        parts += [f"trace {answers['trace']}, of which the student sees {answers['learn']}"] * (
            answers.get("trace", "none") != "none"
        )
        parts += [f"system prompt that the teacher alone reads: {_short(answers['system'])}"] * bool(
            answers.get("system")
        )
    parts += [f"{wanted['turns']} further turns"] * bool(wanted.get("turns"))
    return "; ".join([*parts, f"seed {wanted.get('seed', 0)}"])


def _temperature(sampling: Mapping[str, Any] | None) -> str:
    sampling = sampling or {}
    cuts = [f"{name} {sampling[name]}" for name in ("top_k", "top_p") if sampling.get(name) not in (None, 1, 1.0)]
    most = sampling.get("max_new_tokens")
    limit = [f"at most {formatting.count(most)} tokens"] if most else []
    return ", ".join([f"temperature {sampling.get('temperature', 1)}", *cuts, *limit])


def _took(card: Mapping[str, Any]) -> str:
    parts = [
        f"{formatting.count(card.get('tokens', 0))} tokens written",
        f"{formatting.count(card.get('prompt_tokens', 0))} read",
        formatting.duration(card.get("writing_seconds", 0)),
    ]
    parts += [f"cost {card['cost']:,.4f}"] if card.get("cost") else []
    return ", ".join(parts)


def _coverage(counts: Mapping[str, int]) -> str:
    """How evenly what is kept is spread."""
    if len(counts) <= 5:
        return ", ".join(f"{_short(name)} {formatting.count(number)}" for name, number in counts.items())
    fewest, most = min(counts.values()), max(counts.values())
    return f"{formatting.count(len(counts))} of them, each with {fewest} to {most} records kept"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."
