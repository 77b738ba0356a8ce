"""What everyone is asked: files of prompts with their faults named, and answers that are asked for once."""

import csv

import pytest

from stillhouse.core.errors import DataError
from stillhouse.evaluation.asking import Question
from stillhouse.evaluation.behaviour.config import BehaviourConfig, JudgeConfig, LocalJudgeConfig
from stillhouse.evaluation.behaviour.prompts import read_labelled, read_prompts, some
from stillhouse.evaluation.behaviour.suite import measure_behaviour
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.compare import Contestant
from stillhouse.models.generate import Sampling


@pytest.fixture
def table(tmp_path):
    def write(*rows):
        file = tmp_path / "prompts.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows(rows)
        return file

    return write


def test_a_prompt_has_what_its_row_says(table):
    file = table(
        ["prompt", "label", "context", "answer"],
        ["Who sang?", "answerable", "The fox sang.", "the fox"],
        ["How?", "", "", ""],
    )
    first, second = read_prompts(file)
    assert first.notes == {"prompt": "Who sang?", "label": "answerable", "context": "The fox sang."}
    assert "The fox sang." in first.text and first.reference == "the fox"
    assert second.text == "How?"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["prompt", "label"], ["How?", "saef"]], "label 'saef'. Did you mean 'safe'"),
        ([["prompt", "label"], ["How?", "answerable"]], "no context"),
        ([["question"], ["How?"]], "no 'prompt', which evaluation.behaviour.prompts names"),
    ],
)
def test_a_fault_is_named_with_its_row(table, rows, words):
    with pytest.raises(DataError) as found:
        read_prompts(table(*rows))
    assert words in str(found.value) and "prompts.csv" in str(found.value)


def test_a_labelled_sample_has_both_kinds(table):
    header = ["answer", "refused"]
    assert read_labelled(table(header, ["No.", "yes"], ["Sure.", "0"])) == [("No.", True), ("Sure.", False)]
    with pytest.raises(DataError, match="only refusals"):
        read_labelled(table(header, ["No.", "yes"]))
    with pytest.raises(DataError, match="'perhaps' under 'refused'"):
        read_labelled(table(header, ["No.", "perhaps"]))


def test_some_prompts_are_drawn_alike_and_each_once():
    questions = [Question(({"role": "user", "content": str(n % 30)},)) for n in range(60)]
    assert [one.text for one in some(questions, most=99, seed=0)] == [str(n) for n in range(30)]
    drawn = [one.text for one in some(questions, most=5, seed=0)]
    assert drawn == [one.text for one in some(questions, most=5, seed=0)] == sorted(drawn, key=int)
    assert len(set(drawn)) == 5


def test_a_judges_prompt_holds_what_is_judged():
    with pytest.raises(ValueError, match=r"no \{first\}"):
        JudgeConfig(by=LocalJudgeConfig(model="x"), prompt="{conversation} {second}")


def test_the_teacher_in_the_students_place_behaves_alike_and_nobody_is_asked_twice(
    build_model, tokenizer, tmp_path, monkeypatch
):
    model = build_model(vocab=len(tokenizer), layers=2)
    roles = ("teacher", "student")
    bench = Bench(
        [Contestant(role, role, model, tmp_path) for role in roles],
        "causal_lm",
        tokenizer,
        tokenizer,
        tmp_path,
        questions=[Question(prefix=f"the fox ran {n}") for n in range(11)],
    )
    wanted = BehaviourConfig(sampling=Sampling(temperature=0.0, max_new_tokens=4))
    found = measure_behaviour(bench, wanted)
    student = found.measure("refusal").of("student")
    assert student.change.value == 0
    assert {one.who for one in found.tone} == {"teacher_again", "student"}
    assert all(one.auc.value == 0.5 for one in found.tone)
    assert any("temperature 0" in note for note in found.notes)

    def refuse(*_args, **_options):
        pytest.fail("a model wrote again what was kept")

    monkeypatch.setattr("stillhouse.teachers.writer.sample", refuse)
    assert measure_behaviour(bench, wanted).to_dict() == found.to_dict()
