"""The last student's completions of held-out beginnings, beside the originals: by every measure, and by a judge."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.stories.texts import Story
from stillhouse.core.errors import DataError
from stillhouse.core.progress import working
from stillhouse.core.rouge import words_of
from stillhouse.core.story_results import CopiedRun, RoundResult, StoryResult, StorySample, WriterResult
from stillhouse.core.word_forms import holds
from stillhouse.data.text import Row, to_examples
from stillhouse.evaluation.asking import Question
from stillhouse.evaluation.behaviour.judge import judge_of, judged
from stillhouse.evaluation.stories import (
    Copied,
    Learnt,
    Written,
    bits_per_byte,
    from_open_sentence,
    grammar_bounds,
    measures_of,
    parses_of,
    predicted,
    self_bleu,
)
from stillhouse.evaluation.stories.grading import graded
from stillhouse.evaluation.stories.memory import LONG
from stillhouse.evaluation.stories.writing import GrammarBounds
from stillhouse.models.anatomy import parameter_count
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.synthesis.diversity import distinct
from stillhouse.synthesis.worlds import World
from stillhouse.synthesis.worlds.instruct import asked_in
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import LocalWriter, Request

if TYPE_CHECKING:
    from stillhouse.commands.stories.pipeline import StoryPipeline

MOST_TOKENS = 1024
"""Of a text that the teacher reads to say how likely it is."""
BATCH_SIZE = 16


@dataclass(frozen=True)
class Start:
    """What a model goes on from: the beginning of a text, or an instruction; and how the original went on."""

    shown: str
    original: str
    asked: tuple[tuple[str, str], ...] = ()
    """Kind and word that the instruction asks for."""
    is_instruction: bool = False

    def lacking(self, world: World, text: str) -> tuple[str, ...]:
        """Words that were asked for and are not in a text."""
        found = words_of(text)
        return tuple(word for kind, word in self.asked if not holds(found, word, world.parts[kind].inflect))


def starts_of(stories: Sequence[Story], world: World, *, words: int, seed: int) -> list[Start]:
    """For texts that are learnt behind an instruction that instruction, for others their first words; none where nothing would
    be left to write."""
    found = [_start(story, world, words, seed) for story in stories]
    return [start for start in found if start.original.strip()]


def judged_starts(pipeline: "StoryPipeline") -> list[Start]:
    """Where the students are to go on from.

    Raises:
        DataError: if no held-out text goes on behind its beginning.
    """
    wanted, held_out = pipeline.recipe.evaluation, pipeline.held_out
    some = held_out[:: max(1, len(held_out) // wanted.completions)][: wanted.completions]
    starts = starts_of(some, pipeline.world, words=wanted.beginning_words, seed=pipeline.recipe.data.seed)
    if not starts:
        raise DataError(
            f"evaluation.beginning_words is {wanted.beginning_words}, but no held-out text that completions are judged by has "
            "more words. Lower it, or ask for longer texts."
        )
    return starts


def _start(story: Story, world: World, words: int, seed: int) -> Start:
    instruction = story.instruction(world, seed=seed)
    if instruction:
        has_words = "Words" in asked_in(instruction)
        asked = tuple((kind, word) for kind, word in story.lineage["words"]) if has_words else ()
        return Start(instruction, story.text, asked, is_instruction=True)
    shown = first_words(story.text, words)
    return Start(shown, story.text[len(shown) :])


def first_words(text: str, words: int) -> str:
    """The text up to the end of its first so many words, as it is written."""
    place = 0
    for word in text.split()[:words]:
        place = text.index(word, place) + len(word)
    return text[:place]


def measured(pipeline: "StoryPipeline", rounds: Sequence[RoundResult]) -> StoryResult:
    """The originals, the student of the first round, and that of the last."""
    wanted, held_out, starts = pipeline.recipe.evaluation, pipeline.held_out, judged_starts(pipeline)
    last = len(rounds) - 1
    numbers = {"student": last, **({"student_before": 0} if last else {})}
    said = {name: _completed(pipeline, starts, number) for name, number in numbers.items()}
    texts = {"originals": [start.original for start in starts], **said}
    written = {name: _written(pipeline, starts, of) for name, of in texts.items()}
    bounds = grammar_bounds(written["originals"], words=wanted.grammar_words)
    learnt = Learnt(story.text for story in pipeline.learnt(last))
    titles = {"originals": "originals", "student": "student", "student_before": "student, first round"}
    writers = [_result(name, titles[name], written[name], learnt, bounds) for name in titles if name in written]
    result = StoryResult(
        held_out=len(held_out),
        completions=len(starts),
        grammar=_said_of(bounds),
        writers=[_with_prediction(pipeline, one, numbers) for one in writers],
        rounds=list(rounds),
        samples=[
            StorySample(start.shown, start.original, text)
            for start, text in list(zip(starts, said["student"], strict=True))[: wanted.samples]
        ],
    )
    return result if wanted.judge is None else _judged(pipeline, result, starts, texts)


def _completed(pipeline: "StoryPipeline", starts: Sequence[Start], number: int) -> list[str]:
    """What the student of a round writes, kept as it comes."""
    source = pipeline.student_of(number)
    loaded: LoadedModel = load_causal_lm(str(source))
    writer = LocalWriter(loaded, name=f"round {number}", fingerprint=str(number), batch_size=BATCH_SIZE)
    before = str(loaded.tokenizer.bos_token or "")
    sampling = pipeline.recipe.evaluation.sampling
    requests = [
        Request(
            seed=f"completion {place}",
            sampling=sampling,
            prefix=start.shown if start.is_instruction else f"{before}{start.shown}",
        )
        for place, start in enumerate(starts)
    ]
    ledger = Ledger(pipeline.run.path / "evaluation" / f"round_{number}.jsonl", writer, progress=pipeline.progress)
    return [reply.text for reply in ledger.ask(requests, title="the student goes on")]


def _written(pipeline: "StoryPipeline", starts: Sequence[Start], texts: Sequence[str]) -> list[Written]:
    bits: Sequence[float | None] = [None] * len(texts)
    if pipeline.remote is None:
        teacher = pipeline.teacher
        of_texts = [_behind(start, text, teacher.tokenizer) for start, text in zip(starts, texts, strict=True)]
        with working(pipeline.progress, "the teacher reads", len(texts), "texts") as progress:
            bits = predicted(teacher.model, of_texts, vocab_size=len(teacher.tokenizer)).each.tolist()
            progress.advance(len(texts))
    unparsed: Sequence[float | None] = [None] * len(texts)
    if pipeline.recipe.evaluation.grammar == "link_grammar":
        unparsed = [one.unparsed for one in parses_of(list(map(_whole_sentences, starts, texts)))]
    return [
        Written(
            beginning=start.shown,
            text=text,
            lacking=start.lacking(pipeline.world, text),
            asked=len(start.asked),
            teacher_bits=needs,
            unparsed=left,
        )
        for start, text, needs, left in zip(starts, texts, bits, unparsed, strict=True)
    ]


def _whole_sentences(start: Start, text: str) -> str:
    """What a parser reads."""
    return text if start.is_instruction else from_open_sentence(start.shown, text)


def _behind(start: Start, text: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    """What the teacher reads: the text behind the beginning; alone behind an instruction, which it was never taught."""
    row = Row(text if text.strip() else ".", "" if start.is_instruction else start.shown, finished=False)
    return to_examples([row], tokenizer, max_tokens=MOST_TOKENS)


def _result(
    name: str, title: str, written: Sequence[Written], learnt: Learnt, bounds: GrammarBounds | None
) -> WriterResult:
    copied = [learnt.longest(one.text) for one in written]
    longest: Copied = max(copied, key=lambda one: one.words)
    texts = [one.text for one in written]
    diversity = {f"distinct_{size}": distinct(texts, size, words=_words(texts)) for size in (1, 2, 3)}
    return WriterResult(
        name=name,
        title=title,
        copied=CopiedRun(longest.words, longest.run, sum(one.words >= LONG for one in copied) / len(copied)),
        measures=measures_of(written, [one.words for one in copied], bounds=bounds),
        diversity={**diversity, "self_bleu": self_bleu(texts)},
    )


def _words(texts: Sequence[str]) -> int:
    """Words over which different ones are counted: distinct-n falls with their number."""
    return max(1, min(1000, sum(len(words_of(text)) for text in texts)))


def _with_prediction(pipeline: "StoryPipeline", one: WriterResult, numbers: dict[str, int]) -> WriterResult:
    if one.name not in numbers:
        return one
    source = pipeline.student_of(numbers[one.name])
    size = parameter_count(load_causal_lm(str(source)).model)
    return replace(one, parameters=size, bits_per_byte=bits_per_byte(pipeline.predicts(source)))


def _said_of(bounds: GrammarBounds | None) -> str:
    if bounds is None:
        return ""
    told = {
        "unparsed": f"of whose sentences at most {100 * bounds.most:.0f} % have no parse by Link Grammar",
        "teacher_bits": f"for which the teacher needs at most {bounds.most:.2f} bits per byte",
    }[bounds.measure]
    return (
        f"Grammatical is a completion of {bounds.words} words or more {told} and of which at most "
        f"{100 * bounds.repetition:.0f} % is said again (runs of four words): bounds within which 95 of 100 originals lie."
    )


def _judged(
    pipeline: "StoryPipeline", result: StoryResult, starts: Sequence[Start], texts: dict[str, list[str]]
) -> StoryResult:
    wanted = pipeline.recipe.evaluation.judge
    assert wanted is not None, "somebody judges"
    ask, name = judge_of(wanted.by, folder=pipeline.run.path / "evaluation", progress=pipeline.progress)
    shown = [start.shown for start in starts]
    grade = partial(graded, ask, text=pipeline.world.text, max_new_tokens=wanted.max_new_tokens)
    writers = []
    for one in result.writers:
        pairs = list(zip(shown, texts[one.name], strict=True))
        grades, ungraded = grade(one.title, pairs)
        writers.append(replace(one, grades=grades, ungraded=ungraded))
    found = judged(
        ask,
        "student",
        [Question(prefix=one) for one in shown],
        teacher=texts["originals"],
        model=texts["student"],
        prompt=wanted.prompt,
        max_new_tokens=wanted.max_new_tokens,
    )
    return replace(result, writers=writers, judge=name, comparison=asdict(found))
