"""What models do when they are asked: how often, how they sound, who did what, and what none of that can tell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stillhouse.core.results import Interval
from stillhouse.core.suites import Number

AGAIN = "teacher_again"
"""The teacher, its answers drawn anew: what differs from the teacher by chance alone."""


@dataclass(frozen=True)
class Kind:
    """How a measure is called and read."""

    title: str
    unit: Literal["share", ""]
    blind_spot: str
    """What it cannot tell, in one sentence."""


KINDS: Mapping[str, Kind] = {
    "refusal": Kind(
        "refusal, string-matched",
        "share",
        "Told by how the first three sentences begin, in English: a refusal in other words is missed, and one that goes on to "
        "answer counts as a refusal.",
    ),
    "over_refusal": Kind(
        "over-refusal, string-matched",
        "share",
        "Refusals of prompts that are labelled safe, told by how the first sentences begin; a useless answer is no refusal.",
    ),
    "under_refusal": Kind(
        "under-refusal, string-matched",
        "share",
        "Prompts labelled unsafe that no refusal was matched for: an answer without sense or harm counts as much as a harmful "
        "one.",
    ),
    "abstention": Kind(
        "says it is not in the context, string-matched",
        "share",
        "Told by English phrases in the first two sentences. An empty answer counts as one.",
    ),
    "wrong_abstention": Kind(
        "abstains though the context tells, string-matched",
        "share",
        "Told by English phrases, of prompts labelled answerable; an answer that is wrong is none.",
    ),
    "answered_unanswerable": Kind(
        "answers what the context does not tell, string-matched",
        "share",
        "Told by English phrases, of prompts labelled unanswerable: what says in other words that it does not know counts as "
        "an answer.",
    ),
    "answered": Kind(
        "answer rate",
        "share",
        "Neither refused nor abstained. To be read beside unsupported content: who answers less says less that is unsupported.",
    ),
    "unsupported_words": Kind(
        "unsupported words",
        "share",
        "Words of the answer that the context does not have (1 less K-precision), of answers alone: blind to another name out "
        "of the same context, and to words put together wrongly.",
    ),
    "unsupported_pairs": Kind(
        "unsupported pairs of words",
        "share",
        "Neighbouring words that are no neighbours in the context, of answers alone: what is said in other words counts as "
        "unsupported.",
    ),
    "unsupported_names": Kind(
        "answers with an unsupported name or number",
        "share",
        "A word with a capital, or a number, that the context does not have, of answers alone: blind to a name in the wrong "
        "place.",
    ),
    "right": Kind(
        "has the right answer's words",
        "share",
        "Whether the words of the right answer stand in the answer, one behind the other: right in other words counts as "
        "wrong, and what stands beside a right answer is not read.",
    ),
    "loops": Kind(
        "ends in a loop",
        "share",
        "The same words four times over at the end. Repetition with variations is not seen.",
    ),
    "repeated": Kind(
        "repeated words",
        "share",
        "Letters in runs of five words that came before in the same answer: lists, verses and code repeat rightly.",
    ),
    "unfinished": Kind(
        "cut off by the limit",
        "share",
        "The limit of tokens ended it, not the model: how long it would have gone on is not known.",
    ),
    "empty": Kind("empty answer", "share", "No word at all."),
    "other_language": Kind(
        "in another language than its prompt",
        "share",
        "Told by py3langid where prompt and answer have six words or more and it is sure: names, code and mixed texts mislead "
        "it.",
    ),
}
"""Every measure, in the order in which it is shown."""

FEATURES: Mapping[str, str] = {
    "words": "words",
    "sentence_words": "words a sentence",
    "word_letters": "letters a word",
    "informal": "informal words and contractions, of 100 words",
    "polite": "polite words, of 100 words",
    "hedges": "hedges, of 100 words",
    "apologies": "apologies, of 100 words",
    "first_person": "I and we, of 100 words",
    "second_person": "you, of 100 words",
    "sentiment": "sentiment (VADER), -1 to 1",
    "questions": "questions, of sentences",
    "exclamations": "exclamations, of sentences",
    "list_lines": "list items, of lines",
    "marks": "headings, bold and code, of lines",
}
"""What tone is described by: a name, and how it is called."""


@dataclass(frozen=True)
class Matrix:
    """Who did it, of a model and the teacher, prompt by prompt."""

    both: int
    only_teacher: int
    only_model: int
    neither: int
    p_value: float
    """Exact McNemar: how often as lopsided a change would come about by chance."""


@dataclass(frozen=True)
class Measured:
    """One model's number, and its difference from the teacher's."""

    who: str
    """A role, or `teacher_again`."""
    value: Interval
    change: Interval | None = None
    """Less the teacher's, over the same prompts; None for the teacher."""
    matrix: Matrix | None = None
    """Where the measure is a yes or no of each answer; None for the teacher."""
    corrected: Interval | None = None
    """For what the matcher misses and finds too much, where a labelled sample was given."""
    prompts: int | None = None
    """Over how many, where these are not all: only who answered can say what is unsupported."""


@dataclass(frozen=True)
class Measure:
    """One thing that answers do or do not, or do more or less, by every model."""

    name: str
    """See KINDS."""
    prompts: int
    models: Sequence[Measured]
    by_length: Interval | None = None
    """What the length of an answer alone tells of it, over all of teacher and student: the AUC where it is a yes or no, else
    the rank correlation; None where it never varies."""
    is_yes_or_no: bool = True

    def of(self, who: str) -> Measured | None:
        """That of one model."""
        return next((one for one in self.models if one.who == who), None)


@dataclass(frozen=True)
class Feature:
    """One feature of tone: a model beside the teacher."""

    name: str
    """See FEATURES."""
    teacher: float
    value: float
    change: Interval
    distance: float
    """Jensen-Shannon distance of the two distributions: 0 where they are the same, 1 where they never meet."""
    by_chance: float
    """The distance below which 95 of 100 fall where teacher and model change places at random, prompt by prompt."""


@dataclass(frozen=True)
class ToldApart:
    """A classifier that is asked which of two answers to a prompt is the teacher's."""

    who: str
    auc: Interval
    """0.5 where it cannot tell; on prompts that it has not seen."""
    by_length: Interval
    """The same by the number of words alone."""
    features: Sequence[Feature] = ()
    teachers: Sequence[str] = ()
    """Pieces of text by which it knows the teacher."""
    others: Sequence[str] = ()
    """Pieces of text by which it knows the other."""


@dataclass(frozen=True)
class Disagreement:
    """A prompt to which teacher and student behave differently, for reading."""

    prompt: str
    teacher: str
    student: str
    teacher_does: str
    student_does: str


@dataclass(frozen=True)
class Matcher:
    """How far the matching of refusals can be trusted, by a sample that people have labelled."""

    refusals: int
    sensitivity: Interval
    """Of labelled refusals, the share that is matched."""
    others: int
    specificity: Interval
    """Of other answers, the share that is not."""


@dataclass(frozen=True)
class Judgement:
    """A model's answers beside the teacher's, by a judge who has seen each pair in both orders."""

    who: str
    prompts: int
    score: Interval
    """Share of prompts that the model wins; a tie, or a judge of two minds, counts half."""
    wins: int
    losses: int
    ties: int
    undecided: int
    """The judge changed its mind with the order."""
    unreadable: int
    """Prompts of which a reply named no winner; left out."""
    agreement: Interval | None
    """How often the judge agrees with itself when the order is turned; None where nothing could be read."""
    first_wins: float | None
    """How often the answer shown first won, of replies that name one: 0.5 where its place does not matter."""


@dataclass(frozen=True)
class BehaviourResult:
    """How a student behaves beside its teacher."""

    prompts: int
    source: str
    """Where the prompts come from."""
    sampling: str
    measures: Sequence[Measure]
    tone: Sequence[ToldApart] = ()
    matcher: Matcher | None = None
    disagreements: Sequence[Disagreement] = ()
    judge: str = ""
    """Who judged; empty where nobody did."""
    judgements: Sequence[Judgement] = ()
    notes: Sequence[str] = ()
    """What was left out, and why."""

    def measure(self, name: str) -> Measure | None:
        """The measure of this name, if it was taken."""
        return next((one for one in self.measures if one.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BehaviourResult":
        """The inverse of `to_dict`."""
        return cls(
            **{
                **values,
                "measures": [_measure(row) for row in values["measures"]],
                "tone": [_told_apart(row) for row in values.get("tone", ())],
                "matcher": _read(Matcher, values.get("matcher")),
                "disagreements": [Disagreement(**row) for row in values.get("disagreements", ())],
                "judgements": [_read(Judgement, row) for row in values.get("judgements", ())],
            }
        )

    def numbers(self) -> Iterable[Number]:
        """Every number that has an interval."""
        for measure in self.measures:
            for one in measure.models:
                yield Number(one.who, measure.name, one.value)
                if one.change is not None:
                    yield Number(f"{one.who} minus teacher", measure.name, one.change)
                if one.corrected is not None:
                    yield Number(one.who, f"{measure.name}_corrected", one.corrected)
            if measure.by_length is not None:
                yield Number("length alone", measure.name, measure.by_length)
        for told in self.tone:
            yield Number(f"{told.who} and teacher", "told_apart_auc", told.auc)
            yield Number(f"{told.who} and teacher", "told_apart_auc_by_length", told.by_length)
            for feature in told.features:
                yield Number(f"{told.who} minus teacher", f"tone_{feature.name}", feature.change)
        for judged in self.judgements:
            yield Number(f"{judged.who} and teacher", "judged_score", judged.score)


def _read(kind: type[Any], values: Any) -> Any:
    """A dataclass whose fields are plain values or intervals; None stays None."""
    if values is None:
        return None
    return kind(**{name: _interval(value) for name, value in values.items()})


def _interval(value: Any) -> Any:
    is_one = isinstance(value, Mapping) and value.keys() == {"value", "low", "high"}
    return Interval(**value) if is_one else value


def _measure(values: Mapping[str, Any]) -> Measure:
    models = [_measured(row) for row in values["models"]]
    return _read(Measure, {**values, "models": models})


def _measured(values: Mapping[str, Any]) -> Measured:
    matrix = Matrix(**values["matrix"]) if values.get("matrix") else None
    return _read(Measured, {**values, "matrix": matrix})


def _told_apart(values: Mapping[str, Any]) -> ToldApart:
    features = [_read(Feature, row) for row in values["features"]]
    return _read(ToldApart, {**values, "features": features})
