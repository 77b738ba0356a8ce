"""What is judged by and was learnt, too, is counted: by runs of words, whatever stands around them."""

from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data.overlap import overlaps

LONG = "When the old fox had crossed the frozen river three times it sat down and waited for the moon to rise"
MIDDLE = "How many mice does a red fox eat in a week?"
SHORT = "What is a fox?"


def test_a_run_of_words_is_found_in_any_place_and_a_short_text_is_not_looked_for():
    training = ["Nothing of it.", f"In the book: {LONG.upper()}! And then..."]
    (found,) = overlaps({"held out": [[LONG], [MIDDLE], [SHORT]]}, training)
    assert (found.texts, found.looked_for, found.found) == (3, 2, 1)
    assert found.example in LONG.casefold()


def test_a_text_of_fewer_words_is_found_as_a_whole():
    (found,) = overlaps({"task": [[MIDDLE]]}, [f"Q: {MIDDLE} A: many"])
    assert found.found == 1
    (found,) = overlaps({"task": [[MIDDLE]]}, ["How many mice does a red fox eat in a year?"])
    assert found.found == 0


def test_every_set_is_told_of_apart_and_each_text_once():
    sets = {"one": [[LONG]], "two": [[LONG], [LONG]], "three": []}
    assert [found.found for found in overlaps(sets, [LONG, LONG])] == [1, 2, 0]


def test_each_text_of_an_example_is_looked_for_by_itself():
    """No run of words crosses from a question into its answers, which stand nowhere side by side in a training text."""
    (found,) = overlaps({"task": [[SHORT, MIDDLE, "A mouse."], [SHORT]]}, [f"Now: {MIDDLE}"])
    assert (found.texts, found.looked_for, found.found) == (2, 1, 1)


@given(texts=st.lists(st.text(alphabet="ab ", min_size=30, max_size=60), min_size=1, max_size=5))
def test_what_was_trained_on_is_always_found(texts):
    (found,) = overlaps({"all": [[text] for text in texts]}, texts)
    assert found.found == found.looked_for
