"""Each alarm sounds for what it is for, with its figures, and for nothing else."""

import math
from random import Random

import pytest

from stillhouse.training.alarms import WINDOW, Inspected, alarms, reward_outruns_agreement

MOST = 128
HEALTHY = {
    "answer_tokens": (60, 75),
    "finished_share": (0.6, 0.9),
    "answer_entropy": (2.0, 0.9),
    "top1_agreement": (0.45, 0.7),
    "weightless_share": (0.0, 0.0),
}
NOISE = {
    "answer_tokens": 12,
    "finished_share": 0.1,
    "answer_entropy": 0.2,
    "top1_agreement": 0.05,
    "weightless_share": 0,
}


def _steps(num_steps=60, *, seed=0, **courses):
    """Numbers that go from one value to another, with the noise of a step's few answers."""
    random, found = Random(seed), []
    for step in range(num_steps):
        share, line = step / max(1, num_steps - 1), {"step": step + 1}
        for name, (first, last) in {**HEALTHY, **courses}.items():
            value = first + share * (last - first) + NOISE[name] * (random.random() - 0.5)
            line[name] = max(0.0, value if name in ("answer_tokens", "answer_entropy") else min(1.0, value))
        found.append(line)
    return found


def _sounded(**courses):
    return alarms(_steps(**courses), most_tokens=MOST)


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_raises_no_alarm_in_any_of_its_steps(seed):
    steps = _steps(seed=seed)
    assert all(alarms(steps[:end], most_tokens=MOST) == {} for end in range(len(steps) + 1))


GONE_WRONG = {
    "answers_grow": {"answer_tokens": (40, 127), "finished_share": (0.8, 0.1)},
    "answers_collapse": {"answer_tokens": (60, -10)},
    "end_never_learnt": {"answer_tokens": (128, 128), "finished_share": (-0.1, -0.1)},
    "entropy_collapses": {"answer_entropy": (1.2, -0.2)},
    "agreement_falls": {"top1_agreement": (0.6, 0.3)},
    "rows_without_weight": {"weightless_share": (0.0, 0.9)},
}


@pytest.mark.parametrize(("name", "courses"), GONE_WRONG.items())
def test_each_fault_sounds_its_own_alarm_and_no_other(name, courses):
    assert list(_sounded(**courses)) == [name]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("answers_grow", ["limit of 128 tokens", "since step 51", "end where"]),
        ("answers_collapse", ["since step 51", "where the first had 5"]),
        ("end_never_learnt", ["0% of the answers end before 128 tokens since step 51"]),
        ("entropy_collapses", ["nats a token since step 51, from 1.1"]),
        ("agreement_falls", ["agree on 32% since step 51, where 58% was reached"]),
        ("rows_without_weight", ["of the rows carry no weight since step 51"]),
    ],
)
def test_an_alarm_says_its_figures(name, figures):
    sentence = _sounded(**GONE_WRONG[name])[name]
    assert all(figure in sentence for figure in figures), sentence


@pytest.mark.parametrize("courses", GONE_WRONG.values())
def test_nothing_is_said_before_there_are_two_windows(courses):
    assert alarms(_steps(2 * WINDOW - 1, **courses), most_tokens=MOST) == {}


@pytest.mark.parametrize(
    "courses",
    [
        {"answer_tokens": (40, 120), "finished_share": (0.8, 0.8)},  # longer, but they end
        {"answer_tokens": (2, 1)},  # there was nothing to shrink
        {"finished_share": (0.0, 0.9), "answer_tokens": (128, 60)},  # the end is being learnt
        {"answer_entropy": (9.0, 0.6)},  # from noise to speech
        {"answer_entropy": (0.05, 0.04)},  # short facts, sure from the start
        {"top1_agreement": (0.5, 0.48)},
        {"weightless_share": (0.2, 0.2)},
    ],
)
def test_what_only_resembles_a_fault_raises_no_alarm(courses):
    assert _sounded(**courses) == {}


def test_steps_without_an_answer_are_passed_over():
    faulty = _steps(**GONE_WRONG["agreement_falls"])
    between = [line for step in faulty for line in (step, {"step": step["step"], "loss": 1.0})]
    assert alarms(between, most_tokens=MOST) == alarms(faulty, most_tokens=MOST)


def test_a_reward_that_rises_while_agreement_falls_is_told():
    before = [
        Inspected(0, [1.0, 2.0, 3.0, 2.0], [0.5, 0.6, 0.5, 0.6]),
        Inspected(5, [1.5, 2.6, 3.4, 2.5], [0.4, 0.5, 0.5, 0.5]),
    ]
    now = Inspected(10, [3.0, 4.1, 5.0, 4.2], [0.2, 0.3, 0.3, 0.2])
    said = reward_outruns_agreement(before, now)
    assert said and "risen by 2.08 since step 0" in said and "fallen by 30.0%" in said


@pytest.mark.parametrize(
    ("rewards", "agreements"),
    [
        ([3.0, 4.1, 5.0, 4.2], [0.5, 0.6, 0.5, 0.7]),  # agreement holds
        ([1.0, 2.1, 2.9, 2.0], [0.2, 0.3, 0.3, 0.2]),  # the reward stays
        ([9.0, 2.0, 0.0, 2.5], [0.2, 0.3, 0.3, 0.2]),  # one prompt alone
        ([math.nan] * 4, [0.2, 0.3, 0.3, 0.2]),
        ([3.0, 4.1, 5.0, 4.2], []),
    ],
)
def test_a_reward_alone_is_no_alarm(rewards, agreements):
    first = Inspected(0, [1.0, 2.0, 3.0, 2.0], [0.5, 0.6, 0.5, 0.6] if agreements else [])
    assert reward_outruns_agreement([first], Inspected(5, rewards, agreements)) is None
