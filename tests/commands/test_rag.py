"""From documents and questions to a student that answers over passages, its report, and `stillhouse rag ask`."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.grounding import find_contexts
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.config import load_recipe
from stillhouse.core.files import read_lines
from stillhouse.core.grounded_results import grounded_result
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder
from stillhouse.data.grounded import read_contexts
from stillhouse.teachers.writer import Reply

from .conftest import FAULT_SERVER, assert_refused, assert_refused_in_one_line, stillhouse, write_rows

CITIES = {
    "Ada": "Rome", "Bo": "Oslo", "Cy": "Lima", "Di": "Cairo", "Ed": "Quito", "Flo": "Delhi", "Gus": "Accra", "Hal": "Sofia",
}  # fmt: skip


def documents(folder: Path) -> Path:
    (folder / "docs").mkdir()
    for name, city in CITIES.items():
        (folder / "docs" / f"{name}.txt").write_text(f"{name} was born in {city}.", encoding="utf-8")
    (folder / "docs" / "empty.txt").write_text("", encoding="utf-8")
    return folder / "docs"


def recipe(folder: Path, teacher: Path, **changes) -> Path:
    questions = [
        {"question": f"Where was {name} born?", "answers": [city], "passages": [f"{name}.txt"]}
        for name, city in CITIES.items()
    ]
    values = {
        "run": str(folder / "run"),
        "teacher": {"model": str(teacher)},
        "student": {"kind": "from_layers", "keep": 1, "calibration_tokens": 32},
        "data": {
            "kind": "rag",
            "documents": str(documents(folder)),
            "path": str(write_rows(folder / "questions.jsonl", questions)),
            "passages": 2,
            "candidates": 4,
            "sequence_tokens": 512,
            "held_out": 0.25,
            "mixture": {"distractors": 0.5, "retrieved": 0.25, "removed": 0.25},
        },
        "objectives": [{"name": "forward_kl"}],
        "training": {"epochs": 1, "rows_per_step": 2, "rows_per_micro_batch": 2},
        "evaluation": {"samples": 0, "control": "none"},
    }
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if key:
            values[section][key] = value
        else:
            values[section] = value
    path = folder / "rag.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _briefly_timed(monkeypatch) -> None:
    monkeypatch.setattr("stillhouse.evaluation.grounded.TIMED_QUESTIONS", 1)


def test_from_documents_to_answers_with_sources(tmp_path, writing_teacher):
    lenient = {"citing": "none", "precision": 0.0, "recall": 0.0, "filters": [], "batch_size": 4}
    sampling = {"answers": {"sampling": {"temperature": 0.0, "max_new_tokens": 8}}}
    path = recipe(tmp_path, writing_teacher, synthesis={"kind": "grounded", **lenient, **sampling})
    said = stillhouse("distill", path)
    assert said.code == 0, said.err
    run = tmp_path / "run"
    contexts = {line["hash"]: line for line in read_lines(run / "data" / "contexts.jsonl")}
    assert len(contexts) == len(CITIES)
    learnt, judged = (read_lines(run / "data" / name) for name in ("synthetic.jsonl", "held_out.jsonl"))
    assert len(judged) == 2 and learnt
    for row in (*learnt, *judged):
        context = contexts[row["lineage"]["context"]]
        assert all(passage["text"] in row["messages"][0]["content"] for passage in context["passages"])
        if context["mix"] == "removed":
            assert row["messages"][1]["content"] == "The passages do not say."
    assert "held-out questions; the passages of" in said.out
    report = (run / "report.html").read_text(encoding="utf-8")
    told = {
        (line["evaluated"], line["metric"])
        for line in read_lines(run / "metrics.jsonl")
        if line.get("suite") == "grounded"
    }
    assert {("student", "answered"), ("teacher", "answered"), ("student", "speed_up")} <= told
    assert "peak memory" in report and "index on disk" in report
    assert "Answers over retrieved passages" in report and "Not their truth" not in said.out

    asked = stillhouse("rag", "ask", run, "Where was Ada born?")
    assert asked.code == 0, asked.err
    assert asked.out.strip()
    assert_refused_in_one_line(stillhouse("rag", "ask", run, "  "), "the question is empty")
    long = stillhouse("rag", "ask", run, "where " * 10_000)
    assert long.code == 2 and "the question is too long" in long.err

    # A retrieval that was run again is refused: what is kept is not what was answered over.
    file = run / "data" / "contexts.jsonl"
    changed = [json.dumps({**line, "hash": line["hash"], "retriever": "another"}) for line in contexts.values()]
    file.write_text("\n".join(changed) + "\n", encoding="utf-8")
    refused = stillhouse("distill", path)
    assert refused.code == 2 and "run=FOLDER" in refused.err


def test_a_student_that_reads_the_question_alone_learns_from_the_datas_answers(tmp_path, writing_teacher):
    path = recipe(tmp_path, writing_teacher, **{"data.student_reads": "question"})
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    rows = read_lines(tmp_path / "run" / "data" / "synthetic.jsonl")
    assert all(row["messages"][0]["content"].startswith("Question: ") for row in rows)
    assert all("[1]" in row["context"] for row in rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.documents": "nowhere"}, ["nowhere"]),
        ({"data.retriever": "./nowhere"}, ["data.retriever is './nowhere'", "bm25"]),
        ({"data.candidates": 1}, ["candidates is 1"]),
        ({"synthesis": {"kind": "documents", "number": 3, "path": "x"}}, ["go together"]),
        ({"synthesis": {"kind": "grounded", "number": 3}}, ["data.path or synthesis.number"]),
    ],
)
def test_what_cannot_be_answered_from_is_refused_before_a_model_is_loaded(
    tmp_path, writing_teacher, no_model, changes, words
):
    said = stillhouse("distill", recipe(tmp_path, writing_teacher, **changes))
    assert said.code == 2 and "Traceback" not in said.err
    assert all(word in said.err for word in words), said.err


def test_a_teacher_behind_an_api_answers_over_the_passages_and_is_compared_with(tmp_path, student_folder):
    with FAULT_SERVER.FaultServer(answer=FAULT_SERVER.in_words) as server:
        path = recipe(
            tmp_path,
            student_folder,
            student={"kind": "from_config", "config": str(student_folder), "changes": {"max_position_embeddings": 512}},
            synthesis={"kind": "grounded", "precision": 0.0, "recall": 0.0, "filters": []},
            objectives=[{"name": "next_token"}],
            **{"teacher.kind": "remote", "teacher.base_url": server.url, "teacher.model": "m", "teacher.key_env": None},
        )
        said = stillhouse("distill", path)
        assert said.code == 0, said.err
        assert set(server.answered.values()) == {1}, "nothing is asked twice"
    stages = RunFolder(tmp_path / "run").stages()
    found = grounded_result(stages["evaluate"]["grounded"])
    assert found.reading("teacher") is not None and found.reading("teacher", "without_passages") is not None
    assert {one.who for one in found.latencies} == {"bm25", "student"} and found.speed_up is None
    assert_refused_in_one_line(
        stillhouse("rag", "ask", tmp_path / "run", "Where?", "--who", "teacher"), "behind an API"
    )


def test_questions_without_answers_need_a_teacher(tmp_path, writing_teacher, no_model):
    path = recipe(tmp_path, writing_teacher)
    write_rows(tmp_path / "questions.jsonl", [{"question": f"Who is {name}?"} for name in CITIES])
    assert_refused(stillhouse("distill", path), "have no 'answers'", "kind: grounded")


class Curious:
    """Asks where whoever a passage is about was born; of one it asks what no passage says."""

    name = fingerprint = "curious"
    tokenizer = None

    def write(self, requests, done=()):
        for request in requests:
            about = re.search(r"(\w+) was born", request.messages[0]["content"])[1]
            asked = "What is zinc?" if about == "Ada" else f"Where was {about} born?"
            yield request, Reply(asked, True, 1, 1)


def test_questions_that_are_written_about_passages_must_find_them_again(tmp_path, writing_teacher, monkeypatch):
    synthesis = {"kind": "grounded", "number": len(CITIES)}
    path = recipe(tmp_path, writing_teacher, synthesis=synthesis, **{"data.path": None})
    monkeypatch.setattr("stillhouse.commands.stages.grounding.writing", lambda *_, **__: nullcontext(Curious()))
    shop = Workshop(load_recipe(Recipe, path), RunFolder(tmp_path / "run"), SILENT)
    found = find_contexts(shop)
    assert found["notes"] == {"left out: they do not find their passage again, or came twice": 1}
    contexts = read_contexts(tmp_path / "run" / "data" / "contexts.jsonl")
    assert len(contexts) == len(CITIES) - 1
    for context in contexts:
        assert context.gold and not context.answers
        assert context.answer_in_context is (False if context.mix == "removed" else context.gold_present)
