"""Any two models beside each other, without a recipe."""

import json
from pathlib import Path

import pytest

from stillhouse import evaluate_models
from stillhouse.core.files import read_lines

from .conftest import SaveTeacher, assert_refused, assert_refused_in_one_line, stillhouse

RATINGS = [("good", "the fox sang and all was well"), ("bad", "the old man fell into the sea")] * 6


@pytest.fixture(scope="session")
def held_beside(tmp_path_factory, teacher_folder: Path, student_folder: Path, texts_file: Path) -> Path:
    """A student with a tokenizer of its own beside its teacher, and the teacher beside itself as a baseline. Do not touch."""
    out = tmp_path_factory.mktemp("beside") / "out"
    models = [student_folder, "--teacher", teacher_folder, "--baseline", teacher_folder]
    said = stillhouse("evaluate", *models, "--data", texts_file, "--out", out, "evaluation.samples=1")
    assert said.code == 0, said.err
    return out


def test_a_teacher_beside_itself_keeps_exactly_everything(teacher_folder: Path, texts_file: Path, tmp_path: Path):
    options = {
        "teacher": str(teacher_folder),
        "data": texts_file,
        "out": tmp_path / "out",
        "suites": ["similarity"],
        "overrides": ["evaluation.samples=0"],
    }
    result = evaluate_models(str(teacher_folder), **options)
    kept, metrics = result.retention("student"), result.model("student").metrics
    assert kept is None or (kept.share.value, kept.share.low, kept.share.high) == (1.0, 1.0, 1.0)
    assert metrics["forward_kl"].value == pytest.approx(0, abs=1e-9)
    assert metrics["top1_agreement"].value == 1.0
    assert {"evaluate", "similarity"} <= {file.stem for file in (tmp_path / "out" / "stages").iterdir()}
    assert any(line.get("suite") == "similarity" for line in read_lines(tmp_path / "out" / "metrics.jsonl"))
    assert all(example.nats == pytest.approx(0, abs=1e-6) for example in result.departures.examples)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No third model stands beside the two" in page  # nothing is said of a training that nobody here has seen
    assert not any(words in page for words in ("No control was trained", "Distillation report", "Train a control"))

    measured = sorted((tmp_path / "out" / "measured").iterdir())
    before = [file.stat().st_mtime_ns for file in measured]
    (tmp_path / "out" / "stages" / "evaluate.json").unlink()  # as after a kill behind the last model
    again = evaluate_models(str(teacher_folder), **options)
    assert again.model("student").metrics == result.model("student").metrics
    assert [file.stat().st_mtime_ns for file in measured] == before


def test_models_of_different_tokenizers_are_compared_by_bytes(held_beside: Path):
    lines = [line for line in read_lines(held_beside / "metrics.jsonl") if "evaluated" in line]
    named = {role: {line["metric"] for line in lines if line["evaluated"] == role} for role in ("teacher", "baseline")}
    assert named == {"teacher": {"bits_per_byte"}, "baseline": {"bits_per_byte"}}
    bits = {line["evaluated"]: line["value"] for line in lines if line["metric"] == "bits_per_byte"}
    assert bits["teacher"] == bits["baseline"] != bits["student"]
    page, summary = ((held_beside / name).read_text(encoding="utf-8") for name in ("report.html", "summary.md"))
    assert "stillhouse evaluate" in page
    assert "whether a model was trained on them is not known here" in page
    assert "baseline" in summary
    assert "No control was trained" not in summary


def test_a_classifier_is_held_beside_one_of_another_tokenizer(save_teacher: SaveTeacher, tmp_path: Path):
    data = tmp_path / "ratings.jsonl"
    lines = [json.dumps({"text": f"{text} {number}", "label": label}) for number, (label, text) in enumerate(RATINGS)]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    models = [
        save_teacher("sequence_classification", family, labels=("bad", "good")) for family in ("bert", "distilbert")
    ]
    out = tmp_path / "out"
    result = evaluate_models(str(models[1]), teacher=str(models[0]), data=data, kind="classification", out=out)
    assert result.held_out.documents == len(RATINGS)
    assert {"accuracy", "forward_kl"} <= result.model("student").metrics.keys()
    (first, *rest) = result.departures.examples
    assert len(rest) == len(RATINGS) - 1
    assert first.nats >= max(one.nats for one in rest)
    text = first.text.replace(" ##", "")  # the tiny tokenizer joins no pieces of words
    assert text == f"{RATINGS[first.document][1]} {first.document}"
    assert first.answers["right"] == RATINGS[first.document][0]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "where they differ" in page and "right by the teacher alone" in page
    accuracy = {model.role: model.metrics["accuracy"].value for model in result.models}
    changed = result.flips["student"]
    assert changed.lost - changed.won == pytest.approx(12 * (accuracy["teacher"] - accuracy["student"]))
    (logged,) = (line for line in read_lines(out / "metrics.jsonl") if "flips" in line)
    assert (logged["flips"], logged["lost"], logged["won"]) == ("student", changed.lost, changed.won)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe.yaml", "--teacher", "TEACHER"], ["--teacher is for two models", "leave --teacher out"]),
        (["recipe.yaml", "--data", "TEXTS"], ["--data is for two models", "recipe.yaml is a recipe"]),
        (["TEACHER"], ["is neither", "--teacher TEACHER --data FILE"]),
        (["TEACHER", "--teacher", "TEACHER"], ["needs --data FILE"]),
        (["./nowhere", "--teacher", "TEACHER", "--data", "TEXTS"], ["./nowhere", "neither an existing folder"]),
        (["TEACHER", "--teacher", "TEACHER", "--data", "gone.jsonl"], ["gone.jsonl"]),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_wrong_input_is_one_message(arguments, words, teacher_folder: Path, texts_file: Path, tmp_path: Path):
    places = {"TEACHER": str(teacher_folder), "TEXTS": str(texts_file)}
    said = stillhouse("evaluate", *(places.get(word, word) for word in arguments), "--out", tmp_path / "out")
    assert_refused_in_one_line(said, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_model")
def test_a_wrong_kind_and_a_wrong_key_are_named(teacher_folder: Path, texts_file: Path):
    models = [teacher_folder, "--teacher", teacher_folder, "--data", texts_file]
    assert_refused(stillhouse("evaluate", *models, "--kind", "poems"), "data", "poems")
    assert_refused(stillhouse("evaluate", *models, "data.lable=x"), "data.lable")
    assert_refused(stillhouse("evaluate", *models, "--suites", "manners"), "suites", "manners")
    assert_refused(stillhouse("evaluate", *models, "evaluation.control=hard_labels"), "nothing is trained", "baseline")
