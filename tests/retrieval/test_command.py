"""A recipe of kind retrieval goes from documents and questions to a student, its index and its report."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from stillhouse.cli import main
from stillhouse.commands.plan.retriever_rehearsal import (
    Amount,
    pairs_to_measure,
    pairs_to_score,
    rehearse,
    seconds_of,
)
from stillhouse.commands.plan.saved import VERSION, SavedPlan, recipe_hash, save
from stillhouse.commands.retrieval import asking
from stillhouse.commands.retrieval import parts as retrieval_parts
from stillhouse.commands.retrieval.asking import ASTRAY, round_trip
from stillhouse.commands.retrieval.pipeline import at_work
from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.core.cluster import Cluster
from stillhouse.core.config import load_recipe, parse_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.files import read_lines
from stillhouse.core.progress import SILENT
from stillhouse.core.retrieval_results import QUALITY, RetrievalResult
from stillhouse.retrieval.documents import id_of
from stillhouse.retrieval.embed import load_embedder, model_fingerprint
from stillhouse.retrieval.index import open_bm25, open_index
from stillhouse.synthesis.records import Record
from stillhouse.teachers.hands import RayActors
from stillhouse.teachers.writer import LocalWriter, Reply

from .cases import TEXTS
from .models import save_bi_encoder, save_cross_encoder

ROOT = Path(__file__).parents[2]
ASKED = [
    "which fox ran",
    "who found a key",
    "what learned to sing",
    "who had a boat",
    "where slept two foxes",
    "who sings when",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "cross": save_cross_encoder(folder, layers=3),
        "bi": save_bi_encoder(folder / "bi", layers=3),
        "wide": save_bi_encoder(folder / "wide", layers=2, hidden=24, normalizes=False),
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "docs").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "docs" / f"{number}.txt").write_text(text)
    (tmp_path / "docs" / "empty.txt").write_text("")
    rows = [{"question": text, "passages": [f"{n}.txt"]} for n, text in enumerate(ASKED)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def small(folder: Path, models: dict[str, Path]) -> list[str]:
    """What makes a few steps on six passages of the recipe's many on much."""
    changes = {
        "run": folder / "run",
        "teacher.model": models["cross"],
        "student.model": models["bi"],
        "data.documents": folder / "docs",
        "data.questions": folder / "asked.jsonl",
        "data.held_out": 0.34,
        "negatives.number": 2,
        "negatives.depth": 3,
        "imitation.training.epochs": 1,
        "training.rows_per_step": 2,
        "training.rows_per_micro_batch": 2,
        "evaluation.rerank_depth": 4,
    }
    return [f"{key}={value}" for key, value in changes.items()]


def test_the_recipe_goes_the_whole_way_and_nothing_twice(folder, models, capsys):
    command = ["distill", str(ROOT / "recipes" / "retriever.yaml"), *small(folder, models), "evaluation.dimensions=[8]"]
    run = folder / "run"
    recipe = load_recipe(RetrievalRecipe, Path(command[1]), command[2:])
    save(SavedPlan(VERSION, recipe_hash(recipe), {"train": 90.0, "evaluate": 5.0}, 2**30, 0), run)
    assert main(command) == 0
    said = capsys.readouterr()
    assert "nDCG@10" in said.out and "empty.txt" in said.out + said.err
    assert "time: planned 1 min 35 s, taken" in said.out and "memory: planned 1.07 GB" in said.out
    result = RetrievalResult.from_json(json.loads((run / "evaluation.json").read_text()))
    names = [one.name for one in result.retrievers]
    assert names == [
        "teacher",
        "student",
        "student_imitating",
        "student_before",
        "bm25",
        "hybrid",
        "student int8",
        "student binary",
        "student 8",
    ]
    assert all(one.metrics.keys() == QUALITY.keys() for one in result.retrievers)
    steps = [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]
    assert all({"listwise_kl", "info_nce", "loss"} <= line.keys() for line in steps)
    embedder = load_embedder(str(run / "student"))
    assert len(embedder.model[0].model.encoder.layer) == 3
    index = open_index(run / "index", embedder, made_by=model_fingerprint(str(run / "student")))
    hits = index.search([ASKED[0]], 3)[0]
    assert len(hits) == 3 and hits[0].id in index.by_id
    assert open_bm25(run / "index").search(["boat"], 1)[0]
    page = (run / "report.html").read_text()
    assert (
        "What was planned" in page
        and "Beside the teacher" in page
        and "http://" not in page.replace("http://www.w3.org", "")
    )
    before = {
        path: path.stat().st_mtime_ns
        for path in run.rglob("*")
        if path.is_file() and path.name not in (".lock", "now.json")
    }
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_plan_counts_on_what_grows_and_a_rehearsal_needs_few(folder, models, tmp_path):
    recipe = load_recipe(RetrievalRecipe, ROOT / "recipes" / "retriever.yaml", small(folder, models))
    (tmp_path / "apart").mkdir()
    found = rehearse(recipe, tmp_path / "apart")
    assert found.few == Amount(passages=6, train=4, held_out=2, imitated=10) and found.kept == 1
    pieces = {(work["stage"], work["unit"]): work["total"] for work in found.works}
    assert pieces["label", "pairs"] <= pairs_to_score(recipe, found.few) == 4 * 4
    assert pieces["evaluate", "pairs"] == pairs_to_measure(recipe, found.few) == 2 * 4
    times = {"steps": 2.0, "passages": 10.0}
    works = [
        {**work, "seconds": 8.0, "unit_seconds": 2.0, "tail_seconds": 0.0, "total": 4}
        for work in found.works
        if work["unit"] in times and work["stage"] in ("train", "index")
    ]
    whole = Amount(passages=60, train=40, held_out=20, imitated=100)
    timed = replace(found, works=works, stages={"train": 9.0, "index": 9.5})
    seconds = seconds_of(recipe, timed, whole)
    # Two epochs of 40 questions, two a step; ten times as many passages.
    assert seconds == pytest.approx({"train": 2 * 40 / 2 * 2.0 + 1, "index": 80 + 1.5})


def test_a_retriever_that_does_not_fit_is_told_what_would(folder, models, capsys):
    path, changes = str(ROOT / "recipes" / "retriever.yaml"), small(folder, models)
    assert main(["plan", path, *changes, "--no-rehearsal", "--memory", "0.0001"]) == 0
    said = capsys.readouterr().out
    assert "7 documents: 6 passages" in said and "4 questions to learn from, and 2 held out" in said
    for word in ("teacher's weights", "activations", "scores", "it does not fit", "training (", "together:"):
        assert word in said


def recipe_of(folder: Path, models: dict[str, Path], **changes: Any) -> dict[str, Any]:
    base = {
        "run": str(folder / "run"),
        "teacher": {"kind": "cross_encoder", "model": str(models["cross"])},
        "student": {"kind": "cross_encoder", "keep": 1},
        "data": {
            "kind": "retrieval",
            "documents": str(folder / "docs"),
            "questions": str(folder / "asked.jsonl"),
            "held_out": 0.34,
        },
        "negatives": {"sources": ["bm25"], "number": 2, "depth": 3},
        "objectives": [{"name": "margin_mse"}],
        "training": {"rows_per_step": 2, "learning_rate": 1e-3},
        "evaluation": {"rerank_depth": 4},
    }
    return {**base, **changes}


def write_recipe(folder: Path, values: dict[str, Any]) -> str:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "recipe.yaml")


def test_a_cross_encoder_loses_layers_by_the_same_stages(folder, models):
    assert main(["distill", write_recipe(folder, recipe_of(folder, models))]) == 0
    result = RetrievalResult.from_json(json.loads((folder / "run" / "evaluation.json").read_text()))
    assert [one.name for one in result.retrievers] == ["teacher", "student", "student_before", "bm25"]
    assert not (folder / "run" / "index").exists()


class ActorsHere(RayActors):
    """Actors of this process, who say what they are given in the wrong order."""

    loads: ClassVar[list[int]] = []

    def said(self, do: Any, batches: Any) -> Iterator[tuple[int, Any]]:
        if not self._begun:
            self.held, self._begun = self.load(), True
            self.loads.append(1)
        for number, batch in reversed(batches.items()):
            yield number, do(self.held, batch)


def test_actors_score_and_embed_what_one_process_does(folder, models, monkeypatch):
    monkeypatch.setattr(retrieval_parts, "RayActors", ActorsHere)
    monkeypatch.setattr("stillhouse.retrieval.embed.TEXTS_TOGETHER", 3)
    monkeypatch.setattr("stillhouse.retrieval.score_store.BLOCK_PAIRS", 5)
    values = recipe_of(
        folder,
        models,
        teacher={"kind": "bi_encoder", "model": str(models["wide"])},
        student={"kind": "static", "model": str(models["bi"]), "dimensions": 8},
        imitation={"kind": "least_squares", "model": str(models["wide"])},
        negatives={"sources": ["teacher"], "number": 2, "depth": 3},
    )
    made = {}
    for name, cluster in (("alone", None), ("many", Cluster("local", 2))):
        recipe = parse_recipe(RetrievalRecipe, {**values, "run": str(folder / name)})
        with at_work(recipe, SILENT, cluster=cluster) as pipeline:
            pipeline.label()
            assert ("own_teachers" in vars(pipeline.parts)) == (cluster is None)
        made[name] = {
            file.relative_to(folder / name): file.read_bytes()
            for part in ("labels", "student_imitating")
            for file in (folder / name / part).rglob("*")
            if file.is_file()
        }
    assert made["alone"] == made["many"] and any(file.name == "scores.bin" for file in made["alone"])
    assert len(ActorsHere.loads) == 3  # for who is imitated, for negatives and for scores


def test_a_static_student_learns_a_wider_bi_encoders_embeddings(folder, models):
    values = recipe_of(
        folder,
        models,
        teacher={"kind": "bi_encoder", "model": str(models["wide"])},
        student={"kind": "static", "dimensions": 8, "similarity": "dot"},
        negatives={"sources": ["teacher", "student"], "number": 2, "depth": 3},
        imitation={"kind": "least_squares"},
        objectives=[{"name": "score_mse"}, {"name": "embedding_mse"}],
        matryoshka=[4],
    )
    assert main(["train", write_recipe(folder, values)]) == 0
    embedder = load_embedder(str(folder / "run" / "student"))
    assert embedder.similarity == "dot" and embedder.queries(["the fox"]).shape == (1, 8)
    assert (folder / "run" / "projections.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objectives": [{"name": "next_token"}]}, "next_token does not compare rankings"),
        ({"objectives": [{"name": "margin_mse", "temperature": 2}]}, "margin_mse has no key 'temperature'"),
        ({"objectives": [{"name": "margin_mse", "weight": 0}]}, "nothing to learn"),
        ({"objectives": [{"name": "info_nce"}]}, "neither embeddings nor a batch"),
        ({"student": {"kind": "from_layers", "keep": 2}}, "student.model must be given"),
        ({"negatives": {"sources": ["teacher"]}}, "only a bi_encoder finds passages"),
        ({"negatives": {"sources": ["bm25"], "number": 30}}, "fewer than the 30 negatives"),
        ({"data": {"kind": "retrieval"}}, "give data.path"),
        ({"data": {"kind": "retrieval", "documents": "docs"}}, "exactly one of them says what is asked"),
        ({"teacher": {"kind": "cross"}}, "'cross' is not known"),
        ({"training": {"gradient_checkpointing": True}}, "training: gradient_checkpointing is true, which retrievers"),
        ({"training": {"compile": True}}, "training: compile is true, which retrievers"),
        ({"training": {"precision": "bfloat16"}}, "training: precision is bfloat16, but retrievers learn in float32"),
        ({"tracher": {}}, "Did you mean 'teacher'"),
    ],
)
def test_a_wrong_recipe_is_refused_in_its_own_words(folder, models, changes, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe(RetrievalRecipe, recipe_of(folder, models, **changes))


def test_an_embedding_objective_needs_a_teacher_that_embeds(folder, models):
    student = {"kind": "checkpoint", "model": str(models["bi"])}
    with pytest.raises(RecipeError, match="compared with a bi_encoder's"):
        parse_recipe(
            RetrievalRecipe, recipe_of(folder, models, student=student, objectives=[{"name": "embedding_mse"}])
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.documents=nowhere", "there is no such file or folder"),
        ("teacher.model=./nowhere", "neither an existing folder"),
        ("data.held_out=0.01", "too few"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(folder, models, change, said, capsys):
    recipe = write_recipe(folder, recipe_of(folder, models))
    assert main(["distill", recipe, change]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (folder / "run").exists()


def test_what_processes_cannot_do_for_a_retriever_is_refused_in_a_line(folder, models, capsys):
    recipe = write_recipe(folder, recipe_of(folder, models, training={"rows_per_step": 6, "rows_per_micro_batch": 3}))
    for options, said in (
        (["--launch", "2"], "training.rows_per_micro_batch, which is 3: it must be a multiple of 2"),
        (["--launch", "3", "--sharded"], "each process of --launch holds it whole"),
    ):
        assert main(["train", recipe, *options]) == 2
        assert said in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_a_question_is_kept_if_its_passage_is_found_for_it():
    records = [Record(lineage={"passage": text}).say("user", "?") for text in ("one two", "three")]
    kept, dropped = round_trip(records, [{id_of("one  two")}, {id_of("four")}])
    assert not kept.dropped and dropped.dropped == ASTRAY


def test_documents_and_questions_are_inspected_before_a_model_is_loaded(folder, models, monkeypatch, capsys):
    monkeypatch.setattr("stillhouse.commands.retrieval.parts.load_sentence_model", None)
    recipe = write_recipe(folder, recipe_of(folder, models))
    assert main(["inspect", recipe, "--examples", "1"]) == 0
    said = capsys.readouterr().out
    assert "7 documents, 6 passages" in said and "1 without text" in said and "empty.txt" in said
    assert "4 questions, 1.0 passages answer each" in said and "2 questions" in said
    assert f"example 1: {ASKED[0]}" in said and "answered by" in said and "not by" in said
    assert not (folder / "run").exists()
    assert main(["synthesize", recipe, "--dry-run"]) == 2
    assert "nothing to try" in capsys.readouterr().err


class Asker(LocalWriter):
    """Asks of each passage about its fourth word on, and of one about something that is nowhere."""

    name, fingerprint, tokenizer = "asker", "0", None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def write(self, requests, done=()):
        for request in requests:
            passage = request.messages[-1]["content"].partition("\n\n")[2].partition("\n\n")[0]
            text = "what of zebras?" if "boat" in passage else " ".join(passage.split()[3:]) + "?"
            yield request, Reply(text=text, finished=True, tokens=3, prompt_tokens=3)


def test_without_questions_a_model_asks_them_and_those_that_lead_astray_are_left_out(
    folder, models, monkeypatch, capsys
):
    monkeypatch.setattr(asking, "load_causal_lm", lambda source: None)
    monkeypatch.setattr(asking, "LocalWriter", Asker)
    values = recipe_of(folder, models, synthesis={"model": str(models["bi"]), "number": 6, "round_trip": 2})
    del values["data"]["questions"]
    assert main(["label", write_recipe(folder, values)]) == 0
    asked = read_lines(folder / "run" / "data" / "questions.jsonl")
    dropped = read_lines(folder / "run" / "data" / "dropped.jsonl")
    assert len(asked) == 5 and [line["dropped"] for line in dropped] == [ASTRAY]
    before = sorted((folder / "run").rglob("*"))
    capsys.readouterr()
    assert main(["synthesize", str(folder / "recipe.yaml"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tried: 5 of 6 questions" in said and f"dropped: {ASTRAY}" in said and "question: " in said
    assert sorted((folder / "run").rglob("*")) == before
    assert {line["question"] for line in read_lines(folder / "run" / "labels" / "rows.jsonl")} < {
        line["_id"] for line in asked
    }


def test_the_recipe_file_is_read():
    recipe = load_recipe(RetrievalRecipe, ROOT / "recipes" / "retriever.yaml")
    assert recipe.parameter("teacher_temperature", 1.0) == 2.0
