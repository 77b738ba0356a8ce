"""The suite `calibration`: is every model as often right as it is sure, and is it as sure as right of its teacher's answers."""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from stillhouse.core.likeness import CalibrationFound
from stillhouse.core.measures import Reliability
from stillhouse.core.progress import working
from stillhouse.core.results import Role
from stillhouse.core.signals import DenseLogits, Wanted
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.calibration import Confident, of_choices, reliability
from stillhouse.evaluation.similarity import near_teacher, shares_tokens
from stillhouse.models.isolation import evaluating
from stillhouse.models.signals import read_signals

TEXT, CLASS, TEACHER = "the text's next token", "the document's class", "the teacher's likeliest answer"


def calibration(bench: Bench, _settings: None) -> CalibrationFound:
    """Of the next token of held-out text, or of the class of held-out documents."""
    if bench.task == "sequence_classification":
        found = _of_classes(bench)
    elif shares_tokens(bench.tokenizer, bench.teacher_tokenizer):
        near = near_teacher(bench)
        found = {role: (own.of_the_text(), own.of_the_teacher()) for role, own in near.items()}
    else:
        found = {}
    of = CLASS if bench.task == "sequence_classification" else TEXT
    models: list[Reliability] = [reliability(role, of, own) for role, (own, _) in found.items()]
    models += [reliability(role, TEACHER, taught) for role, (_, taught) in found.items() if role != "teacher"]
    first = next((own for own, _ in found.values()), None)
    answers = 0 if first is None else len(first.confidence)
    return CalibrationFound(0 if first is None else first.num_documents, answers, models)


@torch.no_grad()
def _of_classes(bench: Bench) -> dict[Role, tuple[Confident, Confident]]:
    """Every classifier on the documents' own classes, and on the teacher's."""
    right = torch.cat([batch.targets for batch in bench.batches]).cpu().numpy().astype(np.int64)
    with working(bench.progress, "reading held-out text", len(right) * len(bench.models), "documents"):
        probabilities = {role: _probabilities(bench, model) for role, model in bench.models.items()}
    taught = probabilities["teacher"].argmax(-1)
    return {role: (of_choices(own, right), of_choices(own, taught)) for role, own in probabilities.items()}


def _probabilities(bench: Bench, model: PreTrainedModel) -> NDArray[np.float64]:
    pieces = []
    for batch in bench.batches:
        with evaluating(model):
            logits = read_signals(model, batch, Wanted(logits=True)).logits
        assert isinstance(logits, DenseLogits), "a classifier says its logits whole"
        pieces.append(logits.at(batch.predicts.to(model.device)).dense().double().softmax(-1).cpu().numpy())
        bench.progress.advance(len(batch.ids))
    return np.concatenate(pieces)
