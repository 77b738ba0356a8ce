"""A story model's evaluation in the form in which runs are compared: with each other, and in a sweep."""

from typing import TYPE_CHECKING

from stillhouse.core.files import size_on_disk
from stillhouse.core.results import Cost, EvaluationResult, HeldOut, ModelResult
from stillhouse.core.story_results import StoryResult
from stillhouse.evaluation.compare import machine
from stillhouse.models.anatomy import parameter_count
from stillhouse.models.load import load_causal_lm

if TYPE_CHECKING:
    from stillhouse.commands.stories.pipeline import StoryPipeline


def run_result(pipeline: "StoryPipeline", result: StoryResult) -> EvaluationResult:
    """The student's bits per byte and its size. There is no teacher beside it: what it wrote is held out, and it reads other
    tokens, or is not here."""
    found = result.of("student")
    assert found.bits_per_byte is not None, "a student predicts"
    student = load_causal_lm(str(pipeline.run.student)).model
    cost = Cost(
        parameters=parameter_count(student),
        parameters_without_embeddings=parameter_count(student, embeddings=False),
        disk_bytes=sum(size_on_disk(file) for file in pipeline.run.student.glob("*.safetensors")),
    )
    texts = [story.text for story in pipeline.held_out]
    tokens = sum(len(ids) for ids in pipeline.tokenizer(texts, add_special_tokens=False)["input_ids"])
    return EvaluationResult(
        held_out=HeldOut(len(texts), tokens, sum(len(text.encode()) for text in texts)),
        models=[ModelResult("student", pipeline.run.path.name, {"bits_per_byte": found.bits_per_byte}, cost)],
        comparisons=[],
        machine=machine(),
    )
