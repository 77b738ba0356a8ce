"""A teacher run by vLLM beside the same by transformers: tokens a second that it writes and labels, in turn, and how far apart
their labels are. In an environment with vLLM, or its build for CPUs.

    python benchmarks/vllm_teacher.py HuggingFaceTB/SmolLM2-135M-Instruct
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from stillhouse.core.protocols import Teacher
from stillhouse.core.signals import FactoredLogits, SparseLogprobs
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.labelling import Sparse
from stillhouse.models.generate import Sampling, Speaker, sample
from stillhouse.models.load import load_causal_lm
from stillhouse.teachers import LocalTeacher, LocalTeacherConfig
from stillhouse.teachers.hosted import VllmTeacher, begin_vllm

SENTENCE = (
    "In the morning the old man went down to the harbour, saw the boats, and asked a girl where the wind was from. "
)


def main() -> None:
    """Print one line for each thing that is done, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument(
        "--label-tokens", type=int, default=128, help="of each text that is labelled, a quarter as many"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    loaded = load_causal_lm(options.teacher)
    started = time.perf_counter()
    hosted = begin_vllm(LocalTeacherConfig(model=options.teacher, engine="vllm"))
    print(f"{torch.get_num_threads()} threads; vLLM began in {time.perf_counter() - started:.1f} s")
    ids = list(loaded.tokenizer(SENTENCE * 40)["input_ids"])
    prompts = [ids[number : number + 16 + number] for number in range(options.texts)]

    def write(model: Speaker, seed: int, temperature: float) -> int:
        sampling = Sampling(temperature=temperature, max_new_tokens=options.new_tokens)
        said = sample(model, prompts, sampling=sampling, seed=seed, stop_ids=set(), batch_size=options.texts)
        return sum(len(one.tokens) for one in said)

    texts = [ids[3 * number :][: options.label_tokens] for number in range(max(1, options.texts // 4))]
    batch = to_batch([[Example(tuple(text), (1.0,) * len(text))] for text in texts])
    vocab_size = len(loaded.tokenizer)
    recorder = Sparse(vocab_size)
    teachers: dict[str, Teacher] = {
        "transformers": LocalTeacher(loaded.model),
        "vLLM": VllmTeacher(hosted, vocab_size=vocab_size, top=recorder.most),
    }

    def label(name: str) -> int:
        recorder.record(teachers[name].signals(batch, recorder.wanted), batch.real, key="")
        return int(batch.real.sum())

    def drawn(seed: int) -> dict[str, Callable[[], int]]:
        return {"transformers": lambda: write(loaded.model, seed, 1.0), "vLLM": lambda: write(hosted, seed, 1.0)}

    def likeliest(seed: int) -> dict[str, Callable[[], int]]:
        return {"transformers": lambda: write(loaded.model, seed, 0.0), "vLLM": lambda: write(hosted, seed, 0.0)}

    def labelled(seed: int) -> dict[str, Callable[[], int]]:
        return {"transformers": lambda: label("transformers"), "vLLM": lambda: label("vLLM")}

    for what, both in {"writes, drawn": drawn, "writes, likeliest": likeliest, "labels": labelled}.items():
        timed(what, both, rounds=options.rounds)
    says = teachers["vLLM"].signals(batch, recorder.wanted).logits
    dense = teachers["transformers"].signals(batch, recorder.wanted).logits
    assert isinstance(says, SparseLogprobs) and isinstance(dense, FactoredLogits)
    best = dense.first(vocab_size).dense().log_softmax(-1)[:, :-1].topk(recorder.most)
    told = says.logprobs[:, :-1]
    same = (says.ids[:, :-1] == best.indices).float().mean()
    print(f"labels: largest difference {(told - best.values).abs().max():.1e} nats; ids at the same rank {same:.2%}")


def timed(what: str, both: Callable[[int], dict[str, Callable[[], int]]], *, rounds: int) -> None:
    """One after the other, over and over; the first time is not counted, as things are made then."""
    speeds: dict[str, list[float]] = {"transformers": [], "vLLM": []}
    for number in range(rounds + 1):
        for name, do in both(number).items():
            started = time.perf_counter()
            tokens = do()
            if number:
                speeds[name].append(tokens / (time.perf_counter() - started))
    ratios = [theirs / ours for ours, theirs in zip(speeds["transformers"], speeds["vLLM"], strict=True)]
    said = ", ".join(f"{name} {median(found):,.0f} tokens/s" for name, found in speeds.items())
    print(f"{what}: {said}; ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
