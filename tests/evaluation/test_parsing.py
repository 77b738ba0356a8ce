"""Grammar as a parser sees it: its answers are read aright, whatever the texts are, and the program itself is right."""

import shutil
import sys

import pytest

from stillhouse.core.errors import StillhouseError
from stillhouse.evaluation.stories import from_open_sentence, parses_of, sentences_of
from stillhouse.evaluation.stories.parsing import PROGRAM

FAKE = f"""#!{sys.executable}
import sys
print("verbosity set to 1")
for line in map(str.strip, sys.stdin):
    print(line)
    if "broken" in line:
        print("No complete linkages found.")
    elif "odd" in line:
        print("Found 9 linkages (0 of 100 random linkages had no P.P. violations)")
    elif "lost" in line:
        sys.exit("link-grammar: Error: out of words")
    else:
        print("Found 1 linkage (1 had no P.P. violations)\\n\\tUnique linkage, cost vector = (UNUSED=0)")
print("Bye.")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    program = tmp_path / PROGRAM
    program.write_text(FAKE, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_sentences_are_told_apart_and_none_is_read_as_a_command():
    text = "“Look!” said Tim. He ran\nto  the sea!\n!exit\n\n*** ... He saw Mr. Fox? Yes."
    assert list(sentences_of(text)) == [
        '"Look!"',
        "said Tim.",
        "He ran",
        "to the sea!",
        "exit",
        "He saw Mr.",
        "Fox?",
        "Yes.",
    ]


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        ("One day. He", "He ran off. So."),
        ("One day.", " ran off. So."),
        ('He said: "No!"', " ran off. So."),
        ("He", "He ran off. So."),
        ("", " ran off. So."),
    ],
)
def test_the_sentence_that_a_beginning_breaks_off_in_is_read_whole(beginning, expected):
    assert from_open_sentence(beginning, " ran off. So.") == expected


@pytest.mark.usefixtures("fake")
def test_each_sentence_gets_its_own_answer():
    found = parses_of(["Good. Broken? It is broken. Good.", "", "Odd, but good. It is odd."])
    assert [(one.sentences, one.whole) for one in found] == [(4, 3), (0, 0), (2, 1)]
    assert [one.unparsed for one in found] == [0.25, 1.0, 0.5]
    assert parses_of([]) == []


@pytest.mark.usefixtures("fake")
def test_a_parser_that_breaks_off_is_told():
    with pytest.raises(StillhouseError, match=r"link-parser read 2 of 3 sentences and ended: .*out of words"):
        parses_of(["Good. He is lost. Good."])


def test_without_the_program_it_is_said_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        StillhouseError, match=r"evaluation\.grammar is link_grammar.*apt install link-grammar.*say teacher"
    ):
        parses_of(["Good."])


@pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"needs the program {PROGRAM} (apt install link-grammar)")
def test_the_parser_tells_sentences_from_the_same_words_in_disorder():
    right = (
        'The dog ran to the hill. She said, "I like cake!" Once there was a girl named Lily. They played in the park.'
    )
    wrong = "Ran dog the hill to of. Cake like said she I. A was Lily there once named girl. Park in they the played."
    assert [one.whole for one in parses_of([right, wrong])] == [4, 0]
