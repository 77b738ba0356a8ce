"""The composition root of every verb: a recipe at work in its run folder, stage by stage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stillhouse.commands.checks import check_models
from stillhouse.commands.parts.checking import check_data
from stillhouse.commands.preferences import check_reference, check_scores
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.sources import check_engine
from stillhouse.commands.stages import (
    answering,
    beginning,
    evaluating,
    labelling,
    reporting,
    training,
    weighing,
    writing,
)
from stillhouse.commands.stages.grounded_answers import check_supports
from stillhouse.commands.stages.grounding import check_grounding, is_rag
from stillhouse.commands.stages.suites import check_suites
from stillhouse.commands.stages.workshop import Launch, Workshop
from stillhouse.commands.synthesis import check_synthesis
from stillhouse.commands.trackers import check_trackers
from stillhouse.core.cluster import Cluster
from stillhouse.core.life import Kept
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.models.compiled import check_compiler
from stillhouse.models.load import check_weights, display_name, waits_for_unpacking
from stillhouse.models.vllm_engine import check_vllm
from stillhouse.synthesis.rewards import check_reward
from stillhouse.teachers import RemoteTeacherConfig, RemoteWriter
from stillhouse.teachers.hosted import is_hosted
from stillhouse.training.sharding import TeacherHeld


class Pipeline(Workshop):
    """One recipe at work in one run folder. Every stage first sees to the stages that it stands on."""

    def check(self) -> None:
        """Find what is wrong with teacher, student or data before any model is loaded or anything is written."""
        for check in self.checks().values():
            check()

    def checks(self) -> dict[str, Callable[[], object]]:
        """What is found out then, by what it is about, in order: each stands on those before it."""
        recipe = self.recipe
        return {
            "teacher": self._check_teacher,
            "helpers": self._check_helpers,
            "models": lambda: check_models(recipe),
            "reference": lambda: check_reference(recipe),
            "synthesis": lambda: check_synthesis(recipe),
            "data": self._check_data,
            "scores": lambda: check_scores(self.parts),
        }

    def _check_teacher(self) -> None:
        """It is there, with weights that can be read, or its client is."""
        if isinstance(self.recipe.teacher, RemoteTeacherConfig):
            RemoteWriter(self.recipe.teacher)  # whose client may not be installed
            return
        check_weights(self.recipe.teacher.model)
        if waits_for_unpacking(self.recipe.teacher.model):
            self.progress.say(f"unpacking {display_name(self.recipe.teacher.model)}, once")

    def _check_helpers(self) -> None:
        """All else that the recipe names: what answers, scores, measures and keeps track."""
        check_engine(self.recipe.source, has_adapter=self.recipe.student.lora is not None)
        if is_hosted(self.recipe.teacher):
            check_vllm("teacher.engine")
        if self.recipe.watched_reward is not None:
            check_reward(self.recipe.watched_reward.reward, key="evaluation.reward.reward")
        check_suites(self.recipe.evaluation)
        check_trackers(self.recipe.report_to, run=self.recipe.run)
        if self.recipe.training.compile:
            check_compiler()

    def _check_data(self) -> None:
        """Rows, or the documents that questions are answered from, can be read."""
        if is_rag(self):
            check_grounding(self.parts)
            check_supports(self.parts)
        else:
            check_data(self.parts)

    synthesize = writing.write
    answer = answering.answer
    label = labelling.label
    make_student = beginning.make_student
    weigh = weighing.weigh
    train = training.train
    train_controls = training.train_controls
    evaluate = evaluating.evaluate
    report = reporting.report


@contextmanager
def at_work(
    recipe: Recipe,
    progress: Progress,
    *,
    lenders: Sequence[Path] = (),
    launch: Launch | None = None,
    cluster: Cluster | None = None,
    teacher_held: TeacherHeld = "whole",
) -> Iterator[Pipeline]:
    """A recipe in its run folder, where no other process works meanwhile. Nothing is written before what can be known to
    be wrong without a model has been said. A stage that one of the `lenders`, other run folders, has done from the same is
    taken over from it. With a `launch`, arms are trained by it; with a `cluster`, the teacher labels and writes there,
    and if it is held `on_ray` it answers there while the student learns.

    Raises:
        StillhouseError: for what the user can mend.
    """
    run = RunFolder(recipe.run, lenders=tuple(lenders))
    kept = Kept(progress, run.path)
    pipeline = Pipeline(recipe, run, kept)
    if cluster is not None and is_hosted(recipe.teacher):
        cluster = replace(cluster, gpus=recipe.teacher.tensor_parallel)
    pipeline.launch, pipeline.parts.cluster, pipeline.teacher_held = launch, cluster, teacher_held
    pipeline.check()
    with run.open(recipe), kept:
        try:
            yield pipeline
        finally:
            pipeline.parts.let_go_of_vllm()
