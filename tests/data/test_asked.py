"""What is asked of a conversation, and what other last answers to it look like."""

from stillhouse.data.asked import Asked, Followup, Told
from stillhouse.data.examples import Example


def conversation(told=None) -> Asked:
    """Two questions, 1 2 and 5 6, with answers 3 4 and 7 8, of which the second counts for half."""
    data = Example((1, 2, 3, 4, 5, 6, 7, 8), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.5, 0.5))
    return Asked(
        (1, 2),
        (data,),
        told=told,
        followups=(Followup((4,), (5, 6)),),
        weights=(1.0, 0.5),
        behind=(3, 4, 5, 6),
        reference=(7, 8),
    )


def test_the_last_answer_is_asked_for_behind_all_that_the_data_has_before_it():
    last = conversation().at_last
    assert last.prompt == (1, 2, 3, 4, 5, 6) and last.weights == (0.5,) and not last.followups
    assert last.at_last == last


def test_other_last_answers_take_the_place_of_the_datas_and_what_is_asked_stays():
    asked = conversation()
    answered = asked.with_answers([((9,), 1.0), ((10, 11), 3.0)])
    assert [piece.ids for piece in answered.answered] == [(1, 2, 3, 4, 5, 6, 9), (1, 2, 3, 4, 5, 6, 10, 11)]
    assert [piece.weights for piece in answered.answered] == [(0.0,) * 6 + (0.5,), (0.0,) * 6 + (1.5, 1.5)]
    assert (answered.prompt, answered.followups, answered.weights) == (asked.prompt, asked.followups, asked.weights)


def test_a_teacher_that_reads_more_reads_the_same_answers_behind_more():
    told = Told((20, 21, 1, 2), (Example((20, 21, 1, 2, 3, 4, 5, 6, 7, 8), (0.0,) * 8 + (0.5, 0.5)),), style=1)
    answered = conversation(told).with_answers([((9,), 2.0)])
    assert answered.told.style == 1 and answered.told.prompt == told.prompt
    assert [piece.ids for piece in answered.told.answered] == [(20, 21, 1, 2, 3, 4, 5, 6, 9)]
    assert [piece.weights for piece in answered.told.answered] == [(0.0,) * 8 + (1.0,)]
