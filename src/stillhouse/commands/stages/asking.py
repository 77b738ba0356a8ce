"""What the stages ask of a teacher behind an API: answers to train on, labels, and answers to judge by."""

from collections.abc import Sequence

from stillhouse.commands.parts import Parts
from stillhouse.commands.remote import SCORES, remote_teacher
from stillhouse.commands.sources import askable
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.errors import RunError
from stillhouse.core.progress import working
from stillhouse.data.asked import Asked
from stillhouse.data.examples import Example
from stillhouse.evaluation import Taught, TaughtAnswer
from stillhouse.models.generate import Sampling
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.synthesis import AnswersOutcome
from stillhouse.synthesis.asked_answers import TOLD, Reader, ask_for_answers, request_for
from stillhouse.synthesis.config import ConversationSynthesisConfig
from stillhouse.synthesis.run import LEDGER
from stillhouse.teachers import RemoteTeacherConfig, ToldTeacher, scoring_teacher
from stillhouse.teachers.answering import Answering
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.remote import RequestRefused
from stillhouse.teachers.told import TokenNames, read_told
from stillhouse.training.sources import answering_of

BESIDE = "beside"
"""The folder in the run of the teacher's answers to held-out prompts."""
MOST_ANSWER_TOKENS = 256
"""Of an answer that is only to be measured by."""


def asking_teacher(shop: Workshop, remote: RemoteTeacherConfig, *, ledger: str) -> Ledger:
    """Who asks the teacher and keeps what it says, in this file of the run."""
    writer = remote_teacher(remote, shop.run, shop.progress, ledger=ledger)
    return Ledger(shop.run.path / ledger, writer, progress=shop.progress)


def ask_answers(shop: Workshop, remote: RemoteTeacherConfig, wanted: Answering) -> AnswersOutcome:
    """The answers to the prompts to train on, and what the server tells of their tokens, where that is to be learnt."""
    folder, parts = shop.parts.answers.parent, shop.parts
    writer = remote_teacher(remote, shop.run, shop.progress, ledger=f"{folder.name}/{LEDGER}")
    tells = shop.recipe.labels is not None and remote.scores_by is None
    return ask_for_answers(
        Ledger(folder / LEDGER, writer, progress=shop.progress).ask,
        parts.asked,
        _reader(parts, writer.names if tells else None),
        folder=folder,
        answering=wanted,
        top_logprobs=remote.top_logprobs if tells else 0,
    )


def _reader(parts: Parts, names: TokenNames | None = None) -> Reader:
    end = end_of_turn(parts.tokenizer) if parts.recipe.data.kind == "chat" else parts.tokenizer.eos_token_id
    most = parts.recipe.data.sequence_tokens
    return Reader(parts.tokenizer, end if isinstance(end, int) else None, most, names)


def labelling_teacher(shop: Workshop, remote: RemoteTeacherConfig, examples: Sequence[Example]) -> ToldTeacher:
    """A teacher that knows what the server tells of these texts: it scores them now, or has told it with its answers."""
    if remote.scores_by is None:
        told = read_told(shop.parts.answers.parent / TOLD)
        return ToldTeacher(told, vocab_size=len(shop.parts.tokenizer))
    writer = remote_teacher(remote, shop.run, shop.progress, ledger=SCORES)
    teacher = scoring_teacher(writer, shop.run.path / SCORES, top=remote.top_logprobs)
    missing = teacher.missing([example.ids for example in examples])
    if missing:
        with working(shop.progress, "the teacher scores", len(missing), "texts"):
            teacher.hear(missing, tell=lambda: shop.progress.advance(1))
    return teacher


def taught_by(shop: Workshop, remote: RemoteTeacherConfig) -> Taught:
    """The teacher's likeliest answers to held-out prompts, as far as the budget and the server allow."""
    parts = shop.parts
    asked = _held_out(parts)[: shop.recipe.evaluation.teacher_answers]
    greedy = Sampling(temperature=0.0, max_new_tokens=_answer_tokens(shop))
    requests = [request_for(one, parts.tokenizer, sampling=greedy, seed=BESIDE) for one in asked]
    writer = remote_teacher(remote, shop.run, shop.progress, ledger=f"{BESIDE}/{LEDGER}")
    ledger, why = Ledger(shop.run.path / BESIDE / LEDGER, writer, progress=shop.progress), ""
    try:
        ledger.ask(requests, title="the teacher answers held-out prompts")
    except (RunError, RequestRefused) as error:
        why = f"its answers to some of {len(asked):,} held-out prompts ({error})"
        shop.progress.say(f"measured without {why}")
    reader, answers = _reader(parts), list[TaughtAnswer]()
    for one, request in zip(asked, requests, strict=True):
        reply = ledger.known(request)
        if reply is not None:
            ids, _, _ = reader.read(one, request, reply)
            answers += [TaughtAnswer(one.prompt, ids, reply.text)] if ids else []
    return Taught(remote.model, len(asked), answers, why)


def _held_out(parts: Parts) -> list[Asked]:
    """Held-out prompts that leave room for an answer."""
    found = parts.data.held_out_asked
    return [one.at_last for one in askable(found, max_tokens=parts.recipe.data.sequence_tokens, at_last=True)]


def _answer_tokens(shop: Workshop) -> int:
    """As long as the teacher's answers are to be that are learnt."""
    wanted, synthesis = answering_of(shop.recipe.source), shop.recipe.synthesis
    said = MOST_ANSWER_TOKENS
    if wanted is not None:
        said = wanted.sampling.max_new_tokens
    elif isinstance(synthesis, ConversationSynthesisConfig):
        said = synthesis.answers.sampling.max_new_tokens
    return min(said, MOST_ANSWER_TOKENS)
