"""A teacher with another tokenizer, from the recipe to the report."""

import contextlib
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from stillhouse.core.files import read_lines
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.objectives import SPANS
from stillhouse.training import DistillationTrainer

from .conftest import (
    CHATS,
    OTHER_TEMPLATE,
    SYNTHESIS,
    TEXTS,
    Finished,
    assert_refused,
    assert_refused_in_one_line,
    make_other_tokenizer,
    stillhouse,
    write_recipe,
    write_rows,
)

ACROSS = [{"name": "span_forward_kl", "weight": 0.9, "temperature": 2.0}, {"name": "next_token", "weight": 0.1}]

TRAINING = {
    "epochs": 3,
    "learning_rate": 1e-2,
    "rows_per_step": 2,
    "rows_per_micro_batch": 1,
    "save_every_steps": 4,
}


def write_across(folder: Path, teacher: Path, own: Path, kind: str = "text", /, **changes) -> Path:
    """A recipe whose student has another tokenizer, with changes; its run is in the same folder."""
    rows = CHATS if kind == "chat" else [{"text": text} for text in TEXTS]
    values = {
        "student": {"kind": "checkpoint", "model": str(own)},
        "synthesis": None,
        "labels": None,
        "data": {
            "kind": kind,
            "path": str(write_rows(folder / "rows.jsonl", rows)),
            "sequence_tokens": 96,
            "held_out": 0.25,
        },
        "objectives": ACROSS,
        "training": {**TRAINING},
    }
    return write_recipe(folder, teacher, **{**values, **changes})


@pytest.fixture
def across(tmp_path, teacher_folder, student_folder):
    """Write that recipe; its run is `tmp_path / "run"`."""
    return partial(write_across, tmp_path, teacher_folder, student_folder)


@pytest.fixture(scope="module", params=["text", "chat"])
def done(request, tmp_path_factory, teacher_folder, student_folder) -> Finished:
    """A run for texts, and one for conversations. Look, do not touch."""
    folder = tmp_path_factory.mktemp(request.param)
    path = write_across(folder, teacher_folder, student_folder, request.param)
    return Finished(path, folder / "run", stillhouse("distill", path))


def result_of(run: Path) -> EvaluationResult:
    return EvaluationResult.from_dict(RunFolder(run).stages()["evaluate"]["result"])


def terms(run: Path, name: str) -> list[float]:
    return [line[name] for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]


def weights(run: Path) -> bytes:
    return (run / "student" / "model.safetensors").read_bytes()


def test_a_student_learns_from_a_teacher_with_another_tokenizer(done):
    assert done.said.code == 0, done.said.err
    values = terms(done.folder, "span_forward_kl")
    assert values[-1] < 0.8 * values[0]
    tokenizer = AutoTokenizer.from_pretrained(done.folder / "student")
    assert tokenizer.get_vocab() == make_other_tokenizer().get_vocab()
    assert tokenizer.chat_template == OTHER_TEMPLATE


def test_nothing_that_counts_tokens_is_compared_with_the_teacher(done):
    result = result_of(done.folder)
    assert set(result.model("teacher").metrics) == {"bits_per_byte"}
    assert set(result.model("student").metrics) == {"bits_per_byte", "perplexity", "accuracy"}
    assert {row.metric for row in result.comparisons if row.other == "teacher"} == {"bits_per_byte"}
    assert {row.metric for row in result.comparisons if row.other == "control_hard_labels"} >= {"accuracy"}
    assert result.retentions == []
    report = (done.folder / "report.html").read_text(encoding="utf-8")
    for text in (done.said.out, report, (done.folder / "student" / "README.md").read_text(encoding="utf-8")):
        assert "bits per byte compare" in " ".join(text.split())


def test_a_run_that_stops_at_a_checkpoint_ends_with_the_same_student(done, tmp_path, monkeypatch):
    """The last steps are taken back, as a kill behind a checkpoint does."""
    steps, save = 0, DistillationTrainer._save_checkpoint

    def stop(self, *args, **options):
        nonlocal steps
        save(self, *args, **options)
        steps = self.state.global_step
        raise KeyboardInterrupt

    run = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "_save_checkpoint", stop)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            stillhouse("train", done.recipe, f"run={run}")
    assert steps == TRAINING["save_every_steps"]
    assert not (run / "student").exists()
    assert stillhouse("train", done.recipe, f"run={run}").code == 0
    assert weights(run) == weights(done.folder)
    assert terms(run, "span_forward_kl") == terms(done.folder, "span_forward_kl")


def test_stored_labels_teach_what_the_teacher_itself_does(done, tmp_path):
    run = tmp_path / "labelled"
    said = stillhouse("train", done.recipe, f"run={run}", "labels={signal: last_hidden}")
    assert said.code == 0, said.err
    live, stored = terms(done.folder, "span_forward_kl"), terms(run, "span_forward_kl")
    assert stored == pytest.approx(live, rel=2e-2)  # 16 bits of each number
    assert (run / "labels" / "manifest.json").exists()


@pytest.mark.parametrize("name", SPANS)
def test_every_objective_across_tokenizers_trains_on_equal_tokenizers_too(name, across, tmp_path):
    student, objectives = {"kind": "from_layers", "keep": [0, 2]}, [{"name": name}]
    said = stillhouse("train", across(student=student, objectives=objectives, **{"training.epochs": 0.5}))
    assert said.code == 0, said.err
    assert terms(tmp_path / "run", name)


def test_equal_tokenizers_train_the_student_that_forward_kl_does(across, tmp_path):
    student = {"kind": "from_layers", "keep": [0, 2]}
    found = {}
    for name in ("forward_kl", "span_forward_kl"):
        objectives = [{"name": name, "temperature": 2.0}, {"name": "next_token", "weight": 0.1}]
        path = across(student=student, objectives=objectives, **{"training.epochs": 1, "training.learning_rate": 1e-3})
        assert stillhouse("train", path, f"run={tmp_path / name}").code == 0
        found[name] = load_file(tmp_path / name / "student" / "model.safetensors")
        assert terms(tmp_path / name, name)[0] > 0
    losses = [terms(tmp_path / name, name) for name in found]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_teachers_own_text_teaches_a_student_with_another_tokenizer(across, tmp_path):
    data = {"sequence_tokens": 96, "held_out": 0.25}
    said = stillhouse("train", across(synthesis=SYNTHESIS, data=data, **{"training.epochs": 0.5}))
    assert said.code == 0, said.err
    assert (tmp_path / "run" / "data" / "documents.jsonl").exists()
    assert terms(tmp_path / "run", "span_forward_kl")


def test_what_compares_token_by_token_is_refused_and_the_road_is_named(across, no_model):
    said = stillhouse("distill", across(objectives=[{"name": "forward_kl"}]))
    assert_refused_in_one_line(said, "forward_kl compares token by token", "span_forward_kl", "cross-tokenizer.md")
    said = stillhouse("distill", across(objectives=[*ACROSS, {"name": "hidden_mse"}]))
    assert_refused(said, "span_forward_kl shows teacher and student a text in tokens of their own", "hidden_mse")
    said = stillhouse("distill", across(objectives=[{"name": "hidden_mse"}, {"name": "next_token"}]))
    assert_refused_in_one_line(said, "hidden_mse compares token by token")


@pytest.mark.parametrize("signal", ["sparse", "sampled", "hidden_states"])
def test_labels_that_keep_a_part_of_what_the_teacher_says_are_refused(across, no_model, signal):
    said = stillhouse("distill", across(labels={"signal": signal}))
    assert_refused(said, f"which signal {signal} does not keep. Use labels.signal last_hidden")


def test_a_tokenizer_whose_bytes_nobody_can_tell_is_refused(across, no_model, student_folder, bert_tokenizer, tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    bert_tokenizer.save_pretrained(folder)
    for file in student_folder.glob("*"):
        if not file.name.startswith("tokenizer") and file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    said = stillhouse("distill", across(student={"kind": "checkpoint", "model": str(folder)}))
    assert_refused_in_one_line(said, "is not the teacher's", "cannot be told which bytes")


def test_a_student_without_a_template_cannot_read_conversations(across, no_model, student_folder, tmp_path):
    folder = tmp_path / "silent"
    folder.mkdir()
    for file in student_folder.glob("*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").unlink()
    said = stillhouse("distill", across("chat", student={"kind": "checkpoint", "model": str(folder)}))
    assert_refused_in_one_line(said, "data.kind chat needs a chat template", "the student's tokenizer has none")


def test_data_that_is_not_predicted_in_words_is_refused_across_tokenizers(kind_recipe, no_model, teacher_folder):
    said = stillhouse("distill", kind_recipe("classification", {"objectives": [{"name": "span_forward_kl"}]}))
    assert_refused(said, "span_forward_kl compares spans of text, which data of kind 'classification' does not predict")


def test_the_student_of_an_inspected_recipe_reads_its_own_tokens(across):
    said = stillhouse("inspect", across(), "--examples", "0")
    assert said.code == 0, said.err
    assert "of the student's tokens" in said.out
    assert "as the tokenizer of student reads it" in said.out
