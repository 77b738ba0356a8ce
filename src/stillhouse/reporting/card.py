"""`student/README.md`: the model card, with the metadata that the Hugging Face hub reads."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.core.results import ROLE_TITLES, EvaluationResult, ModelResult
from stillhouse.core.task import Task
from stillhouse.reporting import formatting
from stillhouse.reporting.asked import asked_section, biases_measured
from stillhouse.reporting.contexts import context_lines
from stillhouse.reporting.figures import headline_figures
from stillhouse.reporting.html import write_whole
from stillhouse.reporting.layers import layers_sentence, start_distance
from stillhouse.reporting.markdown import escaped, fenced, table
from stillhouse.reporting.preferences import preference_lines
from stillhouse.reporting.quality import held_out_sentence
from stillhouse.reporting.replays import replay_lines
from stillhouse.reporting.shapes import truncated
from stillhouse.reporting.sources import learnt_sentence
from stillhouse.reporting.taught import taught_lines, unmeasured
from stillhouse.reporting.verdicts import (
    OTHERS,
    SHORT_TITLES,
    counted_documents,
    headline,
    metric_names,
    models_in_order,
    num_judged,
    verdicts,
)
from stillhouse.reporting.written import written_view

HUB_LICENCES = (
    *("apache-2.0", "mit", "openrail", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0"),
    *("cc", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0"),
    *("agpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "gemma", "llama2", "llama3", "llama3.1", "llama3.2"),
    *("llama3.3", "llama4", "unlicense", "unknown", "other"),
)
"""The identifiers that the hub knows; any other licence is `other` with its name beside it."""

PIPELINE_TAGS: Mapping[Task, str] = {
    "causal_lm": "text-generation",
    "masked_lm": "fill-mask",
    "sequence_classification": "text-classification",
    "regression": "text-classification",
    "reward": "text-classification",
    "token_classification": "token-classification",
    "sentence_embedding": "sentence-similarity",
}
"""What the hub offers to do with a model."""

NOT_MEASURED: Mapping[Task, str] = {
    "causal_lm": "Refusals, facts and safety were not measured.",
}
REFUSALS_MATCHED = "Refusals were counted by their words alone. Facts and safety were not measured."
NOT_MEASURED_OTHERWISE = "How fair it is to groups of people, and how it stands up to hostile text, was not measured."

SAMPLE_CHARACTERS = 600
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def write_card(
    path: str | os.PathLike[str],
    *,
    student_name: str,
    result: EvaluationResult,
    teacher: Mapping[str, Any],
    recipe_yaml: str,
    layers: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    licence: str | None,
) -> None:
    """Write the student's model card to `path`, whole or not at all.

    `teacher` may name its `model` (a hub id becomes the card's base model; a folder's path does not), a `name` to show
    instead, its `revision` and `output_terms`, what its licence says of training on its outputs.
    """
    card = render_card(
        student_name=student_name,
        result=result,
        teacher=teacher,
        recipe_yaml=recipe_yaml,
        layers=layers,
        data=data,
        licence=licence,
    )
    write_whole(Path(path), card)


def render_card(
    *,
    student_name: str,
    result: EvaluationResult,
    teacher: Mapping[str, Any],
    recipe_yaml: str,
    layers: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    licence: str | None,
) -> str:
    """The model card as one string of Markdown."""
    sections = [
        f"{metadata(teacher=teacher, licence=licence, task=result.task, results=_index(student_name, result))}\n"
        f"# {escaped(student_name)}",
        f"Distilled from {_teacher_words(teacher, result)} with stillhouse.\n\n{headline(result)}",
        figures_table(result),
        results_section(result),
        gains_section(result),
        _taught_section(result),
        _context_section(result),
        _replay_section(result),
        _preference_section(result),
        asked_section(result),
        _layers_section(layers),
        _data_section(data),
        _written_section(data.get("written") or {}),
        _samples_section(result),
        _limits_section(result, teacher, licence),
        _reproduce_section(recipe_yaml, result),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def metadata(
    *,
    teacher: Mapping[str, Any],
    licence: str | None,
    task: Task = "causal_lm",
    library: str | None = None,
    results: Sequence[str] = (),
) -> str:
    """The YAML block at the top. Every value is a JSON string, which YAML reads as it stands."""
    usual = "sentence-transformers" if task == "sentence_embedding" else "transformers"
    lines = ["---", f"library_name: {library or usual}", f"pipeline_tag: {PIPELINE_TAGS[task]}"]
    base_model = hub_id(teacher)
    if base_model is not None:
        lines.append(f"base_model: {_yaml(base_model)}")
    lines += _licence_lines(licence, str(teacher.get("licence_link") or ""))
    return "\n".join([*lines, "tags:", "- distillation", "- stillhouse", *results, "---"])


def _index(student_name: str, result: EvaluationResult) -> list[str]:
    """The student's numbers in the form that the hub shows beside a model."""
    student = result.model("student")
    finite = {} if student is None else {n: one for n, one in student.metrics.items() if math.isfinite(one.value)}
    if not finite:
        return []
    lines = [
        "metrics:",
        *(f"- {name}" for name in finite),
        "model-index:",
        f"- name: {_yaml(student_name)}",
        "  results:",
    ]
    lines += [f"  - task:\n      type: {PIPELINE_TAGS[result.task]}", "    dataset:\n      type: held-out"]
    lines += [f"      name: {_yaml(held_out_sentence(result))}", "    metrics:"]
    for name, one in finite.items():
        title = _yaml(f"{formatting.describe(name).title}, 95 % interval {formatting.bounds_text(one, '') or 'exact'}")
        lines += [f"    - type: {name}", f"      name: {title}", f"      value: {one.value:.6g}"]
    return lines


def hub_id(teacher: Mapping[str, Any]) -> str | None:
    """The teacher's id on the hub; None for a folder or a file."""
    model = str(teacher.get("model") or "")
    is_id = HUB_ID.fullmatch(model) is not None and not model.endswith(".gguf") and not Path(model).exists()
    return model if is_id else None


def _licence_lines(licence: str | None, link: str = "") -> list[str]:
    if not licence:
        return []
    identifier = licence.strip().lower()
    if identifier in HUB_LICENCES:
        return [f"license: {_yaml(identifier)}"]
    return ["license: other", f"license_name: {_yaml(licence)}", *([f"license_link: {_yaml(link)}"] if link else [])]


def _yaml(text: str) -> str:
    return json.dumps(formatting.one_line(text), ensure_ascii=False)


def _words(name: object) -> str:
    return escaped(str(name).replace("_", " "))


def _teacher_words(teacher: Mapping[str, Any], result: EvaluationResult) -> str:
    measured = result.model("teacher")
    name = teacher.get("name") or hub_id(teacher) or (measured.name if measured else "") or teacher.get("model")
    known = ((name, teacher.get(name)) for name in ("revision", "fingerprint"))
    parts = [f"{name} {escaped(str(value))}" for name, value in known if value]
    revision = f" ({', '.join(parts)})" if parts else ""
    return f"**{escaped(str(name or 'a teacher'))}**{revision}"


def figures_table(result: EvaluationResult) -> str:
    rows = [
        [figure.name, f"**{figure.value} %** {figure.bounds} {figure.label}", figure.detail]
        for figure in headline_figures(result)
    ]
    return table(["", "against its teacher", ""], rows, numbers=False) if rows else ""


def results_section(result: EvaluationResult) -> str:
    names = metric_names(result)
    is_encoder = any(model.cost.document_milliseconds is not None for model in result.models)
    speed = "a document, ms" if is_encoder else "decode, tokens/s"
    columns = ["model", *(_metric_heading(name) for name in names), "parameters", "on disk", speed]
    rows = [_result_row(model, names) for model in models_in_order(result)]
    note = f"On {held_out_sentence(result)}. Brackets hold 95 % intervals."
    roles = [
        f"*{SHORT_TITLES[model.role]}*: {ROLE_TITLES[model.role].removeprefix('control: ')}"
        for model in models_in_order(result)
        if model.role.startswith("control")
    ]
    legend = f" {'; '.join(roles)}." if roles else ""
    return f"## Results\n\n{table(columns, rows)}\n\n{note}{legend}"


def _metric_heading(name: str) -> str:
    metric = formatting.describe(name)
    return escaped(metric.title) + (" (lower is better)" if metric.better == "lower" else "")


def _result_row(model: ModelResult, names: Sequence[str]) -> list[str]:
    units = {name: formatting.describe(name).unit for name in names}
    cells = [
        formatting.interval_text(model.metrics[name], units[name]) if name in model.metrics else "" for name in names
    ]
    title = f"**{SHORT_TITLES[model.role]}**" if model.role == "student" else SHORT_TITLES[model.role]
    cost = model.cost
    speed = cost.decode_tokens_per_second or cost.document_milliseconds
    timed = "" if speed is None else formatting.interval_text(speed, "")
    return [title, *cells, formatting.si(cost.parameters), formatting.si(cost.disk_bytes, "B"), timed]


def gains_section(result: EvaluationResult) -> str:
    words = {"gain": "gain", "none": "no gain shown", "worse": "worse"}
    rows = [
        [
            f"{formatting.describe(row.metric).title}, over {SHORT_TITLES[other]}",
            formatting.difference_text(row.gain, formatting.describe(row.metric).unit),
            words[row.outcome],
        ]
        for other in OTHERS
        for row in verdicts(result, other)
    ]
    if not rows:
        return ""
    note = f"Paired over the same {counted_documents(result)}; positive means that the student is better."
    heading = "What the student gained" if result.made_here else "The student beside the others"
    return f"### {heading}\n\n{table(['metric', 'gain', 'verdict'], rows)}\n\n{note}"


def _context_section(result: EvaluationResult) -> str:
    if result.context is None:
        return ""
    lines = "\n".join(f"- {escaped(line)}" for line in context_lines(result.context))
    return f"## What the teacher alone had read\n\nIn the tables above, the teacher has read its context.\n\n{lines}"


def _taught_section(result: EvaluationResult) -> str:
    if result.taught is None:
        return ""
    said = [*taught_lines(result.taught), unmeasured(result.taught)]
    lines = "\n".join(f"- {escaped(line)}" for line in said)
    return f"## Beside the teacher's answers\n\n{lines}"


def _replay_section(result: EvaluationResult) -> str:
    if result.replay is None:
        return ""
    lines = "\n".join(f"- {escaped(line)}" for line in replay_lines(result.replay))
    return f"## On the replayed data\n\n{lines}"


def _preference_section(result: EvaluationResult) -> str:
    if result.preferences is None:
        return ""
    lines = "\n".join(f"- {escaped(line)}" for line in preference_lines(result.preferences))
    return f"## Which answers are preferred\n\nIn the tables above, what counts tokens is of the chosen answers.\n\n{lines}"


def _layers_section(layers: Mapping[str, Any] | None) -> str:
    if not layers:
        return ""
    start, alternatives = start_distance(layers), {**(layers.get("alternatives") or {})}
    alternatives.pop(layers.get("method"), None)
    tried = ", ".join(f"{_words(name)} {start.written(value)}" for name, value in alternatives.items()) if start else ""
    other_ways = f" Other ways of choosing would have left it at: {tried}." if tried else ""
    return f"## Layers kept\n\n{escaped(layers_sentence(layers))}{other_ways}"


def _data_section(data: Mapping[str, Any]) -> str:
    lines = [
        line
        for line in (
            _synthesised_line(data),
            *_source_lines(data),
            _train_line(data),
            _learnt_line(data),
            _labels_line(data),
        )
        if line
    ]
    return "## Data\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _synthesised_line(data: Mapping[str, Any]) -> str:
    synthesised = data.get("synthesised") or {}
    if not synthesised:
        return ""
    amounts = _amounts(synthesised.get("documents"), synthesised.get("tokens"))
    dropped: Mapping[str, int] = synthesised.get("dropped") or {}
    reasons = ", ".join(f"{_words(reason)} {formatting.count(number)}" for reason, number in dropped.items())
    return f"The teacher wrote the text itself: {amounts} kept" + (f"; dropped: {reasons}." if reasons else ".")


def _source_lines(data: Mapping[str, Any]) -> list[str]:
    """Where the data came from: names and hashes, so that the same can be known again."""
    return [
        f"Read from `{formatting.one_line(str(one['name'])).replace('`', '')}`, hash {escaped(str(one['hash']))}."
        for one in data.get("sources") or ()
    ]


def _train_line(data: Mapping[str, Any]) -> str:
    if data.get("train_documents") is None:
        return ""
    held_out = data.get("held_out_documents")
    apart = f"; {formatting.count(held_out)} documents were held out" if held_out is not None else ""
    return f"Trained on {_amounts(data['train_documents'], data.get('train_tokens'))}{apart}."


def _learnt_line(data: Mapping[str, Any]) -> str:
    return learnt_sentence(data["adapter"]) if data.get("adapter") else ""


def _labels_line(data: Mapping[str, Any]) -> str:
    labels = data.get("labels") or {}
    if not labels.get("signal"):
        return ""
    size = f", {formatting.si(labels['bytes'], 'B')}" if labels.get("bytes") is not None else ""
    return f"Signal read from the teacher: {_words(labels['signal'])}{size}."


def _amounts(documents: int | None, tokens: int | None) -> str:
    pairs = [(documents, "documents"), (tokens, "tokens")]
    return ", ".join(f"{formatting.count(number)} {unit}" for number, unit in pairs if number is not None)


def _written_section(card: Mapping[str, Any]) -> str:
    """Who wrote the data, and what the filters made of it."""
    view = written_view(card)
    if view is None:
        return ""
    rows = [[escaped(one.name), one.count, escaped(one.explanation)] for one in view.dropped]
    parts = [escaped(view.sentence)]
    if rows:
        parts.append(table(["filter", "dropped", "what it drops"], rows, numbers=False))
    if view.diversity:
        columns = [view.diversity.corner, *(title for title, _ in view.diversity.columns)]
        cells = [
            [row.title, *(f"{cell.value} {cell.below}".rstrip() for cell in row.cells)] for row in view.diversity.rows
        ]
        parts += [table([*map(escaped, columns)], cells), " ".join(map(escaped, view.notes))]
    facts = [f"- {escaped(group.title)}: {_fact_line(group.items)}" for group in view.facts]
    return "\n\n".join(["## How the data was written", *parts, *(["\n".join(facts)] if facts else [])])


def _fact_line(items: Sequence[tuple[str, str]]) -> str:
    return "; ".join(escaped(f"{name} {value}".strip()) for name, value in items)


def _samples_section(result: EvaluationResult) -> str:
    if not result.samples or "student" not in result.samples[0].continuations:
        return ""
    sample = result.samples[0]
    texts = [("Prompt", sample.prompt)]
    texts += [
        (SHORT_TITLES[role], sample.continuations[role])
        for role in ("student", "teacher")
        if role in sample.continuations
    ]
    blocks = [
        f"{title.capitalize()}:\n\n{fenced(truncated(text, SAMPLE_CHARACTERS)[0], 'text')}" for title, text in texts
    ]
    return "## Sample\n\nThe first of the evaluation's, not a chosen one.\n\n" + "\n\n".join(blocks)


def _limits_section(result: EvaluationResult, teacher: Mapping[str, Any], licence: str | None) -> str:
    biased = biases_measured(result)
    lines = [
        "The numbers hold for text like the held-out text; nothing here says how the student does on other text.",
        "What the teacher gets wrong, and its biases, the student was trained to repeat. "
        + (f"Some were looked for: {escaped(', '.join(biased))}." if biased else "They were not measured."),
        REFUSALS_MATCHED if "behaviour" in result.suites else NOT_MEASURED.get(result.task, NOT_MEASURED_OTHERWISE),
    ]
    if num_judged(result) < 100:
        lines.append(f"Measured on only {counted_documents(result)}: the intervals are wide.")
    terms = teacher.get("output_terms")
    lines.append(
        f"The teacher's terms on its outputs: {escaped(str(terms))}"
        if terms
        else "The teacher's licence may have terms on models that are trained on its outputs: read it before use."
    )
    if licence:
        lines.append(
            f"The teacher's licence is {escaped(licence)}. The student was made from it, so its terms bind the student too."
        )
    else:
        lines.append("No licence was found for the teacher, so none is given here.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _reproduce_section(recipe_yaml: str, result: EvaluationResult) -> str:
    machine = "; ".join(f"{escaped(str(name))}: {escaped(str(value))}" for name, value in result.machine.items())
    return (
        "## How to reproduce\n\nSave this as `recipe.yaml` and run `stillhouse distill recipe.yaml`:\n\n"
        f"{fenced(recipe_yaml, 'yaml')}" + (f"\n\nMeasured on: {machine}." if machine else "")
    )
