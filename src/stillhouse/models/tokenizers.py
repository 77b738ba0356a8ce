"""Whether two models speak one language of tokens, told from their tokenizers and configurations alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from stillhouse.core.alignment import align
from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import text_config
from stillhouse.models.load import check_serves, display_name, load_config, load_tokenizer, without_weights
from stillhouse.models.token_bytes import (
    TextCutter,
    falls_back_to_bytes,
    outcomes_of,
    spelling_of,
)

Verdict = Literal["identical", "padded", "different", "refused"]

NONE = "none"
ENGLISH = (
    "One day the old man took his boat and went out to sea. Nobody in the village believed that he would come back, but "
    'by the evening he had caught 12 fish, and said: "That\'s unbelievably good!"\n'
)
OTHERS = (
    "def area(radius):\r\n    return 3.14159 * radius ** 2\r\n\r\n"
    "你好，世界。今日はいい天気ですね。 Привет, мир! naïve façade   👩‍👩‍👧 🦊\n"
)


@dataclass(frozen=True)
class Speaker:
    """A model, as far as it is known without its weights."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig

    @property
    def num_tokens(self) -> int:
        """Ids that mean something."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @property
    def num_rows(self) -> int:
        """Logits that its head has: the tokens, and often some that only fill it up."""
        return int(text_config(self.config).vocab_size)

    @property
    def predicts(self) -> bool:
        """Whether it says what comes next, rather than read both ways."""
        try:
            check_serves(self.config, "causal_lm", source=self.name)
        except ModelError:
            return False
        return True


@dataclass(frozen=True)
class Finding:
    """One thing that was compared, in words for both sides."""

    aspect: str
    teacher: str
    student: str
    agrees: bool


@dataclass(frozen=True)
class TokenizerVerdict:
    """Whether a teacher can teach a student token by token, and what the way is if not."""

    verdict: Verdict
    reason: str
    road: tuple[str, ...]
    """What to do, one sentence each."""
    findings: tuple[Finding, ...]


def read_speaker(source: str) -> Speaker:
    """The tokenizer and configuration of a hub id, a folder, or a GGUF file.

    Raises:
        ModelError: if it is not there or has none.
    """
    place = without_weights(source)
    return Speaker(display_name(source), load_tokenizer(place), load_config(place))


def compare_tokenizers(teacher: Speaker, student: Speaker) -> TokenizerVerdict:
    """The verdict on a pair, before any training. No weight is read."""
    findings = tuple(_findings(teacher, student))
    verdict, reason, road = _judged(teacher, student)
    if verdict in ("identical", "padded") and not _cut_alike(teacher, student):
        road += ("They cut text differently into these same tokens: let the teacher's tokenizer cut all of it.",)
    if any(finding.aspect == "chat template" and not finding.agrees for finding in findings) and verdict != "refused":
        road += ("Their chat templates differ: show each model a conversation in its own.",)
    return TokenizerVerdict(verdict, reason, road, findings)


def _judged(teacher: Speaker, student: Speaker) -> tuple[Verdict, str, tuple[str, ...]]:
    for role, speaker in (("teacher", teacher), ("student", student)):
        if speaker.num_rows < speaker.num_tokens:
            return _refused(
                f"the {role}'s head has {speaker.num_rows:,} rows, but its tokenizer {speaker.num_tokens:,} tokens: some of "
                "them it can neither read nor say.",
                "Resize its embeddings, or put the tokenizer beside it that it was trained with.",
            )
    shared = _shared_ids(teacher, student)
    if shared is not None:
        return _same_ids(teacher, student, shared)
    for role, speaker in (("teacher", teacher), ("student", student)):
        if not speaker.predicts:
            return _refused(
                f"the tokenizers differ, and the {role} reads text in both directions: it has no next-token probabilities that "
                "could be multiplied over a span of text.",
                "Make the student from the teacher's layers, or from a checkpoint with the teacher's tokenizer.",
            )
        if not speaker.tokenizer.is_fast or spelling_of(speaker.tokenizer) == "words":
            return _refused(
                f"the tokenizers differ, and of the {role}'s ({type(speaker.tokenizer).__name__}) it cannot be told which "
                "bytes of a text a token stands for.",
                "Let the teacher write text and learn that (`stillhouse synthesize`), or choose another pair.",
            )
    return _different(teacher, student)


def _refused(reason: str, advice: str) -> tuple[Verdict, str, tuple[str, ...]]:
    return "refused", reason[0].upper() + reason[1:], (advice,)


def _same_ids(teacher: Speaker, student: Speaker, shared: int) -> tuple[Verdict, str, tuple[str, ...]]:
    rows = {teacher.num_rows, student.num_rows, teacher.num_tokens, student.num_tokens}
    every = ("Every objective can compare them token by token.",)
    if len(rows) == 1:
        return "identical", f"All {shared:,} ids mean the same to both.", every
    extra = max(teacher.num_tokens, student.num_tokens) - shared
    only = f" {extra:,} added tokens only one side has; no text may use them." if extra else ""
    cut = (
        f"Cut both heads to the first {shared:,} rows, as training does: a row beyond is no token, and must not be given a "
        "logit of zero in the other head.",
    )
    return (
        "padded",
        f"The first {shared:,} ids mean the same to both; what a head has beyond is no token.{only}",
        every + cut,
    )


def _different(teacher: Speaker, student: Speaker) -> tuple[Verdict, str, tuple[str, ...]]:
    outcomes = outcomes_of(student.tokenizer, teacher.tokenizer)
    share = outcomes.student_tokens / student.num_tokens
    reason = (
        f"{_num_same_ids(teacher, student):,} ids mean the same to both; to compare token by token would compare other words. "
        f"Spelt out in bytes, {share:.0%} of the student's tokens begin an outcome that the teacher can name too."
    )
    return (
        "different",
        reason,
        (
            "Compare across spans of text that both cut alike: span_forward_kl, span_reverse_kl and span_hybrid make of both "
            "sides' answers distributions over the same outcomes.",
            "Beside next_token, span_sorted_mass (ULD) asks for the shape of the teacher's distribution, in whichever words.",
            "In a recipe: student {kind: checkpoint, model: ...}, data of kind text or chat, and these objectives. See "
            "docs/objectives/cross-tokenizer.md.",
        ),
    )


def _shared_ids(teacher: Speaker, student: Speaker) -> int | None:
    """How many ids, from 0 on, mean the same to both where those are all but added tokens of one side; else None."""
    short, long = sorted((teacher, student), key=lambda speaker: speaker.num_tokens)
    names = short.tokenizer.get_vocab()
    more = {token: number for token, number in long.tokenizer.get_vocab().items() if names.get(token) != number}
    if len(long.tokenizer.get_vocab()) - len(more) < len(names):
        return None
    added = set(long.tokenizer.added_tokens_decoder)
    needed = {long.tokenizer.eos_token_id, end_of_turn(long.tokenizer)}
    extra = set(more.values())
    fits = all(number >= short.num_tokens for number in extra) and extra <= added and not extra & needed
    return short.num_tokens if fits else None


def _num_same_ids(teacher: Speaker, student: Speaker) -> int:
    names = student.tokenizer.get_vocab()
    return sum(names.get(token) == number for token, number in teacher.tokenizer.get_vocab().items())


def _cut_alike(teacher: Speaker, student: Speaker) -> bool:
    """Whether a text becomes the same ids on both sides, as far as two samples can tell."""
    return all(
        teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
        == student.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (ENGLISH, OTHERS)
    )


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an answer: what the chat template puts after one, or else the end of a text."""
    mark = "\ue000"  # private: no template has it
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    try:
        shown: Any = tokenizer.apply_chat_template(turns, tokenize=False) if tokenizer.chat_template else ""
    except (TemplateError, ValueError, KeyError, TypeError):  # a template may refuse the conversation
        shown = ""
    after = tokenizer(str(shown).rpartition(mark)[2], add_special_tokens=False)["input_ids"] if mark in shown else []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((number for number in after if number in special), tokenizer.eos_token_id)


def _findings(teacher: Speaker, student: Speaker) -> Iterator[Finding]:
    aspects: dict[str, Callable[[Speaker], str]] = {
        "tokens": lambda speaker: f"{speaker.num_tokens:,}",
        "rows of the head": lambda speaker: f"{speaker.num_rows:,}",
        "writes text as": _kind,
        "other characters": _unknown,
        "added tokens": lambda speaker: f"{len(speaker.tokenizer.added_tokens_decoder):,}",
        "before a text": _beginning,
        "start of a text": lambda speaker: _named(speaker, speaker.tokenizer.bos_token_id),
        "end of a text": lambda speaker: _named(speaker, speaker.tokenizer.eos_token_id),
        "end of a turn": lambda speaker: _named(speaker, end_of_turn(speaker.tokenizer)),
        "padding": lambda speaker: _named(speaker, speaker.tokenizer.pad_token_id),
        "unknown token": lambda speaker: _named(speaker, speaker.tokenizer.unk_token_id),
        "chat template": _template,
    }
    for aspect, describe in aspects.items():
        ours, theirs = describe(teacher), describe(student)
        # Two templates of equal length may still say different things.
        templates = teacher.tokenizer.chat_template, student.tokenizer.chat_template
        agrees = templates[0] == templates[1] if aspect == "chat template" else ours == theirs
        yield Finding(aspect, ours, theirs, agrees)
        if aspect == "rows of the head":
            same = _num_same_ids(teacher, student)
            ours, theirs = (f"{same:,} of {len(one.tokenizer.get_vocab()):,}" for one in (teacher, student))
            yield Finding("ids in common", ours, theirs, ours == theirs == f"{same:,} of {same:,}")
    if teacher.tokenizer.is_fast and student.tokenizer.is_fast:
        yield _sample("tokens of English", teacher, student, ENGLISH)
        yield _sample("of code, CJK, emoji", teacher, student, OTHERS)


def _kind(speaker: Speaker) -> str:
    if not speaker.tokenizer.is_fast:
        return type(speaker.tokenizer).__name__
    return spelling_of(speaker.tokenizer)


def _unknown(speaker: Speaker) -> str:
    tokenizer = speaker.tokenizer
    if tokenizer.is_fast and (spelling_of(tokenizer) == "bytes" or falls_back_to_bytes(tokenizer)):
        return "spelt in bytes"
    return "unknown" if tokenizer.unk_token_id is not None else "left out"


def _beginning(speaker: Speaker) -> str:
    """The special tokens that it puts before every text."""
    bare = speaker.tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = speaker.tokenizer("a")["input_ids"]
    before = whole[: next((start for start in range(len(whole)) if whole[start : start + len(bare)] == bare), 0)]
    return " ".join(speaker.tokenizer.convert_ids_to_tokens(before)) or NONE


def _named(speaker: Speaker, number: int | None) -> str:
    return NONE if number is None else f"{speaker.tokenizer.convert_ids_to_tokens(number)} ({number})"


def _template(speaker: Speaker) -> str:
    template = speaker.tokenizer.chat_template
    if template is None:
        return NONE
    return f"{len(template):,} characters" if isinstance(template, str) else f"{len(template)} templates"


def _sample(aspect: str, teacher: Speaker, student: Speaker, text: str) -> Finding:
    """Into how many tokens both cut a sample, and how many of them stand side by side."""
    cuts = [TextCutter(speaker.tokenizer).cut(text) for speaker in (teacher, student)]
    spans = align(torch.tensor(cuts[1].ends), torch.tensor(cuts[0].ends))
    alike = int(spans.one_to_one.sum())
    ours, theirs = (f"{len(cut.ids)}, {alike / len(cut.ids):.0%} one to one" for cut in cuts)
    return Finding(aspect, ours, theirs, cuts[0].ids == cuts[1].ids)
