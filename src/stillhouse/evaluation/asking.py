"""Questions that every model is asked, and answers that are kept in the moment in which they come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.files import fingerprint
from stillhouse.core.progress import SILENT, Progress
from stillhouse.evaluation.compare import Contestant
from stillhouse.models.generate import Sampling
from stillhouse.models.isolation import evaluating
from stillhouse.models.load import LoadedModel
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import LocalWriter, Message, Reply, Request

BATCH_SIZE = 16
"""Answers that are written at once."""
HASHED = 8
"""Numbers of each tensor that tell a model from another."""


@dataclass(frozen=True)
class Question:
    """A conversation that is due an answer, or a text to go on from."""

    messages: tuple[Message, ...] = ()
    prefix: str | None = None
    reference: str = ""
    """A right answer, or what the data goes on with; empty where none is known."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else is known of it, by name: a label, a context."""

    @property
    def text(self) -> str:
        """What is asked, as a person reads it: the last thing that the user says, or how the text begins."""
        last = next((one["content"] for one in reversed(self.messages) if one["role"] == "user"), "")
        return last if self.prefix is None else self.prefix

    def request(self, *, sampling: Sampling, seed: str, in_chat: bool) -> Request:
        """What a model is asked; one without a chat template reads the conversation as plain text."""
        if self.prefix is not None:
            return Request(seed=seed, sampling=sampling, prefix=self.prefix)
        if in_chat:
            return Request(seed=seed, sampling=sampling, messages=self.messages)
        plain = "\n\n".join(one["content"] for one in self.messages)
        return Request(seed=seed, sampling=sampling, prefix=f"{plain}\n\n")


def weights_hash(model: PreTrainedModel) -> str:
    """Changes where training has changed the model: of each of its tensors the first numbers are read."""
    firsts = (parameter.detach().flatten()[:HASHED].double().tolist() for parameter in model.parameters())
    return fingerprint(list(firsts))


def answers_of(
    contestant: Contestant,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    sampling: Sampling,
    seed: str = "evaluation",
    folder: Path,
    progress: Progress = SILENT,
) -> list[Reply]:
    """What one model answers, one by one. Killed and started again, what was answered is not asked again."""
    in_chat = bool(tokenizer.chat_template)
    requests = [one.request(sampling=sampling, seed=seed, in_chat=in_chat) for one in questions]
    loaded = LoadedModel(contestant.model, tokenizer, contestant.name, contestant.folder)
    known = weights_hash(contestant.model)
    writer = LocalWriter(loaded, name=contestant.role, fingerprint=known, batch_size=BATCH_SIZE)
    ledger = Ledger(folder / f"{contestant.role}_{known[:8]}.jsonl", writer, progress=progress)
    with evaluating(contestant.model):
        return ledger.ask(requests, title=f"{contestant.role.replace('_', ' ')} answers")
