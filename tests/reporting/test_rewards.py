"""What is said of a reward, in the report and in the terminal."""

from stillhouse.reporting import reward_lines
from stillhouse.reporting.rewards import MOST_ROWS, reward_view, without_looks

CHOSEN = {
    "kind": "best_of_n",
    "reward": "reward_model",
    "samples": 2000,
    "prompts": 500,
    "n": 4,
    "kept": 500,
    "mean_before": 0.1,
    "mean_after": 0.9,
    "mean_length_before": 400.0,
    "mean_length_after": 520.0,
    "kl_bound": 0.636,
    "length_correlation": 0.41,
    "length_correlation_low": 0.37,
    "length_correlation_high": 0.45,
    "length_correlation_all": 0.3,
    "length_correlation_all_low": 0.25,
    "length_correlation_all_high": 0.35,
}


def look(step, reward, agreement=None):
    line = {"step": step, "tokens": step, "loss": 1.0, "held_out_reward": reward, "teacher_reward": 2.0}
    return line if agreement is None else {**line, "held_out_agreement": agreement}


def test_nothing_is_said_where_no_reward_was_at_work():
    assert reward_lines({}, [{"step": 1, "loss": 2.0}]) == []
    assert reward_view({}, []) is None


def test_choosing_is_told_with_its_figures():
    said = " ".join(reward_lines(CHOSEN, []))
    assert (
        "Of 2,000 answers to 500 questions, the best answer to each question was kept (by reward model): 500 in all."
        in said
    )
    assert (
        "rank correlation of 0.41 [0.37, 0.45]; over all answers 0.30 [0.25, 0.35]. This reward likes long answers"
        in said
    )
    assert "at most 0.636 nats a whole answer" in said


def test_only_a_taste_for_length_that_is_sure_is_warned_of():
    unsure = {**CHOSEN, "length_correlation_low": -0.1}
    assert not any("likes long" in line for line in reward_lines(unsure, []))
    short = {**CHOSEN, **{f"length_correlation{name}": -0.5 for name in ("", "_low", "_high")}}
    assert any("likes short" in line for line in reward_lines(short, []))


def test_checkers_pairs_and_judges_have_words_of_their_own():
    rejection = {
        "kind": "rejection",
        "check": "exact",
        "samples": 8,
        "prompts": 2,
        "accepted": 0.25,
        "answered": 0.5,
        "kept": 1,
    }
    assert "25 % of the answers were right, and 50 % of the questions have a right one" in " ".join(
        reward_lines(rejection, [])
    )
    pairs = {
        "kind": "pairs",
        "pairs": 3,
        "ties": 2,
        "alone": 1,
        "chosen_longer": 0.75,
        "unparsable": 2,
        "first_wins": 0.8,
    }
    said = " ".join(reward_lines(pairs, []))
    assert "3 pairs; left out: 2 ties or within the margin, 1 with no second answer. In 75 % of the pairs" in said
    assert "2 judgements could not be read; the answer that the judge was shown first won 80 % of comparisons." in said


def test_reward_stands_beside_agreement_over_training():
    steps = [{"step": 1, "loss": 3.0}, *(look(step, step / 10, 0.5 - step / 1000) for step in range(0, 301, 10))]
    view = reward_view({}, steps)
    assert view is not None and view.table is not None
    assert view.lines == [
        "Over training the reward of held-out answers went from 0 to 30.0 (the teacher's: 2.00), and agreement with the "
        "teacher from 50.0 % to 20.0 %."
    ]
    assert [panel.name for panel in view.panels] == ["held_out_reward", "held_out_agreement"]
    titles = [row.title for row in view.table.rows]
    assert (titles[0], titles[-2:]) == ("step 0", ["step 300", "teacher"]) and len(titles) <= MOST_ROWS + 1


def test_agreement_may_be_missing():
    view = reward_view({}, [look(0, 1.0), look(5, 2.0)])
    assert view is not None and view.table is not None
    assert [row.cells[1].value for row in view.table.rows] == ["-", "-", "100 %"]
    assert [panel.name for panel in view.panels] == ["held_out_reward"]


def test_other_curves_are_shown_elsewhere():
    assert without_looks({"student": [look(1, 2.0, 0.5)]}) == {"student": [{"step": 1, "tokens": 1, "loss": 1.0}]}
