"""One comparison of everybody: on the same text, at the same costs, each where it belongs."""

import json
import platform

import pytest
import torch

from stillhouse.core.results import EvaluationResult
from stillhouse.data.text import Row, to_examples
from stillhouse.evaluation.compare import Contestant, _processor, evaluate, machine
from stillhouse.evaluation.cost import REPEATS, costs, time_language_models
from stillhouse.models.anatomy import parameter_count
from stillhouse.students.build import student_from_layers


@pytest.fixture(scope="module")
def contestants(build_model, tokenizer, tmp_path_factory):
    """A teacher, a student of half its layers, and the same before training."""
    teacher = build_model("gpt2", vocab=len(tokenizer))
    student = student_from_layers(teacher, (0, 2))
    student.transformer.h[0].mlp.c_fc.weight.data *= 0.9
    tmp_path = tmp_path_factory.mktemp("contestants")
    models = {"teacher": teacher, "student_before": student_from_layers(teacher, (0, 2)), "student": student}
    for role, model in models.items():
        model.save_pretrained(tmp_path / role)
    return [Contestant(role, f"the {role}", model, tmp_path / role) for role, model in models.items()]


@pytest.fixture(scope="module")
def examples(tokenizer):
    rows = [Row("the old man had a boat", "a girl found"), Row("the small fox ran"), Row("birds came", finished=False)]
    return to_examples(rows, tokenizer, max_tokens=64)


@pytest.fixture(scope="module")
def result(contestants, examples, tokenizer):
    """With more samples asked for than there are documents."""
    return evaluate(contestants, examples, tokenizer, num_samples=99)


def test_everybody_is_measured_on_the_same_text_and_told_apart(contestants, examples, result):
    assert [(model.role, model.name) for model in result.models] == [(c.role, c.name) for c in contestants]
    assert result.held_out.documents == 3
    assert result.held_out.tokens == sum(sum(example.weights) for example in examples)
    assert result.held_out.bytes == len("the old man had a boat" + "the small fox ran" + "birds came")
    names = {"bits_per_byte", "perplexity", "forward_kl", "top1_agreement", "accuracy"}
    assert all(model.metrics.keys() == names for model in result.models)
    assert result.model("teacher").metrics["forward_kl"].value == 0
    assert result.model("teacher").metrics["top1_agreement"].value == 1
    assert result.model("student").metrics["forward_kl"].value > 0


def test_the_student_is_compared_with_each_other_by_the_difference_of_their_metrics(result):
    assert {comparison.other for comparison in result.comparisons} == {"teacher", "student_before"}
    student = result.model("student").metrics
    for comparison in result.comparisons:
        other = result.model(comparison.other).metrics[comparison.metric]
        expected = student[comparison.metric].value - other.value
        assert comparison.difference.value == pytest.approx(expected, abs=1e-9)
        assert comparison.difference.low <= comparison.difference.value <= comparison.difference.high


def test_samples_show_what_each_writes_after_the_same_beginning(contestants, examples, tokenizer, result):
    assert [sample.prompt for sample in result.samples] == ["a girl found", "", ""]
    for sample in result.samples:
        assert sample.continuations.keys() == {"teacher", "student_before", "student"}
    with torch.no_grad():
        ids = torch.tensor([examples[0].ids[: examples[0].weights.index(1.0)]])
        first = contestants[0].model(ids).logits[0, -1].argmax()
    written = result.samples[0].continuations["teacher"]
    assert written.startswith(tokenizer.decode([int(first)], skip_special_tokens=True))


def test_a_result_comes_back_from_json_as_it_was(result):
    again = EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.to_dict() == result.to_dict()


def test_costs_are_what_the_models_have_and_take(contestants):
    models, folders = {c.role: c.model for c in contestants}, {c.role: c.folder for c in contestants}
    found = costs(models, folders, time_language_models(models))
    for role, cost in found.items():
        weights = sum(file.stat().st_size for file in folders[role].glob("*.safetensors"))
        assert cost.disk_bytes == weights > 4 * cost.parameters
        assert cost.parameters == parameter_count(models[role]) > cost.parameters_without_embeddings > 0
        for speed in (cost.prefill_tokens_per_second, cost.decode_tokens_per_second):
            assert 0 < speed.low <= speed.value <= speed.high
    assert found["student"].parameters == found["student_before"].parameters < found["teacher"].parameters


def test_the_models_take_turns_at_being_timed(contestants, monkeypatch):
    turns = []
    monkeypatch.setattr("stillhouse.evaluation.cost._prefill", lambda model, tokens: turns.append((id(model), tokens)))
    models = {c.role: c.model for c in contestants}
    time_language_models(models)
    order = [id(models["teacher"]), id(models["student_before"])]  # of whose build the student is
    assert [model for model, _ in turns] == order * (REPEATS + 1)
    assert {tokens for _, tokens in turns} == {128}  # no more than every model has positions for


def test_the_first_round_warms_up_and_does_not_count(contestants, monkeypatch):
    rates = iter([1e9] * 4 + [5.0] * 4 * REPEATS)  # two kinds of work, and two builds
    monkeypatch.setattr("stillhouse.evaluation.cost._rate", lambda tokens, work: next(rates))
    timings = time_language_models({c.role: c.model for c in contestants})
    assert {timing.tokens_per_second("prefill").high for timing in timings.values()} == {5.0}
    assert next(rates, None) is None


def test_the_processor_is_called_by_its_name_where_the_system_tells_it(tmp_path):
    about = tmp_path / "cpuinfo"
    assert _processor(about) == (platform.processor() or platform.machine())
    about.write_text("processor\t: 0\nmodel name\t: Some Core 7\nprocessor\t: 1\nmodel name\t: Some Core 7\n")
    assert _processor(about) == "Some Core 7"
    assert machine()["processor"] == _processor()
