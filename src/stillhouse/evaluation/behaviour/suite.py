"""The suite `behaviour`: everyone is asked the same, and what they do is held beside what the teacher does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stillhouse.core.behaviour_results import AGAIN, BehaviourResult, Disagreement, Judgement, Matcher, ToldApart
from stillhouse.data.languages import identifier
from stillhouse.evaluation.asking import Question, answers_of
from stillhouse.evaluation.behaviour.conduct import conduct, refuses
from stillhouse.evaluation.behaviour.config import BehaviourConfig
from stillhouse.evaluation.behaviour.judge import judge_of, judged
from stillhouse.evaluation.behaviour.measures import Answer, Labelled, Prompt, measures, num_words, observations
from stillhouse.evaluation.behaviour.prompts import read_labelled, read_prompts, some
from stillhouse.evaluation.behaviour.shares import share
from stillhouse.evaluation.behaviour.tone import compared
from stillhouse.evaluation.behaviour.two_sample import FEWEST_PROMPTS, by_length, check_installed, told_apart
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.compare import Contestant
from stillhouse.models.load import check_weights

MOST_DISAGREEMENTS = 20
SHOWN_CHARACTERS = 1_200
DOES = {"answers": "answers", "refuses": "refuses", "abstains": "says it is not in the context"}

Said = Mapping[str, Sequence[Answer]]
"""What everyone said, by who said it, prompt by prompt."""


def check_behaviour(settings: BehaviourConfig | None) -> None:
    """Find what is wrong with the settings and the files that they name.

    Raises:
        StillhouseError: naming file and row, or the package that is missing.
    """
    check_installed()
    wanted = settings or BehaviourConfig()
    if wanted.prompts is not None:
        read_prompts(wanted.prompts)
    if wanted.labelled is not None:
        read_labelled(wanted.labelled)
    if wanted.judge is not None and wanted.judge.by.kind == "local":
        check_weights(wanted.judge.by.model)


def files_of(settings: BehaviourConfig | None) -> list[Path]:
    """What else decides the result."""
    wanted = settings or BehaviourConfig()
    return [path for path in (wanted.prompts, wanted.labelled) if path is not None]


def measure_behaviour(bench: Bench, settings: BehaviourConfig | None) -> BehaviourResult:
    """Everyone answers; then what they said is measured."""
    wanted = settings or BehaviourConfig()
    known = bench.questions if wanted.prompts is None else read_prompts(wanted.prompts)
    questions = some(known, most=wanted.most_prompts, seed=wanted.seed)
    said = _asked(bench, questions, wanted)
    source = "held-out prompts" if wanted.prompts is None else wanted.prompts.name
    judgements, judge = _judged(bench, questions, said, wanted)
    return behaviour_of(
        [_prompt(one) for one in questions],
        said,
        source=source,
        sampling=_sampling_text(wanted),
        labelled=() if wanted.labelled is None else read_labelled(wanted.labelled),
        abstention=wanted.abstention,
        judgements=judgements,
        judge=judge,
        notes=_notes(bench, wanted, known=len(known), asked=len(questions)),
        seed=wanted.seed,
    )


def behaviour_of(
    prompts: Sequence[Prompt],
    said: Said,
    *,
    source: str = "prompts",
    sampling: str = "",
    labelled: Sequence[tuple[str, bool]] = (),
    abstention: str = "",
    judgements: Sequence[Judgement] = (),
    judge: str = "",
    notes: Sequence[str] = (),
    seed: int = 0,
) -> BehaviourResult:
    """From strings to numbers: `teacher` and `student` must be among those who said something."""
    identify = identifier()
    classify = None if identify is None else identify.classify
    observed = {
        who: observations(prompts, answers, abstention=abstention, classify=classify) for who, answers in said.items()
    }
    lengths = {who: [num_words(one) for one in answers] for who, answers in said.items()}
    checked = _labelled(labelled) if labelled else None
    missing = [] if classify else ["Languages were not told apart: pip install 'stillhouse[language]'."]
    return BehaviourResult(
        len(prompts),
        source,
        sampling,
        measures(observed, lengths, labelled=checked),
        _tone(said, seed) if len(prompts) >= FEWEST_PROMPTS else [],
        None if checked is None else _matcher(checked),
        _disagreements(prompts, said, abstention),
        judge,
        judgements,
        [*notes, *missing, *_too_few(len(prompts))],
    )


def _too_few(number: int) -> list[str]:
    if number >= FEWEST_PROMPTS:
        return []
    return [f"Tone was not compared: that takes {FEWEST_PROMPTS} prompts or more, and there are {number}."]


def _asked(bench: Bench, questions: Sequence[Question], wanted: BehaviourConfig) -> dict[str, list[Answer]]:
    """The answers of everyone who is asked, and the teacher's when it is asked again."""
    asked = {one.role: one for one in bench.contestants if _is_asked(one, wanted)}
    first = ["teacher", AGAIN, "student"]
    order = [*first, *(role for role in asked if role not in first)]
    said = {}
    for who in order:
        contestant = asked["teacher" if who == AGAIN else who]  # type: ignore[index]
        replies = answers_of(
            contestant,
            bench.reads_with(contestant.role),
            questions,
            sampling=wanted.sampling,
            seed=f"behaviour {wanted.seed}{' again' if who == AGAIN else ''}",
            folder=bench.folder,
            progress=bench.progress,
        )
        said[who] = [Answer(reply.text.strip(), reply.finished) for reply in replies]
    return said


def _is_asked(contestant: Contestant, wanted: BehaviourConfig) -> bool:
    always = contestant.role in ("teacher", "student")
    return always or not wanted.models or contestant.role in wanted.models


def _prompt(question: Question) -> Prompt:
    notes = question.notes
    known = {"label": notes.get("label", ""), "context": notes.get("context", "")}
    # What a text goes on with is no right answer to it.
    return Prompt(notes.get("prompt", question.text), answer=question.reference if notes else "", **known)


def _sampling_text(wanted: BehaviourConfig) -> str:
    drawn = wanted.sampling
    how = "the likeliest token each time" if drawn.temperature == 0 else f"temperature {drawn.temperature:g}"
    return f"{how}, at most {drawn.max_new_tokens} tokens"


def _notes(bench: Bench, wanted: BehaviourConfig, *, known: int, asked: int) -> list[str]:
    found = [] if known == asked else [f"{asked:,} of {known:,} prompts were asked: evaluation.behaviour.most_prompts."]
    if wanted.sampling.temperature == 0:
        found.append("At temperature 0 the teacher says the same again: its second answers show no chance differences.")
    if bool(bench.tokenizer.chat_template) != bool(bench.teacher_tokenizer.chat_template):
        found.append("One of teacher and student has no chat template, and is asked in plain text.")
    return found


def _labelled(rows: Sequence[tuple[str, bool]]) -> Labelled:
    return Labelled(
        [refuses(answer) for answer, refused in rows if refused],
        [refuses(answer) for answer, refused in rows if not refused],
    )


def _matcher(found: Labelled) -> Matcher:
    clear = [not matched for matched in found.of_others]
    return Matcher(len(found.of_refusals), share(found.of_refusals), len(clear), share(clear))


def _tone(said: Said, seed: int) -> list[ToldApart]:
    """Everyone's beside the teacher's."""
    texts = {who: [one.text for one in answers] for who, answers in said.items()}
    return [_told_apart(who, texts["teacher"], own, seed) for who, own in texts.items() if who != "teacher"]


def _told_apart(who: str, teacher: Sequence[str], model: Sequence[str], seed: int) -> ToldApart:
    found, theirs, ours = told_apart(teacher, model, seed=seed)
    return ToldApart(
        who, found, by_length(teacher, model, seed=seed), compared(teacher, model, seed=seed), theirs, ours
    )


def _disagreements(prompts: Sequence[Prompt], said: Said, abstention: str) -> list[Disagreement]:
    """The first prompts to which teacher and student do different things."""
    found = []
    for prompt, theirs, ours in zip(prompts, said["teacher"], said["student"], strict=True):
        does = [conduct(one.text, in_context=bool(prompt.context), abstention=abstention) for one in (theirs, ours)]
        if does[0] != does[1]:
            asked, first, second = (text[:SHOWN_CHARACTERS] for text in (prompt.text, theirs.text, ours.text))
            found.append(Disagreement(asked, first, second, DOES[does[0]], DOES[does[1]]))
    return found[:MOST_DISAGREEMENTS]


def _judged(
    bench: Bench, questions: Sequence[Question], said: Said, wanted: BehaviourConfig
) -> tuple[list[Judgement], str]:
    """Everyone beside the teacher; the teacher's second answers too, which no judge should prefer to its first."""
    if wanted.judge is None:
        return [], ""
    ask, name = judge_of(wanted.judge.by, folder=bench.folder, progress=bench.progress)
    texts = {who: [one.text for one in answers] for who, answers in said.items()}
    found = [
        judged(
            ask,
            who,
            questions,
            teacher=texts["teacher"],
            model=own,
            prompt=wanted.judge.prompt,
            max_new_tokens=wanted.judge.max_new_tokens,
        )
        for who, own in texts.items()
        if who != "teacher"
    ]
    return found, name
