"""Beside a teacher that is not here: nothing is made up of it, and who answers as it does agrees with it."""

import json

import pytest
import torch

from stillhouse.core.results import EvaluationResult
from stillhouse.evaluation import Contestant, Taught, TaughtAnswer, evaluate
from stillhouse.models.generate import Sampling, generate
from stillhouse.reporting.quality import quality_table
from stillhouse.reporting.taught import taught_lines, unmeasured

NAMES = ("bits_per_byte", "top1_agreement", "teacher_rouge_l")


@pytest.fixture(scope="module")
def judged(build_model, build_example, tokenizer, tmp_path_factory):
    """The student answers as the teacher did, the other model does not."""
    models = {
        role: build_model("llama", layers=1, vocab=len(tokenizer), seed=seed)
        for role, seed in (("student", 1), ("student_before", 2))
    }
    folder = tmp_path_factory.mktemp("models")
    for role, model in models.items():
        model.save_pretrained(folder / role)
    prompts = [tuple(range(4 + n, 10 + n)) for n in range(6)]
    said = generate(models["student"], prompts, sampling=Sampling(temperature=0, max_new_tokens=16), seed=0)
    answers = [
        TaughtAnswer(prompt, tuple(ids), tokenizer.decode(ids, skip_special_tokens=True))
        for prompt, ids in zip(prompts, said, strict=True)
    ]
    contestants = [Contestant(role, role, model, folder / role) for role, model in models.items()]
    examples = [build_example(seed, 12, vocab=len(tokenizer)) for seed in range(4)]

    def judge(taught):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stillhouse.evaluation.cost.REPEATS", 1)
            return evaluate(contestants, examples, tokenizer, taught=taught)

    return judge(Taught("qwen", 6, answers)), judge(Taught("qwen", 6, (), "its answers (the budget is used up)"))


def test_who_answers_as_the_teacher_does_agrees_with_it(judged):
    result, _ = judged
    student, before = (result.taught.reading(role).metrics for role in ("student", "student_before"))
    assert student["top1_agreement"].value == 1 and student["teacher_rouge_l"].value == 1
    assert before["top1_agreement"].value < 0.5 and before["teacher_rouge_l"].value < 1
    assert student["bits_per_byte"].value < before["bits_per_byte"].value
    gains = {row.metric: row.difference for row in result.taught.comparisons}
    assert set(gains) == set(NAMES) and gains["top1_agreement"].low > 0


def test_nothing_is_made_up_of_a_teacher_that_is_not_here(judged):
    for result in judged:
        assert [model.role for model in result.models] == ["student", "student_before"]
        assert not {"forward_kl", "top1_agreement"} & {name for model in result.models for name in model.metrics}
        assert not result.retentions and not result.speeds
        assert "KL and top-1 agreement over all held-out text" in unmeasured(result.taught)
        row = quality_table(result).rows[0]
        assert row.role == "teacher" and {cell.value for cell in row.cells} == {"-"}


def test_without_answers_that_is_said_and_why(judged):
    _, result = judged
    assert result.taught.answers == 0 and not result.taught.readings
    assert "the budget is used up" in unmeasured(result.taught)
    assert taught_lines(result.taught)[0].startswith("The teacher answered none of 6 held-out prompts")


def test_a_result_comes_back_from_json(judged):
    for result in judged:
        written = json.dumps(result.to_dict())
        assert json.dumps(EvaluationResult.from_dict(json.loads(written)).to_dict()) == written


def test_samples_have_the_teachers_own_words(judged):
    result, _ = judged
    assert [set(sample.continuations) for sample in result.samples] == [{"teacher", "student", "student_before"}] * 3
    assert all(sample.continuations["teacher"] == sample.continuations["student"] for sample in result.samples)
    assert torch.is_grad_enabled()
