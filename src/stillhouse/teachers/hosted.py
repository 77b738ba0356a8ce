"""A teacher that vLLM runs: what it tells of texts are the likeliest tokens."""

from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.core.batch import Batch
from stillhouse.core.signals import Signals, SparseLogprobs, Wanted
from stillhouse.models.load import load_causal_lm, load_tokenizer, seen_by_all
from stillhouse.models.vllm_engine import VllmModel
from stillhouse.teachers.config import TeacherConfig
from stillhouse.teachers.hands import Spoken, Voice
from stillhouse.teachers.local import LocalTeacherConfig
from stillhouse.teachers.stored import documents_of, in_place
from stillhouse.teachers.told import LEAST_TAIL


class VllmTeacher:
    """A teacher known by the `top` likeliest tokens of each place. What comes behind a text's last token nobody learns, and it
    does not say."""

    def __init__(self, model: VllmModel, *, vocab_size: int, top: int) -> None:
        """`vocab_size` is the tokenizer's: what pads a head beyond it goes to all other tokens."""
        self.model, self.vocab_size, self.top = model, vocab_size, top

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """Sparse log-probabilities at every position of the batch: all that vLLM tells."""
        assert not wanted.hidden_states and not wanted.attentions and wanted.pooling is None, "only tokens are told"
        told = [
            (torch.cat([ids, ids.new_zeros(1, ids.shape[1])]), torch.cat([logprobs, _nothing(logprobs)]))
            for ids, logprobs in self.model.likeliest(list(documents_of(batch)), self.top)
        ]
        ids = torch.cat([ids for ids, _ in told])
        logprobs = torch.cat([logprobs for _, logprobs in told])
        logprobs = logprobs.masked_fill(ids >= self.vocab_size, -torch.inf)
        tails = self._tails(logprobs)
        ids = ids.where(logprobs > -torch.inf, 0)
        return Signals(
            SparseLogprobs(
                in_place(batch, ids, 0),
                in_place(batch, logprobs, -torch.inf),
                in_place(batch, tails, 0.0),
                self.vocab_size,
            )
        )

    def _tails(self, logprobs: Float[Tensor, "tokens k"]) -> Float[Tensor, " tokens"]:
        """What all other tokens add up to."""
        rest = (1 - logprobs.double().exp().sum(-1)).clamp(min=LEAST_TAIL).log().float()
        is_whole = (logprobs > -torch.inf).sum(-1) >= self.vocab_size
        return rest.masked_fill(is_whole, -torch.inf)


def _nothing(logprobs: Float[Tensor, "places k"]) -> Float[Tensor, "1 k"]:
    return logprobs.new_full((1, logprobs.shape[1]), -torch.inf)


def is_hosted(teacher: object) -> TypeGuard[LocalTeacherConfig]:
    """Whether vLLM runs it while it writes and labels."""
    return isinstance(teacher, LocalTeacherConfig) and teacher.engine == "vllm"


def by_vllm(teacher: LocalTeacherConfig) -> list[str]:
    """What texts and labels depend on besides the teacher's files."""
    return [teacher.engine, teacher.precision]


def hosted_elsewhere(teacher: LocalTeacherConfig) -> LocalTeacherConfig:
    """The same, by what other processes find the model by."""
    return teacher.model_copy(update={"model": seen_by_all(teacher.model)})


def begin_vllm(teacher: LocalTeacherConfig) -> VllmModel:
    """vLLM with the teacher.

    Raises:
        ModelError: if it cannot run it.
    """
    precision = torch.bfloat16 if teacher.precision == "bfloat16" else torch.float32
    return VllmModel(seen_by_all(teacher.model), dtype=precision, tensor_parallel=teacher.tensor_parallel)


def voice_elsewhere(teacher: TeacherConfig) -> Callable[[], Spoken]:
    """What lets another process write as the teacher, by whichever engine."""
    if is_hosted(teacher):
        return partial(hosted_voice, hosted_elsewhere(teacher))
    return partial(load_causal_lm, seen_by_all(teacher.model))


def hosted_voice(teacher: LocalTeacherConfig) -> Voice:
    """Who writes."""
    return Voice(begin_vllm(teacher), load_tokenizer(teacher.model))


def hosted_teacher(teacher: LocalTeacherConfig, *, top: int) -> VllmTeacher:
    """Who labels."""
    return VllmTeacher(begin_vllm(teacher), vocab_size=len(load_tokenizer(teacher.model)), top=top)
