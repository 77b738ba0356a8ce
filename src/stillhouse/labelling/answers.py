"""How likely a model finds whole answers: one number each, found once before training and written down."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.batch import PreferenceBatch, as_batch
from stillhouse.core.files import atomic_path
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.signals import FactoredLogits, Wanted
from stillhouse.data.preferences import AnswerPair, PreferenceRows, Weighed
from stillhouse.kernels.preference import answer_logprobs
from stillhouse.models.isolation import evaluating
from stillhouse.models.signals import read_signals

FILE_NAME = "answer_logprobs.safetensors"
PAIRS_AT_ONCE = 4


@torch.no_grad()
def weigh(
    model: PreTrainedModel, pairs: Sequence[AnswerPair], *, vocab_size: int, progress: Progress = SILENT
) -> Float[Tensor, "pairs 2"]:
    """How likely the model finds both answers of each pair, in nats: the sum over an answer's tokens, its end included.

    Without dropout, whatever mode the model is in. Pairs of like length are read together.
    """
    rows, found = PreferenceRows(pairs), torch.zeros(len(pairs), 2)
    order = sorted(range(len(pairs)), key=rows.lengths.__getitem__)
    with evaluating(model):
        for start in range(0, len(order), PAIRS_AT_ONCE):
            numbers = order[start : start + PAIRS_AT_ONCE]
            batch = as_batch(rows.collate(numbers))
            assert isinstance(batch, PreferenceBatch)
            found[numbers] = _said_of(model, batch, vocab_size).view(-1, 2).cpu().float()
            progress.advance(len(numbers))
    return found


def _said_of(model: PreTrainedModel, batch: PreferenceBatch, vocab_size: int) -> Float[Tensor, " answers"]:
    logits = read_signals(model, batch, Wanted(logits=True)).logits
    assert isinstance(logits, FactoredLogits), f"{type(model).__name__} has no language modelling head"
    said, device = logits.at(batch.answer_places).first(vocab_size), logits.hidden.device
    ids, answers = batch.answer_tokens.to(device), batch.answer_rows.to(device)
    return answer_logprobs(said, ids, answers, num_answers=len(batch.ids))


def save_weighed(weighed: Weighed, file: Path) -> None:
    """Write the numbers down, whole or not at all."""
    ratios = {} if weighed.teacher_ratios is None else {"teacher_ratios": weighed.teacher_ratios}
    with atomic_path(file) as part:
        save_file({"reference_logprobs": weighed.reference_logprobs, **ratios}, part, {"format": "pt"})


def load_weighed(file: Path) -> Weighed:
    """What `save_weighed` wrote."""
    return Weighed(**load_file(file))
