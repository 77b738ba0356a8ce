"""Everything that `stillhouse evaluate` asks of two real models, on public data, as tables.

    python benchmarks/evaluation.py TEACHER STUDENT DATA --baseline MODEL

Any language models of one tokenizer: runs/demo/student and, as a baseline, its control, which no teacher taught. Held-out
text is short stories; tasks are BLiMP, PIQA and BBQ; prompts are XSTest's. A run that was stopped goes on where it was.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from public_data import json_lines, write_jsonl
from seeds import machine
from transformers.utils.logging import disable_progress_bar

from stillhouse import evaluate_models
from stillhouse.core.files import read_lines
from stillhouse.core.measures import MEASURES
from stillhouse.core.results import METRICS, EvaluationResult, Flips
from stillhouse.core.suite_results import found_by
from stillhouse.core.tasks import TasksFound
from stillhouse.reporting import terminal_progress

SUITES = ("behaviour", "tasks", "similarity", "calibration")
SHARES = {name for name, metric in {**METRICS, **MEASURES}.items() if metric.unit == "share"}


def main() -> None:
    """Measure, and print one table a suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--baseline", action="append", default=[])
    parser.add_argument("--stories", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=20, help="of each of BLiMP's phenomena")
    parser.add_argument("--questions", type=int, default=32, help="of PIQA, and of BBQ")
    parser.add_argument("--prompts", type=int, default=32, help="of XSTest: teacher and student alone are asked")
    parser.add_argument("--answer-tokens", type=int, default=48)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-evaluation"))
    options = parser.parse_args()
    disable_progress_bar()
    result = evaluate_models(
        options.student,
        teacher=options.teacher,
        data=stories(options),
        baselines=options.baseline,
        suites=SUITES,
        overrides=[
            "data.sequence_tokens=256",
            *(f"evaluation.{name}={value}" for name, value in settings(options).items()),
        ],
        out=options.runs / "evaluation",
        progress=terminal_progress(),
    )
    held_out = result.held_out
    print(f"\n{held_out.documents} stories, {held_out.tokens:,} tokens; {machine(result)}\n")
    print_tables(read_lines(options.runs / "evaluation/metrics.jsonl"))
    print_flips(result)
    print_costs(result)


def stories(options: argparse.Namespace) -> Path:
    """The first short stories of the public data."""
    text = (options.data / "lm/tinystories_v2_sample.txt").read_text(encoding="utf-8")
    found = [story.strip() for story in text.split("<|endoftext|>") if story.strip()][: options.stories]
    return write_jsonl(options.runs / "stories.jsonl", ({"text": story} for story in found))


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Of each suite, as overrides write it."""
    data: Path = options.data
    for file in sorted((data / "multiple_choice").glob("blimp_*.jsonl.gz")):
        pairs = list(json_lines(file))[: options.pairs]
        write_jsonl(options.runs / "blimp" / file.name.removeprefix("blimp_").removesuffix(".gz"), pairs)
    piqa = data / "multiple_choice/piqa_valid.jsonl"
    choosing = f"{{kind: multiple_choice, path: {piqa}, answers_path: {piqa.with_name('piqa_valid-labels.lst')}, "
    choosing += (
        f'name: PIQA, prompt: "Question: {{goal}}\\nAnswer:", choices: [sol1, sol2], limit: {options.questions}}}'
    )
    bbq = f"{{kind: bbq, path: {data / 'behaviour/bbq_physical_appearance.jsonl.gz'}, name: BBQ, limit: {options.questions}}}"
    drawn = f"{{temperature: 0.7, top_p: 0.95, max_new_tokens: {options.answer_tokens}}}"
    asked = f"prompts: {data / 'behaviour/xstest_half_a.csv'}, most_prompts: {options.prompts}, models: [student]"
    return {
        "tasks": f"[{{kind: minimal_pairs, path: {options.runs / 'blimp'}, name: BLiMP}}, {choosing}, {bbq}]",
        "behaviour": f"{{{asked}, sampling: {drawn}}}",
        "similarity": f"{{prompts: {min(16, options.stories)}, max_new_tokens: {options.answer_tokens}}}",
    }


def print_tables(lines: Iterable[Mapping[str, Any]]) -> None:
    """A table a suite: a row a number, a column a model or two beside each other."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for line in lines:
        if "evaluated" in line:
            row = ", ".join(part for part in (line["metric"], line.get("on", "")) if part)
            number = written(line, is_share=line["metric"].partition(",")[0] in SHARES)
            tables.setdefault(line.get("suite", "language"), {}).setdefault(row, {})[line["evaluated"]] = number
    for suite, rows in tables.items():
        who = list(dict.fromkeys(name for row in rows.values() for name in row))
        print(f"| {suite} | {' | '.join(who)} |\n|---|{'---:|' * len(who)}")
        for name, found in rows.items():
            print(f"| {name} | {' | '.join(found.get(one, '') for one in who)} |")
        print()


def written(line: Mapping[str, float], *, is_share: bool) -> str:
    """Such as `0.412 [0.380, 0.441]`; a share in per cent."""
    times, digits = (100, 1) if is_share else (1, 3)
    value, low, high = (f"{times * line[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def print_flips(result: EvaluationResult) -> None:
    """Which answers changed."""
    found = found_by(result)["tasks"]
    assert isinstance(found, TasksFound)
    for task in found.tasks:
        for one in task.scored:
            if isinstance(one.flips, Flips):
                lost, won, p_value = one.flips.lost, one.flips.won, one.flips.p_value
                print(f"{task.name}, {one.role}: {task.examples} questions, lost {lost}, won {won}, p = {p_value:.2g}")


def print_costs(result: EvaluationResult) -> None:
    """What each model costs."""
    for model in result.models:
        cost = model.cost
        timed = {
            "prefill": cost.prefill_tokens_per_second,
            "decode": cost.decode_tokens_per_second,
            "ms a token": cost.token_milliseconds,
            "ms of a slow one": cost.slow_token_milliseconds,
        }
        said = ", ".join(
            f"{name} {one.value:.1f} [{one.low:.1f}, {one.high:.1f}]" for name, one in timed.items() if one
        )
        flops = f"{(cost.flops_per_token or 0) / 1e6:.0f} MFLOPs a token"
        disk, peak = (f"{count / 2**20:.0f} MiB" for count in (cost.disk_bytes, cost.peak_bytes or 0))
        print(f"{model.role}: {cost.parameters / 1e6:.1f} M, {disk} on disk, {peak} at the peak, {flops}, {said}")


if __name__ == "__main__":
    main()
