import pytest

from stillhouse.core.word_forms import forms, holds


@pytest.mark.parametrize(
    ("word", "inflection", "expected"),
    [
        ("dog", "noun", {"dog", "dogs"}),
        ("berry", "noun", {"berry", "berries"}),
        ("box", "noun", {"box", "boxes"}),
        ("toy", "noun", {"toy", "toys"}),
        ("mouse", "noun", {"mouse", "mice"}),
        ("stop", "verb", {"stop", "stops", "stopped", "stopping"}),
        ("carry", "verb", {"carry", "carries", "carried", "carrying"}),
        ("bake", "verb", {"bake", "bakes", "baked", "baking"}),
        ("agree", "verb", {"agree", "agrees", "agreed", "agreeing"}),
        ("tie", "verb", {"tie", "ties", "tied", "tying"}),
        ("rain", "verb", {"rain", "rains", "rained", "raining"}),
        ("fix", "verb", {"fix", "fixes", "fixed", "fixing"}),
        ("run", "verb", {"run", "runs", "ran", "running"}),
        ("big", "adjective", {"big", "bigger", "biggest"}),
        ("happy", "adjective", {"happy", "happier", "happiest"}),
        ("good", "adjective", {"good", "better", "best"}),
        ("Okay", "none", {"okay"}),
    ],
)
def test_forms_follow_the_spelling(word, inflection, expected):
    assert forms(word, inflection) == expected


def test_a_text_holds_a_word_in_any_form_and_a_phrase_in_a_row():
    words = ["the", "puppies", "ran", "past", "a", "washing", "machine", "and", "two", "coffee", "machines"]
    assert holds(words, "puppy", "noun") and holds(words, "run", "verb")
    assert holds(words, "washing machine", "noun") and holds(words, "coffee machine", "noun")
    assert not holds(words, "machine washing", "noun") and not holds(words, "pup", "noun")
    assert not holds([], "dog", "noun")
