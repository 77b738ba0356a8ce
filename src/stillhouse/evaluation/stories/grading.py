"""A judge who grades completions, and compares them with the originals in both orders."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stillhouse.core.results import Interval
from stillhouse.core.story_results import GRADES
from stillhouse.evaluation.behaviour.judge import AskJudge
from stillhouse.evaluation.intervals import bootstrapped, ratio
from stillhouse.models.generate import Sampling
from stillhouse.teachers.judging import filled
from stillhouse.teachers.writer import Request

GRADING = (
    "Somebody was given the beginning of a {text}, or an instruction, and went on.\n\n[Beginning or instruction]\n{beginning}"
    "\n\n[What followed]\n{written}\n\nGrade what followed, from 1 (useless) to 10 (could not be better): its grammar, its "
    "creativity, whether it is consistent with itself and with the beginning, and whether it does what was asked. Say in one "
    "sentence what decides. Then end with four lines:\nGrammar: N\nCreativity: N\nConsistency: N\nInstructions: N"
)
"""After Eldan and Li, 2023, TinyStories, arXiv:2305.07759, section 3."""
LOWEST, HIGHEST = 1, 10
GRADE = re.compile(r"^[ \t*_#>-]*(\w+)[ \t*_]*:[ \t*_]*(\d+)(?:[ \t]*/[ \t]*10)?[ \t*_.]*$")


def read_grades(text: str) -> dict[str, int] | None:
    """The four grades; None where one is missing, said twice in different ways, or out of range."""
    found: dict[str, set[int]] = {name: set() for name in GRADES}
    for line in text.splitlines():
        match = GRADE.match(line)
        if match and match[1].lower() in found:
            found[match[1].lower()].add(int(match[2]))
    grades = {name: numbers.pop() for name, numbers in found.items() if len(numbers) == 1}
    whole = len(grades) == len(GRADES) and all(LOWEST <= grade <= HIGHEST for grade in grades.values())
    return grades if whole else None


def graded(
    ask: AskJudge, who: str, pairs: Sequence[tuple[str, str]], *, text: str, max_new_tokens: int
) -> tuple[dict[str, Interval], int]:
    """The mean of each grade over (beginning, what followed), with a 95 % interval; and how many replies were unreadable."""
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    requests = [
        Request(
            seed="grades",
            sampling=sampling,
            messages=({"role": "user", "content": filled(GRADING, text=text, beginning=beginning, written=written)},),
        )
        for beginning, written in pairs
    ]
    replies = [read_grades(reply.text) for reply in ask(requests, title=f"the judge grades {who}")]
    read = [one for one in replies if one is not None]
    return _means(read), len(replies) - len(read)


def _means(grades: Sequence[Mapping[str, int]]) -> dict[str, Interval]:
    if not grades:
        return {}
    ones = np.ones(len(grades))
    statistics = {name: ratio(np.array([float(one[name]) for one in grades]), ones) for name in GRADES}
    return {name: one.interval() for name, one in bootstrapped(statistics, set_sizes=[len(grades)]).items()}
