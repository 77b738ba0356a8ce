"""Every kind of data from beginning to end: the student that its task needs, and reports that speak of nothing else."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from stillhouse.commands.recipe import HARD_OBJECTIVE, Recipe
from stillhouse.core.config import load_recipe
from stillhouse.core.files import read_lines
from stillhouse.core.results import HEADLINE, METRICS, EvaluationResult
from stillhouse.core.task import Task
from stillhouse.objectives import Ramp
from stillhouse.students.build import randomised

from .conftest import KINDS, SAYINGS, Kind, Said, SaveTeacher, files_in, stillhouse, write_kind

AUTO_CLASSES: dict[Task, Any] = {
    "masked_lm": AutoModelForMaskedLM,
    "sequence_classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "sentence_embedding": AutoModel,
}
CAUSAL_WORDS = ("perplexity", "bits per byte", "decode", "prefill", "tokens/s", "next-token", "next_token")


@dataclass(frozen=True)
class FinishedKind:
    """A run of one kind of data that nothing interrupted, and the teacher it learnt from."""

    name: str
    kind: Kind
    teacher: Path
    recipe: Path
    said: Said

    @property
    def run(self) -> Path:
        return self.recipe.parent / "run"


@pytest.fixture(scope="session", params=KINDS)
def done(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, save_teacher: SaveTeacher
) -> FinishedKind:
    """A recipe of each kind, run from beginning to end. Look, do not touch."""
    name = str(request.param)
    kind = KINDS[name]
    teacher = save_teacher(kind.task, kind.family, **({"labels": kind.labels} if kind.labels else {}))
    recipe = write_kind(tmp_path_factory.mktemp(name), name, teacher)
    return FinishedKind(name, kind, teacher, recipe, stillhouse("distill", recipe))


def lines_of(run: Path, arm: str = "student") -> list[dict[str, Any]]:
    return [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == arm]


def mean_of(lines: list[dict[str, Any]], number: str = "loss") -> float:
    return sum(line[number] for line in lines) / len(lines)


def weights(run: Path, role: str = "student") -> dict[str, torch.Tensor]:
    return load_file(run / role / "model.safetensors")


def words_of(page: str) -> str:
    """What a page says, without its markup, its styles, and the recipe that it repeats."""
    bare = re.sub(r"<(style|script|pre).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).replace("\xa0", " ").split())


def test_every_kind_goes_the_whole_way(done):
    assert done.said.code == 0, done.said.err
    assert {path.name for path in (done.run / "student").iterdir()} >= {"config.json", "README.md", "tokenizer.json"}
    assert not list(done.run.rglob("*.part"))
    assert not (done.run / "checkpoints").exists()
    assert not list(done.run.rglob("projections.safetensors"))  # of equal widths


def test_the_student_loads_as_what_its_task_needs_and_answers_in_the_teachers_labels(done):
    student, told = AUTO_CLASSES[done.kind.task].from_pretrained(done.run / "student", output_loading_info=True)
    # An embedding is pooled from the last states: the dense layer that some families call a pooler is not kept.
    assert not [name for name in told["missing_keys"] if not name.startswith("pooler.")]
    assert not (told["unexpected_keys"] or told["mismatched_keys"])
    tokenizer = AutoTokenizer.from_pretrained(done.run / "student")
    assert student(**tokenizer(SAYINGS[0], return_tensors="pt"))[0].isfinite().all()
    assert student.config.num_hidden_layers == 2
    if done.kind.labels:
        assert student.config.id2label == dict(enumerate(done.kind.labels))
        assert student.config.label2id == {label: number for number, label in enumerate(done.kind.labels)}
    if done.kind.task in ("sequence_classification", "regression"):
        assert student.config.problem_type in ("single_label_classification", "regression")


def test_every_step_logs_every_term_and_their_weighted_sum(done):
    lines = lines_of(done.run)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    asked = {chosen["name"]: chosen.get("weight", 1.0) for chosen in done.kind.objectives}
    for line in lines:
        assert line.keys() == {"arm", "step", "tokens", *asked, "loss", "learning_rate", "gradient_norm"}
        assert_close(line["loss"], sum(weight * line[name] for name, weight in asked.items()), rtol=1e-4, atol=1e-5)
    # What the teacher says is learnt in any order of the rows. What the data says besides may be at odds with it.
    first, last = (sum(line[done.kind.objectives[0]["name"]] for line in some) for some in (lines[:5], lines[-5:]))
    assert last < first


def test_the_control_learns_from_the_data_alone_where_there_is_something_to_learn(done):
    control = done.run / "control_hard_labels"
    assert HARD_OBJECTIVE[done.kind.task] == done.kind.hard
    assert control.exists() == (done.kind.hard is not None)
    terms = {"arm", "step", "tokens", "loss", "learning_rate", "gradient_norm", done.kind.hard}
    lines = lines_of(done.run, "control_hard_labels")
    assert all(line.keys() == terms for line in lines)
    assert len(lines) == (len(lines_of(done.run)) if done.kind.hard else 0)
    start, student = weights(done.run, "student_before"), weights(done.run)
    assert any(not torch.equal(start[name], student[name]) for name in start)


def test_report_card_and_terminal_speak_of_this_task_and_of_no_other(done):
    page = (done.run / "report.html").read_text(encoding="utf-8")
    card = (done.run / "student" / "README.md").read_text(encoding="utf-8")
    told = card.partition("```yaml")[0]
    for text in (words_of(page), told, done.said.out):
        assert not [word for word in CAUSAL_WORDS if word in text.lower()]
        assert "saved" in text and "faster" in text
    metrics = {line["metric"] for line in read_lines(done.run / "metrics.jsonl") if "evaluated" in line}
    assert len(metrics) > 1
    for metric in metrics:
        assert METRICS[metric].title in told
        assert METRICS[metric].title in words_of(page)
    for chosen in done.kind.objectives:
        assert chosen["name"] in page  # the recipe


def test_what_was_kept_is_measured_in_the_tasks_headline_metric(done):
    record = json.loads((done.run / "stages" / "evaluate.json").read_text())
    result = EvaluationResult.from_dict(record["result"])
    controls = ["control_hard_labels"] if done.kind.hard else []
    assert {share.metric for share in result.retentions} <= {HEADLINE[done.kind.task]}
    assert {model.role for model in result.models} == {"teacher", "student_before", "student", *controls}


def test_a_second_run_of_any_kind_writes_nothing_loads_no_model_and_says_the_same(done, no_model):
    before = files_in(done.run)
    again = stillhouse("distill", done.recipe)
    assert (again.code, again.out) == (0, done.said.out)
    assert files_in(done.run) == before


def test_the_resolved_recipe_of_any_kind_reads_back_equal(done):
    assert load_recipe(Recipe, done.run / "recipe.yaml") == load_recipe(Recipe, done.recipe)


WriteKind = Callable[..., Path]


def trained(path: Path) -> Path:
    """The run of a recipe, after training alone."""
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    return path.parent / "run"


def test_labels_are_numbered_as_the_teacher_numbers_them_and_it_may_know_more(kind_recipe, save_teacher):
    labels = ("bored", "glad", "angry", "sad")
    teacher = save_teacher("sequence_classification", labels=labels)
    run = trained(kind_recipe("classification", {"training.epochs": 0.5}, teacher))
    assert json.loads((run / "student" / "config.json").read_text())["id2label"] == {
        str(number): label for number, label in enumerate(labels)
    }


NARROW = {"kind": "from_config", "changes": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}}


@pytest.mark.parametrize(
    ("objectives", "names"),
    [
        ([{"name": "hidden_mse"}, {"name": "forward_kl"}], {"hidden_mse.1-2", "hidden_mse.2-3"}),
        ([{"name": "hidden_cosine", "layers": [[0, 0], [2, 3]]}], {"hidden_cosine.0-0", "hidden_cosine.2-3"}),
        ([{"name": "gram_mse"}, {"name": "forward_kl"}], set()),
    ],
)
def test_a_narrower_student_has_its_projections_beside_it_and_none_inside(kind_recipe, objectives, names):
    run = trained(kind_recipe("masked_text", {"student": NARROW, "objectives": objectives}))
    assert not [name for name in weights(run) if "projection" in name or "maps" in name]
    assert AutoModelForMaskedLM.from_pretrained(run / "student").config.hidden_size == 16
    assert {path.parent for path in run.rglob("projections.safetensors")} == ({run} if names else set())
    if names:
        with safe_open(run / "projections.safetensors", framework="pt") as file:
            assert set(file.keys()) == names
            assert {tuple(file.get_tensor(name).shape) for name in names} == {(32, 16)}


def test_projections_that_have_gone_are_made_again_with_the_student_that_they_belong_to(kind_recipe):
    path = kind_recipe("masked_text", {"student": NARROW, "objectives": [{"name": "hidden_mse"}]})
    run = trained(path)
    made = [run / "projections.safetensors", run / "student" / "model.safetensors"]
    before, seconds = [file.read_bytes() for file in made], made[0].stat().st_mtime_ns
    trained(path)
    assert made[0].stat().st_mtime_ns == seconds
    made[0].unlink()
    trained(path)
    assert [file.read_bytes() for file in made] == before


def test_embeddings_of_another_width_are_matched_through_a_projection(kind_recipe):
    objectives = [{"name": "embedding_mse"}]
    run = trained(kind_recipe("sentences", {"student": NARROW, "objectives": objectives}))
    assert set(load_file(run / "projections.safetensors")) == {"embedding_mse.2-3"}
    pooling = json.loads((run / "student" / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 16 and pooling["pooling_mode_mean_tokens"]


TRIPLE_LOSS = [
    {"name": "forward_kl", "where": "tokens", "temperature": 2.0, "weight": 5.0},
    {"name": "masked_token", "weight": 2.0},
    {"name": "hidden_cosine", "weight": 1.0},
]
DISTILBERT = {"kind": "from_layers", "keep": [0, 2], "architecture": "distilbert", "freeze_position_embeddings": True}


def test_distilbert_learns_by_its_triple_loss_with_its_positions_as_they_were(kind_recipe):
    changes = {"student": DISTILBERT, "objectives": TRIPLE_LOSS, "evaluation": {"control": "from_scratch"}}
    path = kind_recipe("masked_text", changes)
    assert stillhouse("distill", path).code == 0
    run = path.parent / "run"
    config = json.loads((run / "student" / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForMaskedLM"]
    positions = "distilbert.embeddings.position_embeddings.weight"
    student, start = weights(run), weights(run, "student_before")
    assert torch.equal(student[positions], start[positions])
    assert all(not torch.equal(student[name], start[name]) for name in student if name.endswith("q_lin.weight"))
    assert all(
        5 * line["forward_kl"] + 2 * line["masked_token"] + line["hidden_cosine"] == pytest.approx(line["loss"], 1e-4)
        for line in lines_of(run)
    )
    # Random positions that never move would hold a control back that has no teacher's to keep.
    start = randomised(AutoModelForMaskedLM.from_pretrained(run / "student_before"), seed=0).state_dict()
    assert not torch.equal(weights(run, "control_from_scratch")[positions], start[positions])


def test_a_weight_that_ramps_to_nothing_leaves_the_other_term_alone_in_the_end(kind_recipe):
    objectives = [
        {"name": "forward_kl", "weight": {"start": 1.0, "end": 0.0, "until": 0.5}},
        {"name": "hard_label", "weight": {"start": 0.0, "end": 1.0, "shape": "step", "until": 0.5}},
    ]
    run = trained(kind_recipe("classification", {"objectives": objectives}))
    lines = lines_of(run)
    assert lines[0]["loss"] == pytest.approx(lines[0]["forward_kl"], 1e-4)
    steps = len(lines)
    for line in lines:
        done = (line["step"] - 1) / steps  # what was done when the step began
        soft, hard = max(0.0, 1 - 2 * done), float(done >= 0.5)
        assert line["loss"] == pytest.approx(soft * line["forward_kl"] + hard * line["hard_label"], 1e-4)


def test_a_target_that_adapts_moves_ahead_of_its_schedule_and_says_where_it_is(kind_recipe):
    t = {"start": 0.4, "end": 1.0, "shape": "adaptive", "rate": 0.2, "momentum": 0.5}
    run = trained(kind_recipe("classification", {"objectives": [{"name": "taid", "t": t}]}))
    shares = [line["taid_t"] for line in lines_of(run)]
    assert shares == sorted(shares)
    ahead = [share - Ramp(0.4, 1.0).at(step / len(shares)) for step, share in enumerate(shares)]
    assert shares[0] == 0.4 and shares[-1] <= 1.0
    assert min(ahead) == 0.0 and max(ahead) > 0.05


CAUSAL_FEATURES = [
    {"name": "forward_kl"},
    {"name": "hidden_mse"},
    {"name": "attention_kl", "weight": 0.5},
    {"name": "multi_head_relation_kl", "relation_heads": 4, "layers": [[2, 3]]},
]


def test_features_of_a_causal_model_are_compared_within_documents_that_are_packed(recipe, texts_file, tmp_path):
    changes = {"synthesis": None, "labels": None, "data.path": str(texts_file), "objectives": CAUSAL_FEATURES}
    said = stillhouse(
        "distill",
        recipe({**changes, "training.learning_rate": 5e-3, "training.epochs": 12, "evaluation.control": "none"}),
    )
    assert said.code == 0, said.err
    lines = lines_of(tmp_path / "run")
    for chosen in CAUSAL_FEATURES:
        assert mean_of(lines[-3:], chosen["name"]) < mean_of(lines[:3], chosen["name"])
