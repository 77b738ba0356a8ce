"""What the report and the card say of the data: what was synthesised, trained on, held out and stored."""

from collections.abc import Mapping
from typing import Any

from stillhouse.core.results import EvaluationResult
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Facts, truncated, words


def data_facts(data: Mapping[str, Any], result: EvaluationResult) -> list[Facts]:
    """What was synthesised, trained on, held out and stored."""
    groups = [
        Facts("Synthesised by the teacher", _synthesised_facts(data.get("synthesised") or {})),
        Facts("Trained on", _counted(data, {"train_documents": "documents", "train_tokens": "tokens"})),
        Facts("Replayed", _replayed_facts(data.get("replay") or {})),
        Facts("What learnt", _learnt_facts(data.get("adapter") or {})),
        Facts("Held out", _held_out_facts(result)),
        Facts("Seen in training, too", _contamination_facts(data.get("contamination") or {})),
        Facts("Teacher's signals", _label_facts(data.get("labels") or {})),
        Facts("Asked of the API", _remote_facts(data.get("remote") or {})),
    ]
    return [group for group in groups if group.items]


def _replayed_facts(replay: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not replay:
        return []
    facts = [("documents", formatting.count(replay["documents"]))]
    if replay.get("rows"):
        share = formatting.percent(replay["rows"] / replay["of_rows"], 1)
        facts.append(("rows an epoch", f"{formatting.count(replay['rows'])}, {share} of all"))
        facts.append(("of the tokens", formatting.percent(replay["token_share"], 1)))
    return facts


def learnt_sentence(adapter: Mapping[str, Any]) -> str:
    """How little of the student learnt, and what that takes on disk."""
    size = f"; the adapter alone takes {formatting.si(adapter['disk_bytes'], 'B')}" if adapter.get("disk_bytes") else ""
    return (
        f"{_learnt_count(adapter)} parameters learnt, in a {adapter['kind']} adapter of rank {adapter['rank']}{size}."
    )


def _learnt_count(adapter: Mapping[str, Any]) -> str:
    learnt, total = adapter["trainable_parameters"], adapter["parameters"]
    return f"{formatting.number(learnt)} of {formatting.number(total)} ({formatting.percent(learnt / total, 2)})"


def _learnt_facts(adapter: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not adapter:
        return []
    facts = [("adapter", f"{adapter['kind']}, rank {adapter['rank']}"), ("parameters", _learnt_count(adapter))]
    if adapter.get("disk_bytes"):
        facts.append(("on disk", formatting.si(adapter["disk_bytes"], "B")))
    return facts


def _synthesised_facts(synthesised: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = _counted(synthesised, {"documents": "documents kept", "tokens": "tokens"})
    dropped: Mapping[str, int] = synthesised.get("dropped") or {}
    facts += [(f"dropped: {words(reason)}", formatting.count(amount)) for reason, amount in dropped.items()]
    seconds = synthesised.get("seconds")
    if seconds:
        facts.append(("time", formatting.duration(seconds)))
        if synthesised.get("tokens"):
            facts.append(("speed", f"{formatting.significant(synthesised['tokens'] / seconds)} tokens/s"))
    return facts


def _held_out_facts(result: EvaluationResult) -> list[tuple[str, str]]:
    held_out = result.held_out
    are_sentences = result.task == "sentence_embedding"
    facts = [("sentences" if are_sentences else "documents", formatting.count(held_out.documents))]
    facts.append(("tokens", formatting.count(held_out.tokens)))
    if held_out.answers is not None:
        facts.append(("scored pairs" if are_sentences else "judged tokens", formatting.count(held_out.answers)))
    if held_out.bytes is not None:
        facts.append(("text", formatting.si(held_out.bytes, "B")))
    return facts


def _contamination_facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each set of texts to judge by, how many have a run of words in common with the training data."""
    facts = []
    for one in found.get("sets", ()):
        told = f"{formatting.count(one['found'])} of {formatting.count(one['looked_for'])}"
        if one["looked_for"]:
            told += f", {formatting.percent(one['found'] / one['looked_for'], 1)}"
        if short := one["texts"] - one["looked_for"]:
            told += f"; {formatting.count(short)} too short to tell"
        facts.append((truncated(formatting.one_line(one["name"]), 40)[0], told))
        if one["example"]:
            facts.append(("such as", truncated(formatting.one_line(one["example"]), 90)[0]))
    if facts:
        facts.append(
            ("counted", f"{found['words']} words in a row, or all of a text from {found['shortest']} words on")
        )
    return facts


def _label_facts(labels: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("signal", words(labels["signal"]))] if labels.get("signal") else []
    if labels.get("bytes") is not None:
        facts.append(("on disk", formatting.si(labels["bytes"], "B")))
    if labels.get("bytes_per_token") is not None:
        facts.append(("per token", formatting.si(labels["bytes_per_token"], "B")))
    if labels.get("seconds") is not None:
        facts.append(("time", formatting.duration(labels["seconds"])))
    return facts


def _counted(values: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(title, formatting.count(values[name])) for name, title in titles.items() if values.get(name) is not None]


def _remote_facts(remote: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a teacher behind an API took, in all stages together."""
    facts = [("tokens read and written", formatting.count(remote["tokens"]))] if remote else []
    if "cost" in remote:
        facts.append(("cost", f"{remote['cost']:,.4f} {remote['currency']}"))
    return facts
