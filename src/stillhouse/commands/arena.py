"""`stillhouse chat --web`: teacher and student side by side in a browser, and votes on answers that nobody's name stands at."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from stillhouse.commands.local_server import Reply, as_json
from stillhouse.commands.speakers import Expected, Speaker, expectations, in_turn
from stillhouse.core.errors import DataError
from stillhouse.core.files import append_line
from stillhouse.data.chat_template import Message
from stillhouse.evaluation.departures import token_texts
from stillhouse.models.generate import Sampling
from stillhouse.models.load import vocabulary_fingerprint
from stillhouse.reporting.arena import render_arena
from stillhouse.reporting.formatting import clean, one_line

VOTES = "votes.jsonl"
FRAMES_PER_SECOND = 15
CONVERSATIONS = 50
"""That are remembered; the oldest goes first."""

Vote = Literal["left", "right", "tie", "neither"]
SIDES = ("left", "right")


@dataclass
class Said:
    """One answer."""

    asked: list[int]
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    seconds: float = 0.0
    first_seconds: float | None = None
    """Until its first token: all of the prompt is read in it."""
    is_finished: bool = False

    def told(self) -> dict[str, Any]:
        """How much was said, and how fast."""
        behind, seconds = len(self.tokens) - 1, self.seconds - (self.first_seconds or 0.0)
        return {
            "tokens": len(self.tokens),
            "first_seconds": self.first_seconds,
            "tokens_per_second": behind / seconds if behind > 0 and seconds > 0 else None,
            "finished": self.is_finished,
        }


@dataclass
class Turn:
    """A question, and what stands left and right of it."""

    question: str
    before: list[Message]
    """What both had read, where they had read the same."""
    order: tuple[int, int]
    """Which speaker stands left, which right."""
    is_blind: bool
    answers: tuple[Said, Said]
    """Left and right."""
    vote: Vote | None = None


@dataclass
class Conversation:
    """Turns, and what each speaker remembers of them."""

    histories: list[list[Message]]
    turns: list[Turn] = field(default_factory=list)


class Arena:
    """The site. One answer at a time: both models are in this process."""

    def __init__(self, speakers: Sequence[Speaker], *, sampling: Sampling, seed: int, system: str, votes: Path) -> None:
        self.speakers, self.sampling, self.seed, self.system, self.votes = list(speakers), sampling, seed, system, votes
        mute = [speaker.role for speaker in speakers if speaker.template is None]
        if system and mute:
            raise DataError(f"the {mute[0]} has no chat template, so it can be given no system prompt. Leave it out.")
        self.has_template = not mute
        self.lock, self.shuffle = threading.Lock(), Random()
        self.conversations: dict[str, Conversation] = {}

    def get(self, path: str) -> Reply | None:
        if path != "/":
            return None
        names = {speaker.role: one_line(speaker.name) for speaker in self.speakers}
        page = render_arena(
            teacher=names["teacher"], student=names["student"], votes=str(self.votes), has_template=self.has_template
        )
        return Reply(page.encode())

    def post(self, path: str, body: Mapping[str, Any]) -> Reply | None:
        match path:
            case "/ask":
                question, is_blind = _text(body, "question"), body.get("blind") is True
                return Reply(self._ask(self._conversation(body), question, is_blind=is_blind), "application/x-ndjson")
            case "/vote":
                return as_json(self._vote(self._turn(body), body.get("vote")))
            case "/tokens":
                return as_json(self._tokens(self._turn(body), body.get("side")))
        return None

    def _conversation(self, body: Mapping[str, Any]) -> Conversation:
        name = _text(body, "conversation")
        with self.lock:
            if name not in self.conversations:
                system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
                self.conversations[name] = Conversation([list(system) for _ in self.speakers])
                for old in list(self.conversations)[:-CONVERSATIONS]:
                    del self.conversations[old]
            return self.conversations[name]

    def _turn(self, body: Mapping[str, Any]) -> Turn:
        turns, number = self._conversation(body).turns, body.get("turn")
        if not isinstance(number, int) or not 0 <= number < len(turns):
            raise DataError(f"there is no turn {number!r} in this conversation.")
        return turns[number]

    def _ask(self, talk: Conversation, question: str, *, is_blind: bool) -> Iterator[bytes]:
        """Both answers as they come, a line a frame. What is said when nobody listens any more is remembered."""
        with self.lock:
            if talk.turns and talk.turns[-1].is_blind != is_blind:
                yield _line(error="a conversation is blind from beginning to end, or not at all: begin anew.")
                return
            if talk.turns:
                self._take_up(talk, talk.turns[-1])
            prompts = []
            for speaker, history in zip(self.speakers, talk.histories, strict=True):
                speaker.messages = list(history)
                try:
                    prompts.append(speaker.prompt(question))
                except DataError as error:
                    yield _line(error=str(error))
                    return
            left, right = self.shuffle.sample(range(2), 2) if is_blind else (0, 1)
            answers = Said(prompts[left]), Said(prompts[right])
            turn = Turn(question, list(talk.histories[left]), (left, right), is_blind, answers)
            talk.turns.append(turn)
            yield _line(turn=len(talk.turns) - 1)
            yield from self._answers(turn, seed=f"{self.seed}, turn {len(talk.turns)}")
            same = turn.answers[0].text.strip() == turn.answers[1].text.strip()
            told = {} if is_blind else {"sides": self._named(turn)}
            yield _line(done=True, same=same, **told)

    def _answers(self, turn: Turn, *, seed: str) -> Iterator[bytes]:
        shown = [(self.speakers[which], said) for which, said in zip(turn.order, turn.answers, strict=True)]
        words = in_turn([speaker.speak(said.asked, sampling=self.sampling, seed=seed) for speaker, said in shown])
        last_seconds = 0.0
        try:
            with closing(words):
                for _ in words:
                    for speaker, said in shown:
                        if said.first_seconds is None and speaker.said:
                            said.first_seconds = speaker.seconds
                    if time.monotonic() - last_seconds >= 1 / FRAMES_PER_SECOND:
                        last_seconds = time.monotonic()
                        yield _line(texts=[clean(speaker.text) for speaker, _ in shown])
        finally:
            for speaker, said in shown:
                said.tokens, said.text, said.seconds = list(speaker.said), speaker.text, speaker.seconds
                said.is_finished = speaker.is_finished
        yield _line(texts=[clean(said.text) for said in turn.answers])

    def _take_up(self, talk: Conversation, turn: Turn) -> None:
        """What is remembered of a turn. Behind a blind one both go on from the same answer, the better one if somebody said
        so: only then is the next pair of answers one to the same prompt."""
        if not self.has_template or len(talk.histories[0]) > len(turn.before):
            return
        for place, which in enumerate(turn.order):
            kept = turn.answers[(turn.vote == "right") if turn.is_blind else place]
            question: Message = {"role": "user", "content": turn.question}
            talk.histories[which] += [question, {"role": "assistant", "content": kept.text}]

    def _named(self, turn: Turn) -> list[dict[str, Any]]:
        """Who stood where, and how fast each was."""
        return [
            {"role": self.speakers[which].role, "name": one_line(self.speakers[which].name), **said.told()}
            for which, said in zip(turn.order, turn.answers, strict=True)
        ]

    def _vote(self, turn: Turn, vote: object) -> dict[str, Any]:
        """Keep which answer was better, and say whose it was. A tie is no pair, and so is not kept."""
        if vote not in ("left", "right", "tie", "neither"):
            raise DataError(f"vote: {vote!r} came, expected left, right, tie or neither.")
        with self.lock:
            if not turn.is_blind or turn.vote is not None:
                raise DataError("there is nothing to vote on: names were shown, or a vote was cast.")
            texts = {said.text.strip() for said in turn.answers}
            is_kept = vote in SIDES and len(texts) == 2 and "" not in texts
            if is_kept:
                append_line(self.votes, self._preference(turn, better=SIDES.index(str(vote))))
            turn.vote = vote
        return {"sides": self._named(turn), "kept": is_kept}

    def _preference(self, turn: Turn, *, better: int) -> dict[str, Any]:
        """A row of data of kind preferences."""
        chosen, rejected = (turn.answers[place].text for place in (better, 1 - better))
        names = [self.speakers[turn.order[place]].role for place in (better, 1 - better)]
        whose = {"chosen_by": "vote", "chosen_model": names[0], "rejected_model": names[1]}
        if not self.has_template:
            return {"prompt": turn.question, "chosen": chosen, "rejected": rejected, **whose}
        return {
            "prompt": [*turn.before, {"role": "user", "content": turn.question}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            **whose,
        }

    def _tokens(self, turn: Turn, side: object) -> dict[str, Any]:
        """Each token of an answer, and what both sides expected in its place."""
        if side not in SIDES:
            raise DataError(f"side: {side!r} came, expected left or right.")
        if turn.is_blind and turn.vote is None:
            raise DataError("whose answer it is would show: vote first.")
        teacher, student = self.speakers
        if vocabulary_fingerprint(teacher.tokenizer) != vocabulary_fingerprint(student.tokenizer):
            raise DataError("teacher and student read a text in other tokens: they cannot be compared token by token.")
        said = turn.answers[SIDES.index(str(side))]
        if not said.tokens:
            return {"tokens": []}
        size = min(len(teacher.tokenizer), len(student.tokenizer))
        with self.lock:
            found = expectations(teacher.model, student.model, said.asked, said.tokens, vocab_size=size)
        texts = token_texts(said.tokens, teacher.tokenizer)
        return {"tokens": [self._token(text, one) for text, one in zip(texts, found, strict=True)]}

    def _token(self, text: str, expected: Expected) -> dict[str, Any]:
        def named(choices: Sequence[tuple[int, float]]) -> list[list[Any]]:
            return [[clean(str(self.speakers[0].tokenizer.decode([token]))), round(p, 4)] for token, p in choices]

        sides = {"teacher": named(expected.teacher), "student": named(expected.student)}
        return {"text": clean(text), "differs": expected.differs, **sides}


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name}: a text was expected.")
    return value.strip()


def _line(**values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
