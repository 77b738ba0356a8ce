import re
from dataclasses import replace

import pytest
import yaml

from stillhouse.core.results import Sample
from stillhouse.reporting.card import hub_id, render_card, write_card
from stillhouse.reporting.markdown import escaped, fenced

HOSTILE = (
    '---\nlicense: evil\n"quote" \\ {a: [b]} # | `code` <script>x</script> ```\n```yaml\n: - ! & * \x00 \u2028 \ud800'
)


def card_of(inputs, **changes):
    given = {key: inputs[key] for key in ("result", "recipe_yaml", "layers", "data")}
    names = {
        "student_name": "fox-92M",
        "teacher": {"model": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "licence": "apache-2.0",
    }
    return render_card(**{**given, **names, **changes})


def metadata_of(card):
    _, block, _ = card.split("---\n", 2)
    return yaml.safe_load(block)


def test_the_hub_can_read_the_metadata(inputs):
    found = metadata_of(card_of(inputs))
    (index,) = found.pop("model-index")
    (results,) = index["results"]
    assert (index["name"], results["task"]) == ("fox-92M", {"type": "text-generation"})
    assert [one["type"] for one in results["metrics"]] == found.pop("metrics")
    values = {one["type"]: (one["value"], one["name"]) for one in results["metrics"]}
    assert values["top1_agreement"] == (0.713, "top-1 agreement, 95 % interval [0.695, 0.731]")
    assert "held-out documents" in results["dataset"]["name"]
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "license": "apache-2.0",
        "tags": ["distillation", "stillhouse"],
    }


def test_a_licence_that_the_hub_does_not_know_keeps_its_name(inputs):
    metadata = metadata_of(card_of(inputs, licence="My Own: Licence"))
    assert (metadata["license"], metadata["license_name"]) == ("other", "My Own: Licence")
    assert "license" not in metadata_of(card_of(inputs, licence=None))


def test_the_card_shows_results_layers_data_limits_and_how_to_reproduce(inputs):
    card = card_of(inputs)
    for expected in (
        "| **student** | 71.3 % [69.5, 73.1] |",
        "no gain shown",
        "18 of the teacher's 30 layers were kept",
        "block influence 2.92 nats",
        "120 documents",
        "## Limits",
        "stillhouse distill recipe.yaml",
        "teacher: {kind: local",
    ):
        assert expected in card


def test_the_lineage_is_told_and_whom_the_licence_binds(inputs):
    data = {**inputs["data"], "sources": [{"name": "stories`.jsonl", "hash": "0123abcd"}]}
    teacher = {
        "model": "owner/big",
        "fingerprint": "beef",
        "licence_link": "https://example.org",
        "output_terms": "Be kind.",
    }
    card = card_of(inputs, data=data, teacher=teacher, licence="gemma-like")
    assert "Read from `stories.jsonl`, hash 0123abcd." in card
    assert "fingerprint beef" in card
    assert "The teacher's licence is gemma-like." in card
    assert "Be kind." in card
    assert metadata_of(card)["license_link"] == "https://example.org"


def test_missing_parts_are_left_out(inputs):
    result = replace(inputs["result"], samples=[], machine={}, comparisons=[])
    card = card_of(inputs, layers=None, data={}, result=result)
    for heading in ("## Layers kept", "## Data", "## Sample", "### What the student gained"):
        assert heading not in card


def test_hostile_text_breaks_neither_yaml_nor_markdown(inputs):
    result = inputs["result"]
    models = [replace(model, name=HOSTILE) for model in result.models]
    hostile = replace(
        result,
        models=models,
        samples=[Sample(HOSTILE, {"student": HOSTILE, "teacher": HOSTILE})],
        machine={HOSTILE: HOSTILE},
    )
    card = card_of(
        inputs,
        student_name=HOSTILE,
        teacher={"model": HOSTILE, "name": HOSTILE, "output_terms": HOSTILE},
        result=hostile,
        licence=HOSTILE,
        recipe_yaml=HOSTILE,
        layers={**inputs["layers"], "method": HOSTILE, "alternatives": {HOSTILE: 1.0}},
        data={"synthesised": {"documents": 1, "dropped": {HOSTILE: 1}}, "labels": {"signal": HOSTILE}},
    )
    metadata = metadata_of(card)
    assert metadata["license"] == "other"
    known = {"library_name", "pipeline_tag", "license", "license_name", "tags", "metrics", "model-index"}
    assert set(metadata) == known
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", card, flags=re.S | re.M)
    assert "<script>" not in outside.split("---\n", 2)[2].replace(r"\<script\>", "")
    card.encode("utf-8")


@pytest.mark.parametrize("text", ["plain", "``` inside", "a ````` b"])
def test_a_fence_is_longer_than_any_inside(text):
    fence = fenced(text).split("\n")[0]
    assert fence not in text
    assert len(fence) >= 3


def test_escaped_text_stays_in_its_table_cell():
    assert escaped("a | b\nc") == r"a \| b c"


@pytest.mark.parametrize("model", ["/models/teacher", "./teacher", "runs/x/student/", "teacher.gguf", "a/b.gguf", ""])
def test_only_hub_ids_are_base_models(model):
    assert hub_id({"model": model}) is None


def test_a_folder_that_looks_like_a_hub_id_is_none(tmp_path, monkeypatch):
    (tmp_path / "runs" / "student").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id({"model": "runs/student"}) is None
    assert hub_id({"model": "org/model"}) == "org/model"


def test_the_card_is_written_whole(inputs, tmp_path):
    given = {key: inputs[key] for key in ("result", "recipe_yaml", "layers", "data")}
    write_card(tmp_path / "README.md", student_name="s", teacher={}, licence=None, **given)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
