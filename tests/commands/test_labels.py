"""Stored labels as a recipe asks for them: what cannot be learnt from them is refused before anything runs."""

import pytest
import yaml
from safetensors.torch import load_file

from stillhouse.core.label_store import read_manifest

from .conftest import assert_refused, stillhouse

TEXT = {"synthesis": None, "evaluation.samples": 0, "evaluation.control": "none"}
HIDDEN = [{"name": "forward_kl"}, {"name": "hidden_mse", "layers": [[1, 2], [2, 4]]}]


@pytest.mark.parametrize(
    ("labels", "objectives", "words"),
    [
        (
            {"signal": "sparse"},
            [{"name": "logit_mse"}],
            "logit_mse reads the teacher's logits themselves, which the teacher's likeliest tokens do not hold",
        ),
        (
            {"signal": "sparse"},
            [{"name": "decoupled_kd"}],
            "(labels.signal: last_hidden), which serve every objective",
        ),
        ({"signal": "sampled"}, [{"name": "reverse_kl"}], "reverse_kl is not linear in the teacher's probabilities"),
        (
            {},
            [{"name": "hidden_mse"}],
            "hidden_mse compares hidden states, which signal last_hidden does not keep. Use",
        ),
        (
            {"signal": "hidden_states"},
            [{"name": "attention_kl"}],
            "attention_kl compares attention, which no stored signal",
        ),
        (
            {"signal": "hidden_states"},
            [{"name": "forward_kl"}],
            "but no objective compares any. Use last_hidden, or sparse",
        ),
        (
            {"signal": "sparse"},
            [{"name": "forward_kl", "temperature": 2.0}, {"name": "jsd"}],
            "labels.signal sparse answers at one temperature in a run, but there is forward_kl at 2.0 and jsd at 1.0.",
        ),
        (
            {"signal": "sparse", "temperatures": [1.0, 4.0]},
            [{"name": "forward_kl", "temperature": 2.0}],
            "forward_kl has temperature 2.0, but labels hold the teacher at 1.0, 4.0: at another one the rest of the",
        ),
        (
            {"signal": "sparse", "tail": "renormalised"},
            [{"name": "forward_kl"}, {"name": "reverse_kl"}],
            "reverse_kl is infinite where the teacher says nothing, as it does of most tokens when labels.tail is",
        ),
        (
            {"signal": "sparse", "tail": "renormalised"},
            [{"name": "skewed_reverse_kl", "alpha": {"start": 0.5, "end": 0.0}}],
            "skewed_reverse_kl is infinite where the teacher says nothing",
        ),
        (
            {"signal": "sampled", "temperature": 1.0},
            [{"name": "forward_kl", "temperature": 2.0}],
            "forward_kl has temperature 2.0, but labels hold the teacher at 1.0",
        ),
        (
            {"signal": "sparse"},
            [{"name": "forward_kl", "temperature": {"start": 4.0, "end": 1.0}}],
            "labels.signal sparse knows the teacher at fixed temperatures, but forward_kl's changes. Use labels.signal last_",
        ),
        (
            {"signal": "spares"},
            [{"name": "forward_kl"}],
            "labels.signal: 'spares' is not known. Did you mean 'sparse'?",
        ),
        (
            {"signal": "sparse", "draws": 4},
            [{"name": "forward_kl"}],
            "labels.draws: there is no such key. Known: shard_tok",
        ),
        (
            {"signal": "sparse", "temperatures": []},
            [{"name": "forward_kl"}],
            "labels.temperatures: [] came, but it should",
        ),
        ({"bits": 4}, [{"name": "forward_kl"}], "labels.bits: 4 came, but it should be 8 or 16"),
    ],
)
def test_what_cannot_be_learnt_from_labels_is_refused_by_name(recipe, texts_file, no_model, labels, objectives, words):
    path = recipe({**TEXT, "data.path": str(texts_file), "labels": labels, "objectives": objectives})
    assert_refused(stillhouse("distill", path), words)
    assert not (path.parent / "run").exists()


@pytest.mark.parametrize(
    "objectives",
    [
        [{"name": "forward_kl", "temperature": {"start": 4.0, "end": 1.0}}],
        [{"name": "forward_kl", "temperature": 2.0}, {"name": "logit_mse"}, {"name": "next_token"}],
    ],
)
def test_last_hidden_states_serve_every_objective_on_logits(recipe, texts_file, objectives):
    path = recipe({**TEXT, "data.path": str(texts_file), "labels": {"bits": 8}, "objectives": objectives})
    assert stillhouse("label", path).code == 0


def test_the_bucket_is_known_at_the_temperature_of_the_objectives_unless_others_are_given(recipe, texts_file):
    objectives = [{"name": "forward_kl", "temperature": 2.0}, {"name": "next_token"}]
    path = recipe({**TEXT, "data.path": str(texts_file), "labels": {"signal": "sparse"}, "objectives": objectives})
    said = stillhouse("label", path)
    assert said.code == 0, said.err
    manifest = read_manifest(path.parent / "run" / "labels")
    assert (manifest.signal, manifest.head) == ("sparse", None)
    assert manifest.settings["temperatures"] == [2.0]
    assert "bytes a token" in said.out + said.err


def test_what_feature_objectives_read_is_stored_and_teaches_what_the_live_teacher_does(recipe, texts_file, tmp_path):
    changes = {**TEXT, "data.path": str(texts_file), "objectives": HIDDEN, "training.epochs": 1}
    weights = {}
    for name, labels in (("live", None), ("stored", {"signal": "hidden_states"})):
        path = recipe({**changes, "labels": labels, "run": str(tmp_path / name)})
        said = stillhouse("train", path)
        assert said.code == 0, said.err
        weights[name] = load_file(tmp_path / name / "student" / "model.safetensors")
    manifest = read_manifest(tmp_path / "stored" / "labels")
    assert manifest.settings == {"bits": 16, "layers": [2, 4]}
    before = load_file(tmp_path / "live" / "student_before" / "model.safetensors")
    for name, learnt in weights["live"].items():
        # Adam's steps do not shrink with the gradient: where that is nearly 0, rounding turns a number's step round.
        assert (weights["stored"][name] - learnt).norm() < 0.05 * (learnt - before[name]).norm()


@pytest.mark.parametrize(
    "labels", [{"signal": "sparse"}, {"signal": "sparse", "tail": "renormalised"}, {"signal": "sampled"}]
)
def test_a_student_learns_from_every_signal(recipe, texts_file, labels):
    path = recipe({**TEXT, "data.path": str(texts_file), "labels": labels})
    said = stillhouse("distill", path)
    assert said.code == 0, said.err


def test_a_resolved_recipe_of_labels_is_a_recipe(recipe, texts_file):
    path = recipe({**TEXT, "data.path": str(texts_file), "labels": {"signal": "sampled", "draws": 3}})
    assert stillhouse("label", path).code == 0
    resolved = path.parent / "run" / "recipe.yaml"
    assert yaml.safe_load(resolved.read_text())["labels"]["signal"] == "sampled"
    assert stillhouse("label", resolved).code == 0
