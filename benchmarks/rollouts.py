"""Tokens a second that a student writes for itself, beside TRL's GKD rollout: same prompts, same sampling.

Contenders take turns in every round, after a short one that warms up. A token counts up to the end of its answer, the end
included. How likely the drawn tokens are is held against what the model's own distribution expects: a faster rollout must not
draw from another.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from public_data import json_lines
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from stillhouse.data.rowset import pad
from stillhouse.evaluation.compare import machine
from stillhouse.models.generate import Sampling, sample, stop_ids_of
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.students.build import student_from_layers

Prompts = Sequence[Sequence[int]]
Rollout = Callable[[PreTrainedModel, Prompts, argparse.Namespace, int], list[list[int]]]
"""(student, prompts, options, seed) -> the tokens written after each prompt, without what pads them."""

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""`processor` is for a machine with other work to do: with one thread it is what the wall's clock shows on one without."""


def main() -> None:
    """Print one line a contender and question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=12, help="layers of the student; 0 lets the teacher itself write")
    parser.add_argument("--prompts", type=int, default=64, help="of one step")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=256, help="longer prompts are left out")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.9, help="TRL's default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--judged", type=int, default=16, help="answers whose likelihood is checked")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    teacher = load_causal_lm(options.teacher)
    layers = teacher.model.config.num_hidden_layers
    student = teacher.model
    if options.keep:
        student = student_from_layers(teacher.model, tuple(range(layers - options.keep, layers)))
        student.generation_config = teacher.model.generation_config
    student.eval()
    prompts = _prompts(options, teacher)
    about = machine()
    print(f"{len(prompts)} prompts, mean {statistics.mean(map(len, prompts)):.0f} tokens; {options.batch_size} at once")
    print(f"{about['processor']}, {about['threads']} threads, torch {about['torch']}")
    _compare(student, prompts, options)


def _prompts(options: argparse.Namespace, teacher: LoadedModel) -> list[list[int]]:
    """The first message of each dialogue, by the teacher's template, in the order of the file."""
    found = []
    for tree in json_lines(options.data / "instructions/oasst_en_100_trees.jsonl"):
        turn = [{"role": "user", "content": tree["prompt"]["text"]}]
        text = str(teacher.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        found.append(list(teacher.tokenizer(text, add_special_tokens=False)["input_ids"]))
    return [ids for ids in found if len(ids) <= options.prompt_tokens][: options.prompts]


def _stillhouse(student: PreTrainedModel, prompts: Prompts, options: argparse.Namespace, seed: int) -> list[list[int]]:
    sampling = Sampling(temperature=options.temperature, max_new_tokens=options.max_new_tokens)
    written = sample(student, prompts, sampling=sampling, seed=seed, batch_size=options.batch_size)
    return [one.tokens for one in written]


@torch.no_grad()
def _trl(student: PreTrainedModel, prompts: Prompts, options: argparse.Namespace, seed: int) -> list[list[int]]:
    """What GKDTrainer does in a step with lmbda 1, one micro-batch after another, with the settings that it gives itself."""
    from trl.experimental.gkd import GKDTrainer

    torch.manual_seed(seed)
    stops = stop_ids_of(student)
    settings: Any = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        pad_token_id=min(stops),
        eos_token_id=sorted(stops),
    )
    written = []
    for start in range(0, len(prompts), options.batch_size):
        ids, mask = _padded_on_the_left(prompts[start : start + options.batch_size])
        inputs = {"prompts": ids, "prompt_attention_mask": mask}
        tokens, real, _ = GKDTrainer.generate_on_policy_outputs(student, inputs, settings)
        answers = zip(tokens[:, ids.shape[1] :], real[:, ids.shape[1] :].bool(), strict=True)
        written += [answer[is_real].tolist() for answer, is_real in answers]
    return written


def _padded_on_the_left(prompts: Prompts) -> tuple[Tensor, Tensor]:
    ids, mask = (
        pad([list(reversed(row)) for row in rows], value=0).flip(-1)
        for rows in (prompts, [[1] * len(prompt) for prompt in prompts])
    )
    return ids, mask


ROLLOUTS: dict[str, Rollout] = {"stillhouse": _stillhouse, "trl": _trl}


def _compare(student: PreTrainedModel, prompts: Prompts, options: argparse.Namespace) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in ROLLOUTS}
    written: dict[str, list[list[int]]] = {}
    for rollout in ROLLOUTS.values():  # a short round that warms up
        rollout(student, prompts[:4], argparse.Namespace(**{**vars(options), "max_new_tokens": 4}), 0)
    for round_number in range(options.rounds):
        for name, rollout in ROLLOUTS.items():
            with _counting(student) as counted:
                started = CLOCKS[options.clock]()
                written[name] = rollout(student, prompts, options, round_number)
                seconds = CLOCKS[options.clock]() - started
            num_tokens = sum(map(len, written[name]))
            speeds[name].append(num_tokens / seconds)
            print(
                f"{name:<12} round {round_number + 1}: {num_tokens} tokens in {seconds:.1f} s; {counted.passes} passes over "
                f"{counted.positions} positions, {counted.positions / num_tokens:.2f} a token written",
                flush=True,
            )
    for name, found in speeds.items():
        ratios = sorted(mine / theirs for mine, theirs in zip(found, speeds["trl"], strict=True))
        print(
            f"{name:<12} {statistics.median(found):6.1f} tokens/s; {statistics.median(ratios):.2f} times TRL's "
            f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]; {_ends(written[name], student)}",
            flush=True,
        )
    for name, answers in written.items():
        print(f"{name:<12} {_likelihood(student, prompts, answers, options)}", flush=True)


@contextmanager
def _counting(model: PreTrainedModel) -> Iterator[SimpleNamespace]:
    """How often the model is run meanwhile, and over how many positions, padding included."""
    counted = SimpleNamespace(passes=0, positions=0)

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        counted.passes += 1
        counted.positions += kwargs["input_ids"].numel()

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        hook.remove()


def _ends(answers: Sequence[Sequence[int]], student: PreTrainedModel) -> str:
    stops = stop_ids_of(student)
    finished = sum(answer[-1] in stops for answer in answers) / len(answers)
    return f"{statistics.mean(map(len, answers)):.0f} tokens an answer, {finished:.0%} finished"


@torch.no_grad()
def _likelihood(
    student: PreTrainedModel, prompts: Prompts, answers: Sequence[Sequence[int]], options: argparse.Namespace
) -> str:
    """Mean log-likelihood of the drawn tokens beside its expectation, each of them given the tokens before it.

    Their differences have mean 0 whatever was drawn before, so the sum over its standard deviation is a z-score.
    """
    drawn, expected, variance, num_tokens = 0.0, 0.0, 0.0, 0
    for prompt, answer in list(zip(prompts, answers, strict=True))[: options.judged]:
        ids = torch.tensor([[*prompt, *answer]])
        logits = student(ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
        logprobs = (logits.double() / options.temperature).log_softmax(-1)
        probs = logprobs.exp()
        means = (probs * logprobs).sum(-1)
        drawn += float(logprobs.gather(-1, ids[0, len(prompt) :, None]).sum())
        expected += float(means.sum())
        variance += float((probs * (logprobs - means[:, None]) ** 2).sum())
        num_tokens += len(answer)
    return (
        f"drew {num_tokens} tokens of {drawn / num_tokens:.4f} nats each, where {expected / num_tokens:.4f} was to be "
        f"expected: z {(drawn - expected) / variance**0.5:+.2f}"
    )


if __name__ == "__main__":
    main()
