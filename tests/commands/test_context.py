"""A prompt that becomes weights, from the recipe to the report."""

from functools import partial
from pathlib import Path

import pytest

from stillhouse.core.files import read_lines
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.training import DistillationTrainer

from .conftest import (
    CHATS,
    Finished,
    assert_refused,
    assert_refused_in_one_line,
    stillhouse,
    write_recipe,
    write_rows,
)

PROMPT = "the old man had a boat and went out to sea: sing of the sea and the birds, the sea"
GENERAL = [{"prompt": f"one day {n}", "completion": f"the robot found key {n}"} for n in range(16)]
MIXED = {"kind": "mixed", "student_share": 0.5, "sampling": {"max_new_tokens": 8}, "batch_size": 3}
OWN_TEACHER = {"teacher.kind": "self", "teacher.model": ""}
ONCE = {"training.epochs": 1}
CONTEXT = {"styles": [{"system": PROMPT}, {"before_question": PROMPT}], "replay": {"share": 0.25}}


def write_context_recipe(folder: Path, teacher: Path, context=CONTEXT, /, **changes) -> Path:
    """A recipe whose teacher alone reads a prompt; the student is a copy of it. Its run is in the same folder."""
    general = str(write_rows(folder / "general.jsonl", GENERAL))
    if context is not None and context.get("replay"):
        context = {**context, "replay": {"path": general, **context["replay"]}}
    data = {
        "kind": "chat",
        "path": str(write_rows(folder / "rows.jsonl", [{**row, "notes": "the sea"} for row in CHATS])),
        "sequence_tokens": 128,
        "held_out": 0.25,
        **({"teacher_context": context} if context is not None else {}),
    }
    values = {
        "student": {"kind": "checkpoint", "model": str(teacher)},
        "synthesis": None,
        "labels": None,
        "data": data,
        "objectives": [{"name": "forward_kl"}],
        "evaluation": {"control": "none", "samples": 1},
        "training": {
            "epochs": 4,
            "learning_rate": 6e-3,
            "rows_per_step": 4,
            "rows_per_micro_batch": 2,
            "save_every_steps": 4,
        },
    }
    return write_recipe(folder, teacher, **{**values, **changes})


@pytest.fixture
def context_recipe(tmp_path, teacher_folder):
    """Write that recipe; its run is `tmp_path / "run"`."""
    return partial(write_context_recipe, tmp_path, teacher_folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory, teacher_folder) -> Finished:
    """A run in which some answers are the student's own. Look, do not touch."""
    folder = tmp_path_factory.mktemp("context")
    path = write_context_recipe(folder, teacher_folder, source=MIXED)
    return Finished(path, folder / "run", stillhouse("distill", path))


def result_of(run: Path) -> EvaluationResult:
    return EvaluationResult.from_dict(RunFolder(run).stages()["evaluate"]["result"])


def steps(run: Path) -> list[dict[str, float]]:
    return [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]


def test_a_student_comes_nearer_to_the_teacher_that_reads_the_prompt_and_the_report_says_how_near(done):
    assert done.said.code == 0, done.said.err
    found = result_of(done.folder).context
    assert [style.name for style in found.styles] == ["1: system prompt", "2: text before the question"]
    for style in found.styles:
        assert style.documents == 4 and style.tokens_saved.value > 20
        without = {row.role: row.metrics for row in style.readings if not row.reads_context}
        told = {row.role: row.metrics for row in style.readings if row.reads_context}
        assert told["teacher"]["forward_kl"].value == 0 and told["teacher"]["top1_agreement"].value == 1
        # Before training it was the teacher.
        assert without["student_before"] == without["teacher"] and told["student_before"] == told["teacher"]
        assert without["student"]["forward_kl"].value < 0.9 * without["student_before"]["forward_kl"].value
        kept = {(row.role, row.measure): row.share for row in style.kept}
        assert kept["student_before", "kl"].value == 0
        expected = 1 - without["student"]["forward_kl"].value / without["teacher"]["forward_kl"].value
        assert kept["student", "kl"].value == pytest.approx(expected)
    assert found.elsewhere == 4
    drift = {row.role: row for row in found.drift}
    assert drift["student_before"].change.value == drift["student_before"].forward_kl.value == 0
    assert drift["student"].forward_kl.value > 0
    report = (done.folder / "report.html").read_text(encoding="utf-8")
    for words in ("What the teacher alone had read", "tokens less to read in each call", "Elsewhere: 4 held-out"):
        assert words in report
    assert "tokens less to read in each call" in done.said.out
    assert "tokens less to read in each call" in (done.folder / "student" / "README.md").read_text(encoding="utf-8")


def test_the_main_table_compares_with_the_teacher_that_has_read_the_prompt(done):
    result = result_of(done.folder)
    teacher, before = (result.model(role).metrics for role in ("teacher", "student_before"))
    assert teacher["forward_kl"].value == 0 and before["forward_kl"].value > 0.01
    assert result.teacher_tokens is None and result.held_out.documents == 4


def test_how_many_rows_are_replayed_is_said_where_the_data_is_read(done):
    assert "replayed without context: 4 rows beside 12 with one" in done.said.err
    assert "style 1: system prompt: the teacher reads" in done.said.err


def test_a_run_that_stops_behind_a_checkpoint_ends_with_the_same_student(done, tmp_path, monkeypatch):
    compute = DistillationTrainer.compute_loss

    def stop(self, *args, **options):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return compute(self, *args, **options)

    run = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        assert stillhouse("train", done.recipe, f"run={run}").code == 130
    assert (run / "checkpoints" / "student" / "checkpoint-4").exists()
    assert stillhouse("train", done.recipe, f"run={run}").code == 0
    name = "student/model.safetensors"
    assert (run / name).read_bytes() == (done.folder / name).read_bytes()


def test_an_empty_context_is_the_plain_run_to_the_byte(tmp_path, teacher_folder):
    students = []
    for name, context in (("plain", None), ("empty", {"styles": [{}]})):
        folder = tmp_path / name
        folder.mkdir()
        path = write_context_recipe(
            folder, teacher_folder, context, student={"kind": "from_layers", "keep": [0, 2]}, source=MIXED, **ONCE
        )
        said = stillhouse("train", path)
        assert said.code == 0, said.err
        students.append((folder / "run" / "student" / "model.safetensors").read_bytes())
    assert students[0] == students[1]


def test_stored_labels_are_made_from_what_the_teacher_reads(context_recipe, tmp_path):
    path = context_recipe(labels={"signal": "last_hidden"}, **ONCE)
    assert stillhouse("train", path).code == 0
    live = tmp_path / "live"
    assert stillhouse("train", path, "labels=null", f"run={live}").code == 0
    stored, lived = (steps(run)[0]["forward_kl"] for run in (tmp_path / "run", live))
    assert stored == pytest.approx(lived, rel=2e-2)


def test_another_prompt_in_the_same_file_is_noticed(context_recipe, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT, encoding="utf-8")
    path = context_recipe({"styles": [{"system_path": str(prompt)}]}, training={"epochs": 1})
    assert stillhouse("train", path).code == 0
    prompt.write_text("Be a robot.", encoding="utf-8")
    said = stillhouse("train", path)
    assert said.code == 2 and "data have changed since" in said.err


def test_inspect_shows_both_views_and_loads_no_model(context_recipe, tmp_path, no_model):
    said = stillhouse("inspect", context_recipe(), "--examples", "12")
    assert said.code == 0 and not (tmp_path / "run").exists()
    blocks = said.out.split("\nexample ")[1:]
    assert len(blocks) == 12
    for block in blocks:
        ours, _, theirs = block.partition("the teacher reads in its place")
        assert PROMPT not in ours and PROMPT.strip() in theirs
        assert ours.count("[[") == theirs.count("[[") == 2
        assert [part.split("]]")[0] for part in ours.split("[[")[1:]] == [
            part.split("]]")[0] for part in theirs.split("[[")[1:]
        ]
    assert "replayed without context: 4 rows beside 12 with one" in said.out


def test_notes_of_each_row_come_before_its_question(context_recipe, no_model):
    said = stillhouse("inspect", context_recipe({"styles": [{"column": "notes"}]}), "--examples", "1")
    assert "<|user|>the sea\n\nwho ran to the" in said.out


def test_prompts_without_room_behind_the_context_are_left_out_and_said(context_recipe):
    long = {**CHATS[0]["messages"][0], "content": "who sang? " * 5}
    wanted = {"source": {**MIXED, "sampling": {"max_new_tokens": 30}}, "training": {"epochs": 0.1}}
    path = context_recipe(**wanted, **{"data.weight": "last"})
    write_rows(path.parent / "rows.jsonl", [*CHATS, {"messages": [long, *CHATS[0]["messages"][1:]]}])
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    assert "left out: 1 with no room for an answer of source.sampling.max_new_tokens (30)" in said.err
    assert "rows beside 12 with one" in said.err
    assert_refused_in_one_line(
        stillhouse("train", path, "source.sampling.max_new_tokens=100", f"run={path.parent / 'other'}"),
        "behind the teacher's context",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": [{"name": "hidden_mse", "layers": "final"}]}, "hidden_mse compares states at every token"),
        ({"objectives": [{"name": "forward_kl", "where": "tokens"}]}, "forward_kl has where: tokens"),
        ({"objectives": [{"name": "span_forward_kl"}]}, "span_forward_kl compares across tokenizers"),
    ],
)
def test_what_cannot_be_learnt_from_a_teacher_that_reads_more_is_refused(context_recipe, no_model, changes, words):
    assert_refused(stillhouse("distill", context_recipe(**changes)), words, "data.teacher_context")


def test_a_student_with_another_tokenizer_is_refused(context_recipe, student_folder, no_model):
    path = context_recipe(student={"kind": "checkpoint", "model": str(student_folder)})
    assert_refused_in_one_line(stillhouse("distill", path), "with data.teacher_context both must write the same tokens")


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ({"styles": [{"system_path": "nowhere.txt"}]}, "data.teacher_context.styles.0.system_path"),
        ({"styles": [{"system": PROMPT * 9}]}, "Raise data.sequence_tokens"),
        ({"styles": [{"column": "hints"}]}, "under 'hints'"),
        ({"styles": [{"system": "x"}], "replay": {"share": 0.9}}, "replay.share is 0.9"),
    ],
)
def test_a_context_that_cannot_be_shown_is_refused_before_a_model_is_loaded(context_recipe, no_model, context, words):
    assert_refused_in_one_line(stillhouse("distill", context_recipe(context)), words)


def test_a_model_can_tell_itself_what_it_no_longer_has_to_read(context_recipe, tmp_path, teacher_folder):
    student = {"kind": "checkpoint", "model": str(teacher_folder), "lora": {"rank": 4, "alpha": 8}}
    context = {"styles": [{"system": PROMPT}], "replay": {"share": 0.25}}
    said = stillhouse("distill", context_recipe(context, student=student, source=MIXED, **OWN_TEACHER))
    assert said.code == 0, said.err
    (style,) = result_of(tmp_path / "run").context.styles
    without = {row.role: row.metrics["forward_kl"] for row in style.readings if not row.reads_context}
    assert without["student_before"] == without["teacher"]
    assert without["student"].value < without["student_before"].value
