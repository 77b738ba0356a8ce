"""A judge who compares a model's answers with the teacher's: in both orders, and by a strict rule."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from stillhouse.core.behaviour_results import Judgement
from stillhouse.core.files import fingerprint
from stillhouse.core.progress import Progress
from stillhouse.evaluation.asking import BATCH_SIZE, Question
from stillhouse.evaluation.behaviour.config import LocalJudgeConfig
from stillhouse.evaluation.behaviour.shares import UNKNOWN, share
from stillhouse.evaluation.intervals import bootstrapped, ratio
from stillhouse.models.generate import Sampling
from stillhouse.models.load import display_name, load_causal_lm, source_fingerprint
from stillhouse.teachers.judging import Shown, filled, read_better
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.remote import RemoteWriter
from stillhouse.teachers.remote_config import RemoteWriterConfig
from stillhouse.teachers.writer import LocalWriter, Reply, Request, Writer

AskJudge = Callable[..., list[Reply]]
"""`Ledger.ask`: (requests, title=...) -> replies, in the order of the requests."""

Judging = LocalJudgeConfig | RemoteWriterConfig
"""Who is asked."""

Outcome = Literal["win", "loss", "tie", "undecided", "unreadable"]


def judge_of(by: Judging, *, folder: Path, progress: Progress) -> tuple[AskJudge, str]:
    """Who is asked, each thing once: replies are kept in a file of this very judge. And what it is called."""
    writer, known = _writer(by, progress)
    kept = folder / f"judge_{fingerprint([known])[:8]}.jsonl"
    return Ledger(kept, writer, progress=progress).ask, writer.name


def _writer(by: Judging, progress: Progress) -> tuple[Writer, str]:
    if isinstance(by, RemoteWriterConfig):
        remote = RemoteWriter(by, say=progress.say)
        return remote, remote.fingerprint
    source = by.model
    known = source_fingerprint(source)
    loaded = load_causal_lm(source)
    return LocalWriter(loaded, name=display_name(source), fingerprint=known, batch_size=BATCH_SIZE), known


def judged(
    ask: AskJudge,
    who: str,
    questions: Sequence[Question],
    *,
    teacher: Sequence[str],
    model: Sequence[str],
    prompt: str,
    max_new_tokens: int,
) -> Judgement:
    """The model's answers beside the teacher's, each pair shown in both orders."""
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    requests = [
        _request(one, first, second, prompt, sampling)
        for one, theirs, ours in zip(questions, teacher, model, strict=True)
        for first, second in ((ours, theirs), (theirs, ours))
    ]
    said = [read_better(reply.text) for reply in ask(requests, title=f"the judge reads {who.replace('_', ' ')}")]
    return judgement(who, list(zip(said[::2], said[1::2], strict=True)))


def _request(question: Question, first: str, second: str, prompt: str, sampling: Sampling) -> Request:
    conversation = question.prefix or "\n\n".join(f"{one['role']}: {one['content']}" for one in question.messages)
    text = filled(prompt, conversation=conversation, first=first, second=second)
    return Request(seed="judge", sampling=sampling, messages=({"role": "user", "content": text},))


def judgement(who: str, verdicts: Sequence[tuple[Shown | None, Shown | None]]) -> Judgement:
    """From what was said of each prompt, first where the model's answer stood first, then where the teacher's did."""
    outcomes = [_outcome(*pair) for pair in verdicts]
    worth = [{"win": 1.0, "loss": 0.0}.get(one, 0.5) for one in outcomes if one != "unreadable"]
    read = [one for one in outcomes if one != "unreadable"]
    named = [one for pair in verdicts for one in pair if one in ("A", "B")]
    score = UNKNOWN
    if worth:
        values = np.array(worth)
        score = bootstrapped({"score": ratio(values, np.ones_like(values))}, set_sizes=[len(values)])[
            "score"
        ].interval()
    return Judgement(
        who,
        len(verdicts),
        score,
        wins=outcomes.count("win"),
        losses=outcomes.count("loss"),
        ties=outcomes.count("tie"),
        undecided=outcomes.count("undecided"),
        unreadable=outcomes.count("unreadable"),
        agreement=share([one != "undecided" for one in read]) if read else None,
        first_wins=named.count("A") / len(named) if named else None,
    )


def _outcome(model_first: Shown | None, teacher_first: Shown | None) -> Outcome:
    """By both orders: who wins one and ties the other wins by less than a judge of one mind would say, and is undecided."""
    if model_first is None or teacher_first is None:
        return "unreadable"
    turned: dict[Shown, Shown] = {"A": "B", "B": "A", "tie": "tie"}
    if model_first != turned[teacher_first]:
        return "undecided"
    known: dict[Shown, Outcome] = {"A": "win", "B": "loss", "tie": "tie"}
    return known[model_first]
