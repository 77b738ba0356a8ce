"""Stored labels: bytes a token against the error of the student's gradient, and what reading them costs in training.

The gradient is forward KL's over all tokens, dense beside sparse. `states` is its error at the head's input, token by token;
`head` at the head's weights and `all` at every parameter, where what is right on average cancels out and a bias does not.
"""

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.protocols import Teacher
from stillhouse.core.signals import FactoredLogits, SampledTokens, Signals, SparseLogprobs, Wanted
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.data.text import Row, to_examples
from stillhouse.kernels.terms import Term
from stillhouse.labelling import Recorder, Sampled, Sparse, States, label
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.models.signals import factored_logits
from stillhouse.objectives.sparse import renormalised
from stillhouse.students.build import student_from_layers
from stillhouse.teachers import LocalTeacher, StoredTeacher
from stillhouse.training.loss import distillation_loss

PEERS = {50: 114.0, 128: 300.0}
"""DistillKit's bytes a token, as published, by k. It keeps no bucket; we lend it an exact one to be compared with."""
THRESHOLDS = (2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 3e-4)
DRAWS = (12, 25, 50, 100)
CHUNK_TOKENS = 64


def main() -> None:
    """Print one line a setting, then the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("text", type=Path, help="a text file; <|endoftext|> or an empty line ends a document")
    parser.add_argument("--tokens", type=int, default=4_000)
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--rows", type=int, default=4, help="rows of a training step")
    parser.add_argument("--steps", type=int, default=5, help="training steps that are timed; 0 times none")
    parser.add_argument("--timed", nargs="+", default=["sparse", "sampled", "last_hidden"])
    parser.add_argument("--near", type=float, default=0.3, help="also a student so far from the teacher's last states")
    parser.add_argument(
        "--no-parameters", action="store_true", help="leave `all` out: a pass through the student a setting"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    loaded = load_causal_lm(options.teacher)
    student = student_from_layers(loaded.model, range(0, loaded.model.config.num_hidden_layers, 2))
    examples = _examples(options.text, loaded, tokens=options.tokens, row_tokens=options.row_tokens)
    rows = PackedRows(examples, row_tokens=options.row_tokens)
    print(
        f"{sum(len(example.ids) for example in examples):,} tokens of {options.text.name}, {torch.get_num_threads()} threads"
    )
    with tempfile.TemporaryDirectory() as folder:
        teacher = Remembering(LocalTeacher(loaded.model))
        bench = Bench(teacher, student, examples, rows, Path(folder), len(loaded.tokenizer), not options.no_parameters)
        bench.errors(near=options.near)
        if options.steps:
            bench.times(options.timed, rows_per_step=options.rows, steps=options.steps)


def _examples(path: Path, loaded: LoadedModel, *, tokens: int, row_tokens: int) -> list[Example]:
    text = path.read_text(encoding="utf-8")
    documents = text.split("<|endoftext|>" if "<|endoftext|>" in text else "\n\n")
    found: list[Example] = []
    for document in filter(None, map(str.strip, documents)):
        found += to_examples([Row(document, finished=True)], loaded.tokenizer, max_tokens=row_tokens)
        if sum(len(example.ids) for example in found) >= tokens:
            break
    return found


class Remembering:
    """A teacher that answers the same question only once: every setting stores the same answers."""

    def __init__(self, teacher: LocalTeacher) -> None:
        self.teacher = teacher
        self._answers: dict[bytes, Signals] = {}

    @property
    def vocab_size(self) -> int:
        """The teacher's own."""
        return self.teacher.vocab_size

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """What the teacher said the first time."""
        question = repr((sorted(wanted.hidden_states), batch.ids.tolist())).encode()
        if question not in self._answers:
            self._answers[question] = self.teacher.signals(batch, wanted)
        return self._answers[question]


FORWARD_KL = Term("forward_kl")
Said = SparseLogprobs | SampledTokens | FactoredLogits


@dataclass(frozen=True)
class Setting:
    """A form in which answers are kept."""

    name: str
    bytes_per_token: float
    said: Said


@dataclass
class Bench:
    """Teacher, student and text, and where stores are written."""

    teacher: Remembering
    student: PreTrainedModel
    examples: Sequence[Example]
    rows: PackedRows
    folder: Path
    vocab_size: int
    with_parameters: bool

    def errors(self, *, near: float) -> None:
        """Print what each setting takes and how far its gradient is from the dense one."""
        batch = next(iter(self.rows.batches(len(self.rows))))
        settings = list(self._settings(batch))
        theirs = _factored(self.teacher, batch).at(batch.real)
        answer = factored_logits(self.student, batch)
        ours = answer.at(batch.real)
        for name, hidden in {
            "every other layer": ours.hidden,
            f"{near:.0%} of the way to it": torch.lerp(theirs.hidden, ours.hidden.detach(), near),
        }.items():
            gradients = Gradients(replace(ours, hidden=hidden), self.student, self.vocab_size)
            found = {
                setting.name: gradients.errors(setting, theirs, whole=self.with_parameters and hidden.requires_grad)
                for setting in settings
            }
            print(f"\na student of {name}\n{'':<26}{'B/token':>9}{'states':>9}{'head':>9}{'all':>9}")
            for setting in settings:
                figures = "".join(f"{error:>9.4f}" for error in found[setting.name])
                print(f"{setting.name:<26}{setting.bytes_per_token:>9.1f}{figures}", flush=True)
            _print_verdicts(settings, found)

    def _settings(self, batch: Batch) -> Iterator[Setting]:
        logits = _factored(self.teacher, batch)
        for k, published in PEERS.items():
            said = _exact(logits, k, self.vocab_size).at(batch.real)
            yield Setting(f"peer: {k}, renormalised", published, renormalised(said))
            yield Setting(f"peer: {k} and exact bucket", published, said)
        for threshold in THRESHOLDS:
            yield self._stored(f"sparse, p >= {threshold:g}", Sparse(self.vocab_size, threshold, 2048), batch)
        for k in (10, *PEERS):
            yield self._stored(f"sparse, {k} tokens", Sparse(self.vocab_size, 0.0, k), batch)
        for draws in DRAWS:
            yield self._stored(f"sampled, {draws} draws", Sampled(self.vocab_size, draws), batch)
        for bits in (16, 8):
            yield self._stored(f"last hidden, {bits} bits", States(bits), batch)
        ten = self._stored("sparse, 10, renormalised", Sparse(self.vocab_size, 0.0, 10), batch)
        assert isinstance(ten.said, SparseLogprobs)
        yield replace(ten, said=renormalised(ten.said))

    def _stored(self, name: str, recorder: Recorder, batch: Batch) -> Setting:
        store, bytes_per_token = self.store(recorder)
        logits = store.signals(batch, Wanted(logits=True)).logits
        assert isinstance(logits, Said)
        return Setting(name, bytes_per_token, logits.at(batch.real))

    def store(self, recorder: Recorder) -> tuple[StoredTeacher, float]:
        """The text, labelled so, and what it takes."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        row_tokens = self.rows.row_tokens
        outcome = label(self.teacher, self.examples, folder, made_from="text", row_tokens=row_tokens, recorder=recorder)
        return StoredTeacher(folder), outcome.bytes_per_token

    def times(self, signals: Iterable[str], *, rows_per_step: int, steps: int) -> None:
        """Print what reading costs beside a training step, and a step from the store beside one with the live teacher."""
        batches = itertools.cycle(list(self.rows.batches(rows_per_step)))
        recorders: Mapping[str, Recorder] = {
            "sparse": Sparse(self.vocab_size),
            "sampled": Sampled(self.vocab_size),
            "last_hidden": States(),
        }
        teachers: dict[str, Teacher] = {"live": self.teacher.teacher}
        teachers |= {signal: self.store(recorders[signal])[0] for signal in signals}
        seconds: dict[str, list[float]] = {name: [] for name in teachers}
        reading: dict[str, list[float]] = {name: [] for name in teachers}
        for step in range(steps + 1):
            batch = next(batches)
            for name, teacher in teachers.items():
                taken = _seconds(partial(self._step, teacher, batch))
                read = _seconds(partial(teacher.signals, batch, Wanted(logits=True)))
                if step > 0:  # the first is the warm-up
                    seconds[name].append(taken)
                    reading[name].append(read)
        print(f"\n{'a step from':<14}{'seconds':>9}{'reading':>9}{'share':>9}   times the speed of the live teacher's")
        for name in teachers:
            ratios = sorted(live / own for live, own in zip(seconds["live"], seconds[name], strict=True))
            taken, read = statistics.median(seconds[name]), statistics.median(reading[name])
            print(
                f"{name:<14}{taken:>9.3f}{read:>9.4f}{read / taken:>9.2%}   "
                f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
            )

    def _step(self, teacher: Teacher, batch: Batch) -> None:
        loss, _ = distillation_loss(
            self.student.train(), batch, teacher=teacher, terms=[FORWARD_KL], vocab_size=self.vocab_size
        )
        loss.backward()
        self.student.zero_grad()


class Gradients:
    """The gradients of a student whose answers are known."""

    def __init__(self, answer: FactoredLogits, student: PreTrainedModel, vocab_size: int) -> None:
        self.answer, self.student, self.vocab_size = answer, student, vocab_size
        self._dense: tuple[Tensor, Tensor] | None = None

    def errors(self, setting: Setting, teacher: FactoredLogits, *, whole: bool) -> tuple[float, float, float]:
        """How far the gradient is from the dense one, as a share of its length: at states, head, and all parameters."""
        if self._dense is None:
            self._dense = self._gradients(teacher)
        differences = [mine - dense for mine, dense in zip(self._gradients(setting.said), self._dense, strict=True)]
        states, head = (
            float(difference.norm() / dense.norm()) for difference, dense in zip(differences, self._dense, strict=True)
        )
        everything = self._through(differences) / self._through(self._dense) if whole else math.nan
        return states, head, everything

    def _gradients(self, said: Said) -> tuple[Tensor, Tensor]:
        """At the head's input, token by token, and at its weights."""
        hidden, weight = self.answer.hidden.detach(), self.answer.weight.detach()
        states, head = torch.zeros_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            where = torch.zeros(len(hidden), dtype=torch.bool)
            where[start : start + CHUNK_TOKENS] = True
            part = said.at(where)
            target = part.first(self.vocab_size).dense() if isinstance(part, FactoredLogits) else part
            leaf = self.answer.at(where).first(self.vocab_size).dense().detach().requires_grad_()
            (slope,) = torch.autograd.grad(FORWARD_KL.values(leaf, target, None).sum(), leaf)
            states[where] = slope @ weight[: self.vocab_size]
            head[: self.vocab_size].addmm_(slope.T, hidden[where])
        return states, head

    def _through(self, gradients: Sequence[Tensor]) -> float:
        """The length, at all parameters, of what these gradients at states and head become there."""
        parameters = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        outputs = [self.answer.hidden, self.answer.weight * 1]
        found = torch.autograd.grad(outputs, parameters, list(gradients), retain_graph=True, allow_unused=True)
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in found if gradient is not None))


def _factored(teacher: Teacher, batch: Batch) -> FactoredLogits:
    logits = teacher.signals(batch, Wanted(logits=True)).logits
    assert isinstance(logits, FactoredLogits)
    return logits


def _exact(logits: FactoredLogits, k: int, vocab_size: int) -> SparseLogprobs:
    """The k likeliest tokens of every position and one bucket, in full precision."""
    parts = []
    for hidden in logits.hidden.flatten(0, 1).split(CHUNK_TOKENS):
        logprobs = replace(logits, hidden=hidden).first(vocab_size).dense().log_softmax(-1)
        best, ids = logprobs.topk(k)
        parts.append((ids, best, logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1)))
    ids, best, tail = (torch.cat(part).unflatten(0, logits.hidden.shape[:2]) for part in zip(*parts, strict=True))
    return SparseLogprobs(ids, best, tail, vocab_size)


def _print_verdicts(settings: Sequence[Setting], found: Mapping[str, tuple[float, float, float]]) -> None:
    """Bytes that a support chosen per token takes at the error of each peer, between the two nearest thresholds."""
    own = [(found[s.name], s.bytes_per_token) for s in settings if s.name.startswith("sparse, p")]
    for k, published in PEERS.items():
        wanted = found[f"peer: {k} and exact bucket"]
        for place, name in enumerate(("states", "head", "all")):
            curve = sorted((math.log(errors[place]), math.log(size)) for errors, size in own if errors[place] > 0)
            between = _between(curve, math.log(wanted[place])) if wanted[place] > 0 else None
            if between is not None:
                size = math.exp(between)
                print(f"at the error of {k} tokens ({name}): {size:.0f} B, {size / published:.2f} of {published:.0f} B")


def _between(curve: Sequence[tuple[float, float]], at: float) -> float | None:
    """The curve's value there, on a straight line between its neighbours; None beyond its ends."""
    for (left, low), (right, high) in itertools.pairwise(curve):
        if left <= at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return None


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
