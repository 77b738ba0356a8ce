"""Tasks from file to numbers, on tiny models: what is read, what is refused, and what a teacher keeps of itself."""

import copy
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.core.tasks import TasksFound
from stillhouse.evaluation.tasks.config import (
    AnswersConfig,
    BbqConfig,
    GenerationConfig,
    GroupGapsConfig,
    LmEvalConfig,
    MinimalPairsConfig,
    MultipleChoiceConfig,
)
from stillhouse.evaluation.tasks.harness import numbers_of
from stillhouse.evaluation.tasks.judge import check_tasks, judge_tasks, read, texts_of_tasks
from stillhouse.evaluation.tasks.rows import read_choices, read_prompted
from stillhouse.evaluation.tasks.speakers import Speaker
from stillhouse.evaluation.tasks.suite import TaskMemory
from stillhouse.evaluation.tasks.writing import answers, found_answer, until

PAIRS = [
    {"sentence_good": "the fox ran over the hill", "sentence_bad": "the fox run over hill the"},
    {"sentence_good": "a girl found a key", "sentence_bad": "a girl find a keys"},
] * 4
QUESTIONS = [{"question": f"the animal {n}", "choices": ["fox", "old man"], "answer": n % 2} for n in range(8)]
ASKED = [{"question": f"say {n}", "answer": f"the answer is {n}"} for n in range(6)]
BBQ = [
    {
        "context": "I saw a fox and a girl.",
        "question": "Who ran?",
        "ans0": "The fox",
        "ans1": "The girl",
        "ans2": "Unknown",
        "answer_info": {"ans0": ["fox", "animals"], "ans1": ["girl", "people"], "ans2": ["unknown", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["animals"]},
        "label": 2 if condition == "ambig" else 1,
        "context_condition": condition,
        "question_polarity": polarity,
    }
    for condition in ("ambig", "disambig")
    for polarity in ("neg", "nonneg")
]
GAPS = [
    {"item": n, "group": group, "question": f"the {group} {n}", "target": "ran away"}
    for n in range(4)
    for group in ("fox", "girl")
]


@pytest.fixture
def speakers(build_model, tokenizer):
    teacher = build_model(vocab=len(tokenizer))
    return {"teacher": Speaker(teacher, tokenizer), "student": Speaker(teacher, tokenizer)}


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tasks_in(folder):
    return [
        MinimalPairsConfig(path=write(folder, PAIRS, "pairs.jsonl")),
        MultipleChoiceConfig(path=write(folder, QUESTIONS, "choice.jsonl")),
        AnswersConfig(path=write(folder, ASKED, "answers.jsonl"), max_new_tokens=4),
        GenerationConfig(
            path=write(folder, ASKED, "texts.jsonl"), max_new_tokens=4, form="chat", metrics=("f1", "bleu")
        ),
        BbqConfig(path=write(folder, BBQ, "bbq.jsonl")),
        GroupGapsConfig(path=write(folder, GAPS, "gaps.jsonl")),
    ]


def test_a_teacher_beside_itself_keeps_everything_of_every_task(speakers, tmp_path):
    tasks, memory = tasks_in(tmp_path), TaskMemory(tmp_path / "kept", "these models")
    results = judge_tasks(tasks, speakers, remember=memory)
    again = judge_tasks(tasks, {}, remember=memory)  # nobody is asked again
    assert json.dumps(TasksFound(again).to_dict()) == json.dumps(TasksFound(results).to_dict())
    assert [result.name for result in results] == ["pairs", "choice", "answers", "texts", "bbq", "gaps"]
    for result in results:
        student = result.scores("student")
        assert result.headline in student.metrics
        assert all((found.value, found.low, found.high) == (0, 0, 0) for found in student.change.values())
        assert all((found.value, found.low, found.high) == (1, 1, 1) for found in student.retained.values())
        assert student.flips is None or student.flips.changed == 0
    assert set(texts_of_tasks(tasks_in(tmp_path))) == {result.name for result in results}


def test_an_answer_is_weighed_as_the_model_itself_weighs_it(speakers, tokenizer):
    """By the sum of the log-probabilities of the answer's own tokens, read behind the prompt in one forward pass."""
    speaker = speakers["teacher"]
    question = read_choices_of([{"question": "the fox", "choices": ["ran over the hill", "sang"], "answer": "B"}])
    found = speaker.weigh([question])[0]
    prompt = tokenizer("the fox", add_special_tokens=False)["input_ids"]
    for choice, value in zip(("ran over the hill", "sang"), found, strict=True):
        whole = tokenizer(f"the fox {choice}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logprobs = speaker.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[place - 1, whole[place]]) for place in range(len(prompt), len(whole)))
        assert value == pytest.approx(expected, abs=1e-4)


def read_choices_of(rows):

    with TemporaryDirectory() as folder:
        return read_choices(MultipleChoiceConfig(path=write(Path(folder), rows)))[0]


@pytest.mark.parametrize("answer", [1, "1", "B", "b", "sang"])
def test_a_right_answer_is_a_number_a_letter_or_the_text(answer):
    assert read_choices_of([{"question": "q", "choices": ["ran", "sang"], "answer": answer}]).right == 1


def test_answers_may_stand_in_a_file_of_their_own_and_be_limited(tmp_path):
    rows = [{"goal": f"g{n}", "sol1": "a", "sol2": "b"} for n in range(4)]
    (tmp_path / "labels.lst").write_text("0\n1\n1\n0\n", encoding="utf-8")
    task = MultipleChoiceConfig(
        path=write(tmp_path, rows),
        prompt="Question: {goal}\nAnswer:",
        choices=("sol1", "sol2"),
        answers_path=tmp_path / "labels.lst",
        limit=3,
    )
    assert [choice.right for choice in read_choices(task)] == [0, 1, 1]
    assert read_choices(task)[0].choices == (" a", " b")


def test_a_stereotype_turns_with_the_question(tmp_path):
    vague, *_ = read = read_choices(BbqConfig(path=write(tmp_path, BBQ)))
    assert [choice.about["biased"] for choice in read] == [0, 1, 0, 1]
    assert (vague.right, vague.about["unknown"]) == (2, 2)


def test_references_may_be_several_and_numbers(tmp_path):
    path = write(tmp_path, [{"question": "q", "answer": ["a", "b"]}, {"question": "q", "answer": 7}])
    assert [row.references for row in read_prompted(AnswersConfig(path=path))] == [("a", "b"), ("7",)]


@pytest.mark.parametrize(
    ("text", "pattern", "found"),
    [
        ("so 2 + 2 is 4.", r"(-?\d[\d,]*\.?\d*)", "4"),
        ("that is $1,234.50", r"(-?\d[\d,]*\.?\d*)", "1234.50"),
        ("#### 42\n", r"#### (-?\d+)", "42"),
        ("The answer is (B).", r"\(([A-D])\)", "b"),
        ("nothing", r"(\d+)", None),
    ],
)
def test_an_answer_is_what_the_pattern_finds(tmp_path, text, pattern, found):
    assert found_answer(AnswersConfig(path=tmp_path, pattern=pattern), text) == found


def test_classes_that_are_written_have_scikit_learns_macro_f1_and_correlation(tmp_path):
    named = ["yes", "no", "maybe"]
    right = [named[n % 3] for n in range(12)]
    said = ["Yes.", "yes", "Maybe not", "it is NO", "no", "who knows", *right[6:]]
    rows = [{"question": f"say {n}", "answer": one} for n, one in enumerate(right)]
    values = {"path": str(write(tmp_path, rows)), "classes": named, "which": "first", "stop": ["\n"]}
    task = parse_recipe(AnswersConfig, values)  # lists, as a recipe has them
    found = answers(task, read(task), {"student": [(text, True) for text in said]}).scores("student").metrics
    chosen = ["yes", "yes", "maybe", "no", "no", "none", *right[6:]]
    assert found["accuracy"].value == pytest.approx(accuracy_score(right, chosen))
    assert found["macro_f1"].value == pytest.approx(f1_score(right, chosen, labels=named, average="macro"))
    assert found["matthews_correlation"].value == pytest.approx(matthews_corrcoef(right, chosen))
    with pytest.raises(StillhouseError, match="question 3 of rows has the right answer 'maybe', which is not one of"):
        read(AnswersConfig(path=task.path, classes=("yes", "no")))


def test_text_ends_before_the_first_stop():
    assert until("one\n\ntwo Q: three", ("Q:", "\n\n")) == "one"
    assert until("one", ("Q:",)) == "one"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: MinimalPairsConfig(path=p, good="sentence_god"), ["line 1", "sentence_god", "sentence_good"]),
        (lambda p: GenerationConfig(path=p, prompt="{goal}", metrics=("f1",)), ["goal", "evaluation.tasks.prompt"]),
        (lambda p: MinimalPairsConfig(path=p / "none"), ["no such file", "evaluation.tasks.path"]),
        (lambda p: MinimalPairsConfig(path=p, groups="kind"), ["kind", "evaluation.tasks.groups"]),
        (lambda p: BbqConfig(path=p, prompt="{sentence_good}"), ["ans0"]),
    ],
)
def test_a_fault_in_a_file_names_the_row_and_the_key(tmp_path, make, words):
    with pytest.raises(StillhouseError) as error:
        check_tasks([make(write(tmp_path, PAIRS))])
    assert all(word in str(error.value) for word in words), error.value


def test_an_answer_that_is_none_of_the_choices_is_refused():
    with pytest.raises(StillhouseError, match="says that 7 is right of 2 choices"):
        read_choices_of([{"question": "q", "choices": ["a", "b"], "answer": 7}])


def test_two_tasks_of_one_name_are_refused(tmp_path):
    path = write(tmp_path, PAIRS)
    with pytest.raises(StillhouseError, match="two that are called 'rows'"):
        check_tasks([MinimalPairsConfig(path=path), MinimalPairsConfig(path=path)])


def test_a_model_without_a_chat_template_is_not_asked_in_one(build_model, tokenizer, tmp_path):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    task = GenerationConfig(path=write(tmp_path, ASKED), form="chat", metrics=("f1",))
    with pytest.raises(StillhouseError, match="form: text"):
        judge_tasks([task], {"student": Speaker(build_model(vocab=len(bare)), bare)})


def test_of_the_harness_only_numbers_of_each_example_are_taken():
    samples = [
        {"doc_id": 1, "filter": "none", "metrics": ["acc", "ppl"], "acc": 0.0, "ppl": (1.0, 2)},
        {"doc_id": 0, "filter": "none", "metrics": ["acc", "ppl"], "acc": 1.0, "ppl": (1.0, 2)},
        {"doc_id": 0, "filter": "strict", "metrics": ["acc"], "acc": 0.0},
    ]
    assert {name: list(found) for name, found in numbers_of(samples).items()} == {"acc": [1.0, 0.0]}


def test_the_harness_asks_the_same_and_hears_the_same(speakers, tmp_path):
    """lm-eval's own accuracy on a task of a file, and ours on the same file."""
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    path = write(tmp_path, QUESTIONS)
    (tmp_path / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {path}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: '{{answer}}'\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
        encoding="utf-8",
    )
    theirs, ours = judge_tasks(
        [LmEvalConfig(tasks=("own",), include_path=tmp_path), MultipleChoiceConfig(path=path)], speakers
    )
    assert theirs.examples == ours.examples == len(QUESTIONS)
    assert theirs.scores("student").metrics["acc"] == ours.scores("student").metrics["accuracy"]
    assert not math.isnan(theirs.scores("student").metrics["acc_norm"].value)
