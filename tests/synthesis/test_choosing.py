"""What choosing among answers keeps, and the laws that it keeps."""

import itertools
import math
from collections import Counter
from random import Random

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from stillhouse.core.errors import StillhouseError
from stillhouse.data.chat_forms import conversation
from stillhouse.synthesis.choosing import (
    ALONE,
    NO_AGREEMENT,
    NOT_CHOSEN,
    TIE,
    UNSCORED,
    WRONG,
    Agreement,
    BestOfN,
    ChoiceConfig,
    Pairs,
    Rejection,
    Threshold,
    Weights,
    check_choice,
    kl_bound,
    pairs_kept,
    reward_weights,
)
from stillhouse.synthesis.length_bias import correlation_over_all, correlation_within
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.rewards import Plain


def answered(question, answer, **lineage):
    return Record(({"role": "user", "content": question}, {"role": "assistant", "content": answer}), lineage=lineage)


def answers(*texts, question="?"):
    return [answered(question, text) for text in texts]


def worth(scores):
    """A reward that knows its answers."""
    return Plain("worth", lambda record: float(scores[record.answer]))


SCORES = {"a": 1, "bb": 3, "ccc": 2, "d": 2, "none": math.nan}


def kept(chosen):
    return [record.answer for record in chosen.records if not record.dropped]


def reasons(chosen):
    return Counter(record.dropped for record in chosen.records if record.dropped)


def config(**values):
    return TypeAdapter(ChoiceConfig).validate_python(values)


# Best of n.


def test_the_best_is_kept_with_the_others_beside_it():
    records = [*answers("a", "bb", "none", "ccc"), *answers("d", "a", question="!"), answered("so", "old").drop("old")]
    found = BestOfN(worth(SCORES))(records)
    assert kept(found) == ["bb", "d"]
    assert [other.answer for other in found.records[0].others] == ["a", "ccc"]
    assert found.records[0].scores == {"worth": 3.0} and found.records[0].others[1].scores == {"worth": 2.0}
    assert reasons(found) == {UNSCORED: 1, "old": 1}
    assert (found.report["prompts"], found.report["samples"], found.report["n"]) == (2, 6, 3)
    assert (found.report["mean_before"], found.report["mean_after"]) == ((1 + 3 + 2 + 2 + 1) / 5, 2.5)
    assert found.report["kl_bound"] == pytest.approx((kl_bound(3) + kl_bound(2)) / 2)


def test_nothing_to_choose_from_is_no_error():
    for choice in (BestOfN(worth({})), Threshold(worth({}), 1.0), Pairs(worth({})), Weights(worth({})), Agreement()):
        assert choice([]).records == []


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_of_n_stays_within_its_kl_bound(n, ties):
    """Every n answers that can be drawn are put to the choice: that gives its distribution exactly."""
    probs = {"w": 0.4, "x": 0.3, "y": 0.2, "z": 0.1}
    scores = {"w": 0, "x": 1, "y": 1 if ties else 2, "z": 3}
    choice, best = BestOfN(worth(scores)), Counter()
    for drawn in itertools.product(probs, repeat=n):
        best[kept(choice(answers(*drawn)))[0]] += math.prod(probs[answer] for answer in drawn)
    assert sum(best.values()) == pytest.approx(1)
    kl = sum(prob * math.log(prob / probs[answer]) for answer, prob in best.items())
    assert -1e-12 <= kl <= kl_bound(n) + 1e-12
    assert (kl > 0.3 * kl_bound(n)) or n == 1, "the bound says something"


def test_the_kl_bound_is_nearly_reached_where_no_answer_is_likely():
    n, size = 4, 4000
    ends = (np.arange(size + 1) / size) ** n
    best = np.diff(ends)
    kl = float((best * np.log(best * size)).sum())
    assert kl <= kl_bound(n) and kl == pytest.approx(kl_bound(n), abs=1e-3)


def test_one_answer_is_no_choice():
    assert kl_bound(1) == 0 and all(kl_bound(n) < kl_bound(n + 1) for n in range(1, 20))


@pytest.mark.parametrize("shift", [-7.0, 1000.0])
@pytest.mark.parametrize(
    "choice",
    [
        BestOfN,
        Pairs,
        lambda reward: Pairs(reward, "worst", 0.5),
        lambda reward: Threshold(reward, best_share=0.5),
        Weights,
    ],
)
def test_adding_to_all_rewards_chooses_the_same(choice, shift):
    random = Random(0)
    records = [answered(f"{n % 7}?", f"{n} " * random.randint(1, 9)) for n in range(40)]
    scores = {record.answer: random.randint(0, 8) for record in records}  # whole numbers: no digit is lost to the shift
    one, other = (choice(worth({a: s + by for a, s in scores.items()}))(records) for by in (0.0, shift))
    assert kept(one) == kept(other) and reasons(one) == reasons(other)
    assert [r.messages for r in one.records] == [r.messages for r in other.records]
    assert [(p["chosen"], p["rejected"]) for p in one.pairs] == [(p["chosen"], p["rejected"]) for p in other.pairs]
    assert one.report["length_correlation"] == other.report["length_correlation"]


# Thresholds.


def test_a_threshold_keeps_all_that_reach_it():
    records = answers("a", "bb", "ccc", "d", "none")
    found = Threshold(worth(SCORES), at_least=2.0)(records)
    assert kept(found) == ["bb", "ccc", "d"] and reasons(found) == {NOT_CHOSEN: 1, UNSCORED: 1}
    assert kept(Threshold(worth(SCORES), best_share=0.25)(records)) == ["bb"]
    assert kept(Threshold(worth(SCORES), best_share=1.0)(records)) == ["a", "bb", "ccc", "d"]


# Rejection sampling.


def test_right_answers_are_kept_and_questions_without_one_are_not():
    records = [*answers("no", "yes 1", "yes 1", "yes 2"), *answers("no", "nope", question="!")]

    def check(given):
        return [record.answer.startswith("yes") for record in given]

    found = Rejection(check, "test")(records)
    assert kept(found) == ["yes 1"] and reasons(found) == {WRONG: 2}
    assert [other.answer for other in found.records[0].others] == ["yes 2", "no"]
    assert kept(Rejection(check, "test", most=None)(records)) == ["yes 1", "yes 2"]
    assert (found.report["accepted"], found.report["answered"]) == (0.5, 0.5)


# Agreement.


def test_what_most_samples_come_to_is_kept():
    records = [
        *answers("It is 4.", "so #### 5", "2 + 3 = 5", "I pass", question="2 + 3?"),
        *answers("1", "2", "3", question="?"),
    ]
    found = Agreement(at_least=0.5)(records)
    assert kept(found) == ["so #### 5"] and reasons(found) == {NO_AGREEMENT: 1}
    assert found.records[0].scores["agreement"] == 0.5
    assert kept(Agreement(at_least=0.51)(records)) == []
    assert found.report["mean_agreement"] == pytest.approx((0.5 + 1 / 3) / 2)


def test_answers_without_a_result_do_not_agree():
    assert reasons(Agreement(read="marked")(answers("yes", "yes"))) == {NO_AGREEMENT: 1}


# Pairs.


def test_pairs_hold_the_best_and_the_worst():
    records = [*answers("a", "bb", "ccc"), *answers("ccc", "d", question="tie"), *answers("a", question="alone")]
    found = Pairs(worth(SCORES), "worst")(records)
    assert found.pairs == [
        {
            "messages": [{"role": "user", "content": "?"}],
            "chosen": "bb",
            "rejected": "a",
            "chosen_score": 3.0,
            "rejected_score": 1.0,
            "lineage": {"reward": "worth"},
        }
    ]
    assert kept(found) == ["bb"] and reasons(found) == {TIE: 1, ALONE: 1}
    counts = {name: found.report[name] for name in ("pairs", "ties", "alone", "mean_margin", "chosen_longer")}
    assert counts == {"pairs": 1, "ties": 1, "alone": 1, "mean_margin": 2.0, "chosen_longer": 1.0}


def test_a_pair_goes_with_its_better_answer():
    records = [*answers("a", "bb"), *answers("a", "ccc", question="!")]
    found = Pairs(worth(SCORES), "worst")(records)
    filtered = [found.records[0].drop("short"), *found.records[1:]]
    assert [pair["chosen"] for pair in pairs_kept(found.pairs, filtered)] == ["ccc"]
    assert pairs_kept(found.pairs, found.records) == found.pairs


def test_a_random_other_is_any_other_and_the_same_again():
    records = [answered(f"{n}?", text) for n in range(60) for text in ("a", "bb", "ccc")]
    found = Pairs(worth(SCORES), "random", seed=3)(records)
    rejected = Counter(pair["rejected"] for pair in found.pairs)
    assert set(rejected) == {"a", "ccc"} and min(rejected.values()) > 15
    assert Pairs(worth(SCORES), "random", seed=3)(records).pairs == found.pairs
    assert Pairs(worth(SCORES), "random", seed=4)(records).pairs != found.pairs


def test_pairs_within_the_margin_are_left_out():
    assert Pairs(worth(SCORES), "worst", margin=2.0)(answers("a", "bb")).pairs == []
    assert len(Pairs(worth(SCORES), "worst", margin=1.9)(answers("a", "bb")).pairs) == 1


# Weights.


def test_weights_are_one_on_average_and_in_the_ratio_of_exponentials():
    found = reward_weights([1.0, 3.0, 2.0], temperature=2.0, cap=None)
    assert sum(found) == pytest.approx(3)
    assert found[1] / found[0] == pytest.approx(math.exp(1.0))
    assert reward_weights([1.0, 3.0], temperature=2.0, cap=None) == pytest.approx(
        reward_weights([1001.0, 1003.0], temperature=2.0, cap=None)
    )


def test_a_weight_is_capped():
    assert max(reward_weights([0.0] * 30 + [50.0], temperature=1.0, cap=10.0)) == 10.0


def test_weights_are_what_a_conversation_reads():
    records = [*answers("a", "bb"), *answers("ccc", question="!")]
    found = Weights(worth(SCORES))(records)
    read = [conversation([dict(m) for m in record.messages], where="here") for record in found.records]
    weights = [one.weights[-1] for one in read]
    assert weights[:2] == pytest.approx([2 / (1 + math.exp(2)), 2 * math.exp(2) / (1 + math.exp(2))])
    assert weights[2] == 1.0
    assert found.report["mean_after"] > found.report["mean_before"]
    over_all = Weights(worth(SCORES), per="all")(records)
    ratios = [record.messages[-1]["weight"] for record in over_all.records]
    assert ratios[1] / ratios[2] == pytest.approx(math.e)


# Length.


def reference_spearman(ours, theirs):
    def ranks(values):
        return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]

    return float(np.corrcoef(ranks(ours), ranks(theirs))[0, 1])


def test_the_correlation_over_all_is_spearmans():
    random = Random(1)
    scores = [[random.randint(0, 6) for _ in range(5)] for _ in range(8)]
    lengths = [[random.randint(0, 6) for _ in range(5)] for _ in range(8)]
    flat = [[v for group in side for v in group] for side in (scores, lengths)]
    assert correlation_over_all(scores, lengths).value == pytest.approx(reference_spearman(*flat))
    assert correlation_within(scores[:1], lengths[:1]).value == pytest.approx(reference_spearman(scores[0], lengths[0]))


def test_only_within_a_question_can_a_rewards_taste_for_length_be_told_from_the_questions():
    """Some questions need long answers and are answered well; among answers to one, the short ones are better."""
    scores = [[question * 10 - n for n in range(3)] for question in range(9)]
    lengths = [[question * 10 + n for n in range(3)] for question in range(9)]
    assert correlation_over_all(scores, lengths).value > 0.9
    within = correlation_within(scores, lengths)
    assert (within.value, within.low, within.high) == pytest.approx((-1.0, -1.0, -1.0))


def test_a_reward_without_a_taste_for_length_has_an_interval_around_zero():
    random = Random(2)
    scores, lengths = ([[random.random() for _ in range(4)] for _ in range(200)] for _ in range(2))
    within = correlation_within(scores, [[round(100 * v) for v in group] for group in lengths])
    assert within.low < 0 < within.high and within.high - within.low < 0.25
    assert correlation_within([[1.0]], [[3]]).value == 0


def test_a_length_reward_is_found_out():
    random = Random(3)
    records = [answered(f"{n % 20}?", "x" * random.randint(1, 200)) for n in range(100)]
    report = config(kind="best_of_n", reward={"kind": "length", "better": "longer"}).build()(records).report
    assert report["length_correlation"] == pytest.approx(1.0) and report["length_correlation_low"] > 0.99
    assert report["mean_length_after"] > 1.3 * report["mean_length_before"]
    assert set(report) >= {
        "kind",
        "mean_before",
        "mean_after",
        "length_correlation",
        "n",
        "kl_bound",
        "kept",
        "unscored",
    }


# What is refused.


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"kind": "threshold", "reward": {"kind": "length"}}, "exactly one"),
        ({"kind": "threshold", "reward": {"kind": "length"}, "at_least": 1.0, "best_share": 0.5}, "exactly one"),
        ({"kind": "weights", "reward": {"kind": "length"}, "cap": 0.5}, "at least 1"),
        ({"kind": "rejection", "check": {"kind": "regex", "pattern": "("}}, "no regular expression"),
        ({"kind": "best_of_n"}, "Field required"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(values, fault):
    with pytest.raises(ValidationError, match=fault):
        config(**values)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"kind": "best_of_n", "reward": {"kind": "model", "model": "no/such/folder/at/all"}}, "no/such/folder"),
        (
            {"kind": "pairs", "reward": {"kind": "function", "function": "a:b"}},
            "synthesis.choose.reward.function is 'a:b'",
        ),
        ({"kind": "rejection", "check": {"kind": "unit_tests"}}, "--allow-plugins"),
    ],
)
def test_what_cannot_be_had_is_said_before_a_model_is_loaded(values, fault):
    with pytest.raises(StillhouseError, match=fault):
        check_choice(config(**values))


def test_what_can_be_had_is_not_refused():
    check_choice(config(kind="agreement"))
    check_choice(config(kind="weights", reward={"kind": "length"}))
    check_choice(config(kind="rejection", check={"kind": "exact"}))
