"""Loss on the old domain and on the new, with replay and without: stories are taught, dialogues are what may be forgotten.

Some of a chat model's layers are distilled on short stories alone, or with a share of the rows from people's dialogues. Every
student has the same start and sees the same stories once; replayed rows come on top of them. With a share of 0 the dialogues
are only measured. Seeds differ in the order of the rows.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from public_data import json_lines, write_jsonl
from seeds import machine, mean, run

from stillhouse.core.results import EvaluationResult, Interval, Role
from stillhouse.data.packing import to_batch
from stillhouse.data.text import read_rows, to_examples
from stillhouse.models.load import load_causal_lm
from stillhouse.students.layer_choice import choose_layers

CALIBRATION_TOKENS = 256


def main() -> None:
    """Print a few lines for each share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=15, help="layers of the student")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.1, 0.3])
    parser.add_argument("--stories", type=int, default=40, help="to learn, each once")
    parser.add_argument("--held-out", type=int, default=16, help="stories that nobody learns")
    parser.add_argument("--dialogues", type=int, default=80, help="a fifth of them held out")
    parser.add_argument("--characters", type=int, default=800, help="longer stories and dialogues are left out")
    parser.add_argument("--sequence-tokens", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-replay"))
    options = parser.parse_args()
    write_data(options)
    options.layers = kept_layers(options)
    for share in options.shares:
        _print(f"{share:.0%} replayed", [_distil(options, share, seed) for seed in range(options.seeds)])


def write_data(options: argparse.Namespace) -> None:
    """Stories to learn, stories held out, and dialogues: a question of a person and the first answer of another."""
    text = (options.data / "lm/tinystories_v2_sample.txt").read_text(encoding="utf-8")
    stories = _short(options, dict.fromkeys(story.strip() for story in text.split("<|endoftext|>")))
    wanted = options.stories + options.held_out
    if len(stories) < wanted:
        raise SystemExit(f"{len(stories)} stories have at most {options.characters} characters: {wanted} wanted.")
    for name, some in (("stories", stories[: options.stories]), ("held-out", stories[options.stories : wanted])):
        write_jsonl(options.runs / f"{name}.jsonl", ({"text": story} for story in some))
    dialogues = {f"{one['prompt']}\n{one['completion']}": one for one in _dialogues(options.data)}
    chosen = _short(options, dialogues)[: options.dialogues]
    write_jsonl(options.runs / "dialogues.jsonl", (dialogues[text] for text in chosen))


def _short(options: argparse.Namespace, texts: Iterable[str]) -> list[str]:
    found = [text for text in texts if 0 < len(text) <= options.characters]
    Random(0).shuffle(found)
    return found


def _dialogues(data: Path) -> Iterator[dict[str, str]]:
    for tree in json_lines(data / "instructions/oasst_en_100_trees.jsonl"):
        for reply in tree["prompt"].get("replies") or ():
            yield {"prompt": tree["prompt"]["text"], "completion": reply["text"]}


def kept_layers(options: argparse.Namespace) -> list[int]:
    """The same layers for every student, chosen on stories."""
    teacher = load_causal_lm(options.teacher)
    rows = read_rows(options.runs / "stories.jsonl")
    examples = to_examples(rows, teacher.tokenizer, max_tokens=CALIBRATION_TOKENS)[:1]
    batch = to_batch([examples])
    return list(choose_layers(teacher.model, batch, keep=options.keep, method="block_influence").kept)


def _distil(options: argparse.Namespace, share: float, seed: int) -> EvaluationResult:
    return run(
        options.runs / f"share-{share}-{seed}",
        seed=seed,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": options.layers},
        data={
            "path": str(options.runs / "stories.jsonl"),
            "held_out_path": str(options.runs / "held-out.jsonl"),
            "sequence_tokens": options.sequence_tokens,
        },
        replay={"path": str(options.runs / "dialogues.jsonl"), "kind": "chat", "share": share, "held_out": 0.2},
        objectives=[{"name": "forward_kl", "weight": 0.9}, {"name": "next_token", "weight": 0.1}],
        training={
            "epochs": 1,
            "learning_rate": options.learning_rate,
            "rows_per_step": 4,
            "rows_per_micro_batch": 4,
        },
        evaluation={"control": "none", "samples": 0},
    )


def _print(title: str, results: Sequence[EvaluationResult]) -> None:
    first = results[0]
    assert first.replay is not None
    print(
        f"\n{title}: {first.held_out.documents} held-out stories, {first.replay.documents} dialogues; {machine(first)}"
    )
    for role in ("teacher", "student_before", "student"):
        shown = results if role == "student" else results[:1]
        for metric, unit in (("bits_per_byte", "bits a byte"), ("forward_kl", "nats from the teacher")):
            new, old = ([_metric(result, role, metric, where) for result in shown] for where in ("new", "old"))
            print(f"  {role:<15} {unit:<22} stories {_said(new)}   dialogues {_said(old)}", flush=True)
    changes = [found.change for result in results if result.replay and (found := result.replay.model("student"))]
    said = ", ".join(f"{100 * c.value:+.1f} % [{100 * c.low:+.1f}, {100 * c.high:+.1f}]" for c in changes if c)
    print(f"  bits per byte of dialogues over the student's before training: {said}", flush=True)


def _metric(result: EvaluationResult, role: Role, metric: str, where: str) -> Interval:
    assert result.replay is not None
    found = result.model(role) if where == "new" else None
    old = result.replay.model(role)
    assert old is not None
    return old.metrics[metric] if found is None else found.metrics[metric]


def _said(intervals: Sequence[Interval]) -> str:
    """Each seed's, and their mean where there are several."""
    each = ", ".join(f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in intervals)
    return each if len(intervals) == 1 else f"{mean(intervals):.3f}: {each}"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
