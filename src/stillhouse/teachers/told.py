"""What a server tells of likely tokens, in the ids of the student's tokenizer: a teacher known by its likeliest tokens."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from stillhouse.core.batch import Batch
from stillhouse.core.errors import ModelError
from stillhouse.core.files import append_line, read_lines
from stillhouse.core.label_store import key_of
from stillhouse.core.signals import Signals, SparseLogprobs, Wanted
from stillhouse.models.token_bytes import token_bytes
from stillhouse.teachers.stored import documents_of, in_place
from stillhouse.teachers.writer import Reply, Request, keep_each

Place = tuple[tuple[int, float], ...]
"""What is known of one token before it is read: ids that it could have been, with their log-probabilities in nats. Nothing,
where nothing was told."""
Named = tuple[tuple[str, float], ...]
"""The same by the names that the server has for tokens: that of the token itself first."""

AS_ID, AS_BYTES = "token_id:", "bytes:"
"""How names begin that give a token by its number, as vLLM does, or by bytes that are no text, as OpenAI does."""
NEVER = -1000.0
"""Below, a server says that it does not know: OpenAI's is -9999."""
ROUNDING = 1e-2
"""By which probabilities of a row may add up to more than 1."""
LEAST_TAIL = 2.0**-24
"""What is left to all other tokens at least, unless every token was told: probabilities that were rounded may add up to 1."""


class TokenNames:
    """Which id of a tokenizer a server's token is."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.vocab_size = tokenizer, len(tokenizer)
        self._spelt = token_bytes(tokenizer)
        self._ids: dict[bytes, set[int]] = {}
        for number, spelt in enumerate(self._spelt):
            if spelt is not None:
                self._ids.setdefault(spelt, set()).add(number)
        for number, added in tokenizer.added_tokens_decoder.items():
            self._ids.setdefault(added.content.encode(), set()).add(number)

    def id_of(self, name: str) -> int:
        """The one token of this name.

        Raises:
            ModelError: if there is none, or more than one.
        """
        if name.startswith(AS_ID) and name[len(AS_ID) :].isdecimal():
            found = {int(name[len(AS_ID) :])}
        else:
            found = self._ids.get(_bytes_of(name), set())
        if len(found) == 1 and max(found) < self.vocab_size:
            return next(iter(found))
        what = (
            f"{len(found)} tokens of {self._name} are written so" if len(found) > 1 else f"{self._name} has none such"
        )
        raise ModelError(
            f"the server tells a log-probability of the token {name!r}, but {what}. Name the teacher's own tokenizer; if it "
            "is that, let the server tell ids, as llama.cpp does and vLLM with body {return_tokens_as_token_ids: true}."
        )

    def check(self, number: int, spelt: bytes) -> None:
        """Raises: ModelError unless the server's token of this id is written as the tokenizer's."""
        ours = self._spelt[number] if number < len(self._spelt) else b""
        if ours is not None and spelt and ours.lstrip(b" ") != spelt.lstrip(b" "):
            raise ModelError(
                f"the server's token {number} is {spelt!r}, but that of {self._name} is {ours!r}: the tokenizers differ, so "
                "log-probabilities cannot be learnt token by token. Name the teacher's own tokenizer."
            )

    def place_of(self, named: Named) -> Place:
        """The same with ids. The token itself may be among its likeliest rivals.

        Raises:
            ModelError: if a token is told twice, or not known.
        """
        own, *rivals = [(self.id_of(name), logprob) for name, logprob in named]
        found = dict(rivals)
        if len(found) < len(rivals):
            twice = Counter(number for number, _ in rivals).most_common(1)[0][0]
            raise ModelError(
                f"the server tells the log-probability of {self.tokenizer.convert_ids_to_tokens(twice)!r} twice at one place."
            )
        found.setdefault(*own)
        return tuple((number, logprob) for number, logprob in found.items() if logprob > NEVER)

    def of_reply(self, request: Request, reply: Reply) -> tuple[tuple[int, ...], list[Place]]:
        """The tokens of an answer, and what was told at each of them.

        Raises:
            ModelError: if the server told nothing, or drew in a way that may have changed what it told.
        """
        sampling = request.sampling
        if sampling.temperature != 1 or sampling.top_k is not None or sampling.top_p < 1:
            raise ModelError(
                f"an answer was drawn with temperature {sampling.temperature:g}, top_k {sampling.top_k} and top_p "
                f"{sampling.top_p:g}, and servers differ in whether the log-probabilities they tell are those before or after. "
                "To learn from them, draw with temperature 1, without top_k and top_p."
            )
        if not reply.top_logprobs and reply.text:
            raise ModelError("the server told no log-probabilities of an answer. Not every server and model has them.")
        ids = tuple(self.id_of(named[0][0]) for named in reply.top_logprobs)
        return ids, [self.place_of(named) for named in reply.top_logprobs]

    def document_of(
        self, prompt: Sequence[int], request: Request, reply: Reply, *, end: int | None
    ) -> tuple[tuple[int, ...], list[Place]]:
        """Prompt and answer as the student reads them, and what was told at each token: nothing of the prompt, and nothing of
        the `end` of the answer where the server keeps that to itself.

        Raises:
            ModelError: as `of_reply`.
        """
        ids, places = self.of_reply(request, reply)
        closing = (end,) if reply.finished and end is not None and ids[-1:] != (end,) else ()
        return (*prompt, *ids, *closing), [*([()] * len(prompt)), *places, *([()] * len(closing))]

    def of_scored(self, ids: Sequence[int], choice: Mapping[str, Any]) -> list[Place]:
        """What was told at each token of a text that was given: nothing at the first.

        Raises:
            ModelError: if the server read other tokens.
        """
        if "prompt_logprobs" in choice:
            told: list[Any] = list(choice["prompt_logprobs"])
            rows = [self._scored_by_id(number, row) for number, row in zip(ids, told, strict=False)]
        else:
            logprobs = choice.get("logprobs") or {}
            names, told = list(logprobs.get("tokens", [])), list(logprobs.get("top_logprobs") or [])
            for place, (number, name) in enumerate(zip(ids, names, strict=False)):
                self._check_read(place, number, name)
            own = list(logprobs.get("token_logprobs") or [])
            rows = [self._scored(*row) for row in zip(names, own, told, strict=False)][: len(ids)]
        if len(rows) < len(ids):
            raise ModelError(
                f"the server told log-probabilities of {len(rows):,} of a text's {len(ids):,} tokens. Look at scores_by: not "
                "every server tells those of a prompt."
            )
        return [(), *rows[1:]]

    def _scored_by_id(self, number: int, row: Mapping[str, Any] | None) -> Place:
        if row is None:
            return ()
        own = row.get(str(number))
        if own is None:
            raise ModelError(
                f"the server tells nothing of the token {number} that it was given: the tokenizers differ."
            )
        others = ((f"{AS_ID}{other}", float(said["logprob"])) for other, said in row.items() if other != str(number))
        return self.place_of(((f"{AS_ID}{number}", float(own["logprob"])), *others))

    def _scored(self, name: str, own: float | None, tops: Mapping[str, float] | None) -> Place:
        if own is None or tops is None:
            return ()
        return self.place_of(((name, own), *tops.items()))

    def _check_read(self, place: int, number: int, name: str) -> None:
        spelt = self._spelt[number]
        alike = spelt is None or _bytes_of(name) == spelt or spelt.decode(errors="replace") == name
        if name.startswith(AS_ID):
            alike = name == f"{AS_ID}{number}"
        if not alike:
            raise ModelError(
                f"the server read {name!r} as token {place + 1} of a text, but {self._name} has {spelt!r} there: the "
                "tokenizers differ. Name the teacher's own."
            )

    @property
    def _name(self) -> str:
        return f"the tokenizer {self.tokenizer.name_or_path!r}"


def _bytes_of(name: str) -> bytes:
    if name.startswith(AS_BYTES) and (found := re.findall(r"\\x([0-9a-fA-F]{2})", name)):
        return bytes(int(one, 16) for one in found)
    return name.encode()


def told_places(told: Any, names: TokenNames | None) -> tuple[Named, ...]:
    """What a server tells at each place of an answer, whether it says it in the form of chats or of completions."""
    if not isinstance(told, Mapping):
        return ()
    if isinstance(told.get("content"), list):
        return tuple(_named(entry, names) for entry in told["content"])
    tokens, own, tops = (told.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    tops = tops or [{}] * len(tokens)
    return tuple(
        ((str(token), float(logprob)), *((str(name), float(value)) for name, value in (others or {}).items()))
        for token, logprob, others in zip(tokens, own, tops, strict=False)
        if logprob is not None
    )


def _named(entry: Mapping[str, Any], names: TokenNames | None) -> Named:
    rivals = entry.get("top_logprobs") or []
    return tuple((_name(one, names), _number(one["logprob"])) for one in (entry, *rivals))


def _number(logprob: float | None) -> float:
    return -math.inf if logprob is None else float(logprob)


def _name(entry: Mapping[str, Any], names: TokenNames | None) -> str:
    """A token's number where the server tells it, else its bytes where these are no text, else its text."""
    token, number, spelt = str(entry.get("token", "")), entry.get("id"), bytes(entry.get("bytes") or ())
    if isinstance(number, int) and number >= 0:
        if names is not None:
            names.check(number, spelt)
        return f"{AS_ID}{number}"
    if token.startswith(AS_ID) or not spelt:
        return token
    try:
        return spelt.decode()
    except UnicodeDecodeError:
        return AS_BYTES + "".join(f"\\x{byte:02x}" for byte in spelt)


def sparse_of(places: Sequence[Place], *, vocab_size: int) -> SparseLogprobs:
    """A document's places as what predicts them: row t is what was said of token t + 1. Where nothing was, all is in the bucket
    for other tokens, from which nothing can be learnt.

    Raises:
        ModelError: if probabilities add up to more than 1.
    """
    rows = [*places[1:], ()]
    width = max(1, *map(len, rows))
    ids, logprobs = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -torch.inf)
    tails = torch.zeros(len(rows))
    for number, row in enumerate(rows):
        if not row:
            continue
        ids[number, : len(row)] = torch.tensor([token for token, _ in row])
        logprobs[number, : len(row)] = torch.tensor([min(0.0, logprob) for _, logprob in row])
        tails[number] = _tail(row, vocab_size)
    return SparseLogprobs(ids, logprobs, tails, vocab_size)


def _tail(row: Place, vocab_size: int) -> float:
    told = sum(math.exp(logprob) for _, logprob in row)
    if not told <= 1 + ROUNDING:
        raise ModelError(
            f"the server's probabilities of a token add up to {told:.3f}, and no more than 1 can be. It does not tell "
            "log-probabilities in nats."
        )
    # Rounding leaves a little, or nothing: of a whole vocabulary there is nothing, of a part there is always something.
    return -math.inf if len(row) >= vocab_size else math.log(max(1 - told, LEAST_TAIL))


class ToldTeacher:
    """A teacher known by what was told of each document, which is found by the hash of its token ids.

    Raises:
        ModelError: when it is asked about another.
    """

    def __init__(self, told: Mapping[str, Sequence[Place]], *, vocab_size: int) -> None:
        self.told, self.vocab_size = dict(told), vocab_size

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """Sparse log-probabilities at every position of the batch: all that such a teacher has."""
        assert not wanted.hidden_states and not wanted.attentions and wanted.pooling is None, "only tokens are told"
        rows = [sparse_of(self._find(ids), vocab_size=self.vocab_size) for ids in documents_of(batch)]
        width = max(row.ids.shape[-1] for row in rows)
        ids = torch.cat([pad(row.ids, (0, width - row.ids.shape[-1])) for row in rows])
        logprobs = torch.cat([pad(row.logprobs, (0, width - row.ids.shape[-1]), value=-torch.inf) for row in rows])
        tails = in_place(batch, torch.cat([row.tail for row in rows]), 0.0)
        told = SparseLogprobs(in_place(batch, ids, 0), in_place(batch, logprobs, -torch.inf), tails, self.vocab_size)
        return Signals(told)

    def _find(self, ids: tuple[int, ...]) -> Sequence[Place]:
        found = self.told.get(key_of(ids))
        if found is None:
            raise ModelError("a text of the data was never answered or scored by the remote teacher. Label again.")
        return found


Scored = tuple[tuple[int, ...], list[Place], Mapping[str, Any]]
"""A text's tokens, what was told at each, and what that took, as plain values."""


class ScoringTeacher(ToldTeacher):
    """A teacher that a server is asked of, text by text, each once: what it said is kept in a file, a text a line."""

    def __init__(
        self, score: Callable[[Sequence[tuple[int, ...]]], Iterator[Scored]], file: Path, *, vocab_size: int
    ) -> None:
        self.score, self.file = score, file
        super().__init__(read_told(file), vocab_size=vocab_size)

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """As of any that was told, after asking for what is missing."""
        if missing := self.missing(documents_of(batch)):
            self.hear(missing)
        return super().signals(batch, wanted)

    def missing(self, texts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Those of which nothing was told yet, each once."""
        return [ids for ids in dict.fromkeys(texts) if key_of(ids) not in self.told]

    def hear(self, texts: Sequence[tuple[int, ...]], *, tell: Callable[[], None] = lambda: None) -> None:
        """Ask about these, many at once, and keep each in the moment in which it comes."""

        def keep(scored: Scored) -> None:
            ids, places, paid = scored
            if key_of(ids) not in self.told:
                append_line(self.file, {"key": key_of(ids), **paid, "places": places})
                self.told[key_of(ids)] = places
                tell()

        keep_each(self.score(texts), keep)


def read_told(file: Path) -> dict[str, list[Place]]:
    """What a file keeps of texts, by the hash of their tokens."""
    return {line["key"]: _places(line["places"]) for line in read_lines(file)}


def _places(plain: Any) -> list[Place]:
    return [tuple((int(token), float(logprob)) for token, logprob in place) for place in plain]
