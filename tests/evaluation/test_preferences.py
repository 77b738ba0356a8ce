"""Which answer is preferred: every number by its definition, over prompts, and the same when it is read back."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from stillhouse.core.results import EvaluationResult, HeldOut
from stillhouse.data.examples import Example
from stillhouse.data.preferences import AnswerPair
from stillhouse.evaluation import preferences
from stillhouse.evaluation.preferences import HeldOutPairs, judge_preferences
from stillhouse.reporting.preferences import preference_lines, preference_view

ROLES = ("teacher", "student_before", "student")


def make_pair(number):
    """Four prompts, of one of which there are three pairs; answers of 1 to 5 tokens."""
    prompt = (5, 6, 7, 8 + max(0, number - 2))
    sides = [(1 + (3 * number + k) % 5) for k in (0, 2)]
    return AnswerPair(*(Example((*prompt, *[k + 9] * n), (0.0,) * 4 + (1.0,) * n) for k, n in enumerate(sides)))


PAIRS = [make_pair(number) for number in range(6)]


@pytest.fixture
def everyone(build_model):
    """A model for each role, and the teacher's reference: who they are, and not what they say, matters here."""
    return {name: build_model(layers=1, hidden=8, vocab=30) for name in (*ROLES, "reference")}


@pytest.fixture
def said(monkeypatch, everyone):
    """What each model gives both answers: told, not computed."""
    random = torch.Generator().manual_seed(3)
    told = {name: -9 * torch.rand(len(PAIRS), 2, generator=random) for name in everyone}
    names = {id(model): name for name, model in everyone.items()}
    monkeypatch.setattr(preferences, "weigh", lambda model, pairs, **_: told[names[id(model)]])
    return told


def by_definition(margin):
    longer = np.array([len(pair.chosen.ids) - len(pair.rejected.ids) for pair in PAIRS])
    unequal = longer != 0
    return {
        "accuracy": np.mean((margin > 0) + 0.5 * (margin == 0)),
        "margin": margin.mean(),
        "length_correlation": spearmanr(margin, longer).statistic if np.ptp(margin) else 0.0,
        "prefers_longer": np.mean((margin * np.sign(longer) > 0)[unequal] + 0.5 * (margin == 0)[unequal]),
    }


def test_every_number_is_what_it_is_by_definition(said, everyone):
    models = {role: everyone[role] for role in ROLES}
    found = judge_preferences(models, HeldOutPairs(PAIRS, lambda: everyone["reference"]), vocab_size=30)
    bases = {"teacher": "reference", "student": "student_before", "student_before": "student_before"}
    readings = {(row.role, row.liking): row for row in found.result.readings}
    assert readings.keys() == {(role, liking) for role in ROLES for liking in ("reward", "likelihood")}
    for (role, liking), row in readings.items():
        ratios = said[role] - (said[bases[role]] if liking == "reward" else 0)
        margin = (ratios[:, 0] - ratios[:, 1]).double().numpy()
        for name, value in by_definition(margin).items():
            assert getattr(row, name).value == pytest.approx(value, abs=1e-6), (role, liking, name)
    assert (found.result.pairs, found.result.prompts, found.num_prompts) == (6, 4, 4)
    lengths = [[len(side.ids) - 4 for side in pair.sides] for pair in PAIRS]
    means = np.mean(lengths, axis=0)
    assert (found.result.chosen_tokens.value, found.result.rejected_tokens.value) == pytest.approx(tuple(means))
    unequal = [one > other for one, other in lengths if one != other]
    assert found.result.chosen_is_longer.value == pytest.approx(np.mean(unequal))


def test_pairs_of_one_prompt_are_drawn_together(said, everyone):
    """Three pairs of one prompt are right or wrong at once: an interval over pairs would be narrower."""
    said["student"] = torch.stack([torch.tensor([5.0, 5, 5, -5, -5, -5]), torch.zeros(6)], -1)
    said["student_before"] = torch.zeros(6, 2)
    models = {role: everyone[role] for role in ROLES}
    found = judge_preferences(models, HeldOutPairs(PAIRS), vocab_size=30)
    (row,) = (one for one in found.result.readings if (one.role, one.liking) == ("student", "reward"))
    # Of four prompts, none of which may be that one, and three seldom are, which makes nine pairs of ten.
    assert (row.accuracy.value, row.accuracy.low, row.accuracy.high) == pytest.approx((0.5, 0.0, 0.9))
    assert not any((one.role, one.liking) == ("teacher", "reward") for one in found.result.readings)
    assert found.accuracies["teacher"] == {}


def test_a_result_is_read_back_as_it_was_and_shown(said, everyone):
    models = {role: everyone[role] for role in ROLES}
    found = judge_preferences(models, HeldOutPairs(PAIRS, lambda: everyone["reference"]), vocab_size=30).result
    result = EvaluationResult(HeldOut(6, 30), [], [], preferences=found)
    again = EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.preferences == found
    view = preference_view(again)
    assert view is not None and len(view.tables[0].rows) == 6
    assert [row.role for row in view.tables[0].rows][:3] == ["teacher", "student", "student_before"]
    assert len(preference_lines(found)) == 2
    assert preference_view(EvaluationResult(HeldOut(6, 30), [], [])) is None
