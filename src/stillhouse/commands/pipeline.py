"""The stages of a distillation, each done once: the composition root of every verb."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.commands.checks import check_student
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.recipe import Recipe
from stillhouse.core.batch import Batch
from stillhouse.core.config import Config, to_yaml
from stillhouse.core.errors import DataError
from stillhouse.core.files import atomic_path, fingerprint, fingerprint_files, remove, size_on_disk
from stillhouse.core.label_store import damaged
from stillhouse.core.progress import Progress
from stillhouse.core.protocols import Teacher
from stillhouse.core.results import EvaluationResult, Role
from stillhouse.core.run import RunFolder
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.data.text import Row, read_rows, split_held_out, to_examples
from stillhouse.evaluation.compare import Contestant, evaluate
from stillhouse.kernels.chunked import Term
from stillhouse.labelling import label
from stillhouse.models.load import (
    LoadedModel,
    check_weights,
    display_name,
    load_causal_lm,
    load_tokenizer,
    source_fingerprint,
    waits_for_unpacking,
)
from stillhouse.students.build import randomised, student_from_config, student_from_layers
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig
from stillhouse.students.layer_choice import choose_layers
from stillhouse.synthesis import filled_templates, synthesize
from stillhouse.teachers import LocalTeacher, StoredTeacher
from stillhouse.training import train
from stillhouse.training.config import ObjectiveConfig

HARD_LABELS = ObjectiveConfig(name="next_token").build()
CONTROL_ROLES: Mapping[str, tuple[Role, ...]] = {
    "none": (),
    "hard_labels": ("control_hard_labels",),
    "from_scratch": ("control_from_scratch",),
    "both": ("control_hard_labels", "control_from_scratch"),
}


class Pipeline:
    """One recipe at work in one run folder. Every stage first sees to the stages that it stands on."""

    def __init__(self, recipe: Recipe, run: RunFolder, progress: Progress) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress
        self.metrics = MetricsLog(run)

    def check(self) -> None:
        """Find what is wrong with teacher, student or data before any model is loaded or anything is written."""
        check_weights(self.recipe.teacher.model)
        if waits_for_unpacking(self.recipe.teacher.model):
            self.progress.say(f"unpacking {display_name(self.recipe.teacher.model)}, once")
        if self.recipe.data.path is not None:
            _ = self.rows  # read now, so that what is wrong with them is said now
        check_student(
            self.recipe.student, teacher=self.recipe.teacher.model, row_tokens=self.recipe.data.sequence_tokens
        )

    # Parts, made when first asked for.

    @cached_property
    def teacher(self) -> LoadedModel:
        """The teacher, loaded."""
        self.progress.say(f"loading the teacher, {display_name(self.recipe.teacher.model)}")
        return load_causal_lm(self.recipe.teacher.model)

    @cached_property
    def teacher_fingerprint(self) -> str:
        """Hash of the teacher's files."""
        return source_fingerprint(self.recipe.teacher.model)

    @cached_property
    def student_fingerprint(self) -> str:
        """Hash of the student's recipe, and of the files beside the teacher's that it is made from."""
        files = ""
        match self.recipe.student:
            case CheckpointConfig(model=source) | FromConfigConfig(config=str(source)):
                files = source_fingerprint(source)
        return fingerprint([_plain(self.recipe.student), files])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, which the student shares."""
        return load_tokenizer(self.recipe.teacher.model)

    @cached_property
    def rows(self) -> tuple[list[Row], list[Row]]:
        """Texts to train on, and texts held out."""
        return split_held_out(read_rows(self._data_path()), share=self.recipe.data.held_out)

    @cached_property
    def train_examples(self) -> list[Example]:
        """Tokenised texts to train on."""
        return self._tokenised(self.rows[0])

    @cached_property
    def held_out_examples(self) -> list[Example]:
        """Tokenised texts held out."""
        return self._tokenised(self.rows[1])

    def _tokenised(self, rows: Sequence[Row]) -> list[Example]:
        examples = to_examples(rows, self.tokenizer, max_tokens=self.recipe.data.sequence_tokens)
        if not examples:
            raise DataError(
                f"the texts, such as {rows[0].text[:20]!r}, are too short to predict anything. Give longer ones, or more."
            )
        return examples

    @cached_property
    def data_fingerprint(self) -> str:
        """Hash of the training text and of everything that turns it into tokens."""
        path = self._data_path()
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        return fingerprint(
            [fingerprint_files(files), self.recipe.data.model_dump(mode="json"), self.teacher_fingerprint]
        )

    def _data_path(self) -> Path:
        if self.recipe.data.path is not None:
            return self.recipe.data.path
        self.synthesize()
        return self._documents

    @property
    def _documents(self) -> Path:
        return self.run.data / "documents.jsonl"

    # Stages.

    def _stage(
        self,
        name: str,
        title: str,
        *,
        made_from: list[Any],
        work: Callable[[], dict[str, Any]],
        makes: Sequence[Path] = (),
    ) -> dict[str, Any]:
        def announced() -> dict[str, Any]:
            self.progress.stage(name, title)
            return work()

        made_from_hash = fingerprint([_plain(part) for part in made_from])
        return self.run.stage(name, made_from=made_from_hash, work=announced, makes=makes)

    def synthesize(self) -> dict[str, Any]:
        """The teacher writes the training text."""
        wanted = self.recipe.synthesis
        if wanted is None:
            return {}

        def work() -> dict[str, Any]:
            outcome = synthesize(
                self.teacher.model,
                self.tokenizer,
                prompts=filled_templates(wanted.templates, wanted.slots, seed=wanted.seed),
                folder=self.run.data,
                num_tokens=wanted.tokens,
                sampling=wanted.sampling,
                batch_size=wanted.batch_size,
                seed=wanted.seed,
                progress=self.progress,
            )
            return asdict(outcome)

        made_from = [self.teacher_fingerprint, wanted]
        return self._stage("synthesize", "the teacher writes", made_from=made_from, work=work, makes=[self._documents])

    def label(self) -> dict[str, Any]:
        """The teacher's signals over the training text, stored."""
        wanted = self.recipe.labels
        self.synthesize()
        if wanted is None:
            return {}

        def work() -> dict[str, Any]:
            outcome = label(
                LocalTeacher(self.teacher.model),
                self.train_examples,
                self.run.labels,
                made_from=self.data_fingerprint,
                row_tokens=self.recipe.data.sequence_tokens,
                shard_tokens=wanted.shard_tokens,
                progress=self.progress,
            )
            return asdict(outcome)

        self._forget_damaged_labels()
        return self._stage("label", "the teacher labels", made_from=[self.data_fingerprint, wanted], work=work)

    def _forget_damaged_labels(self) -> None:
        """Labels that were finished and then damaged are made again, the damaged files alone."""
        names = damaged(self.run.labels) if self.run.is_done("label") else []
        if names:
            self.progress.say(f"damaged in {self.run.labels}, and made again: {', '.join(names)}")
            self.run.event("warned", stage="label", damaged=names)
            self.run.forget("label")

    def make_student(self) -> dict[str, Any]:
        """The student before training, saved."""
        self.synthesize()

        def work() -> dict[str, Any]:
            student, choice = self._new_student()
            self._save(student, "student_before")
            return {"layers": choice}

        made_from = [self.data_fingerprint, self.student_fingerprint]
        makes = [self.run.path / "student_before"]
        return self._stage("student", "the student is made", made_from=made_from, work=work, makes=makes)

    def _new_student(self) -> tuple[PreTrainedModel, dict[str, Any] | None]:
        match self.recipe.student:
            case FromLayersConfig() as wanted:
                batch = self._calibration_batch(wanted.calibration_tokens)
                choice = choose_layers(
                    self.teacher.model, batch, keep=wanted.keep, method=wanted.choose, progress=self.progress
                )
                return student_from_layers(self.teacher.model, choice.kept), asdict(choice)
            case FromConfigConfig() as wanted:
                seed = self.recipe.training.seed
                return student_from_config(
                    self.teacher.model, seed=seed, changes=wanted.changes, config=wanted.config
                ), None
            case CheckpointConfig() as wanted:
                return load_causal_lm(wanted.model).model, None

    def _calibration_batch(self, num_tokens: int) -> Batch:
        """The first training texts that together have `num_tokens` to predict."""
        chosen: list[Example] = []
        for example in self.train_examples:
            chosen.append(example)
            if sum(sum(member.weights) for member in chosen) >= num_tokens:
                break
        return to_batch([[example] for example in chosen])

    def train(self) -> dict[str, Any]:
        """The student, trained by the recipe's objectives."""
        terms = [chosen.build() for chosen in self.recipe.objectives]
        makes = [self.run.student]
        if not self.run.is_done("train", makes=makes):  # labels have served once it is done, and may be gone
            self.label()
        self.make_student()
        made_from = [self.data_fingerprint, self.student_fingerprint, self.recipe.objectives, self.recipe.training]

        def work() -> dict[str, Any]:
            return self._train_arm("student", self._load("student_before"), terms, self._signals())

        return self._stage("train", "the student learns", made_from=made_from, work=work, makes=makes)

    def _signals(self) -> Teacher:
        if self.recipe.labels is None:
            return LocalTeacher(self.teacher.model)
        return StoredTeacher(self.run.labels, made_from=self.data_fingerprint)

    def _train_arm(
        self, arm: Role, student: PreTrainedModel, terms: list[Term], teacher: Teacher | None
    ) -> dict[str, Any]:
        checkpoints = self.run.path / "checkpoints" / arm
        trained = train(
            student,
            self.train_examples,
            terms=terms,
            teacher=teacher,
            vocab_size=len(self.tokenizer),
            schedule=self.recipe.training,
            row_tokens=self.recipe.data.sequence_tokens,
            checkpoints=checkpoints,
            log_line=self.metrics.arm(arm, checkpoints),
            progress=self.progress,
            title=arm.replace("_", " ") + " learns",
        )
        self._save(trained, arm)
        remove(checkpoints)  # several times the student's size, and of no use any more
        lines = [line for line in self.run.metric_lines() if line.get("arm") == arm]
        return {"steps": lines[-1]["step"], "tokens": lines[-1]["tokens"], "final_loss": lines[-1]["loss"]}

    def train_controls(self) -> None:
        """The same architecture on the same texts and steps, without the teacher's signals."""
        for role in CONTROL_ROLES[self.recipe.evaluation.control]:
            made_from = [self.data_fingerprint, self.student_fingerprint, self.recipe.training]

            def work(role: Role = role) -> dict[str, Any]:
                start = self._load("student_before")
                if role == "control_from_scratch":
                    start = randomised(start, seed=self.recipe.training.seed)
                return self._train_arm(role, start, [HARD_LABELS], None)

            makes = [self.run.path / role]
            self._stage(role, "the control learns without the teacher", made_from=made_from, work=work, makes=makes)

    def evaluate(self) -> EvaluationResult:
        """Teacher, student, student before training and controls on the held-out text."""
        self.train()
        self.train_controls()

        def work() -> dict[str, Any]:
            result = evaluate(
                self._contestants(),
                self.held_out_examples,
                self.tokenizer,
                num_samples=self.recipe.evaluation.samples,
                progress=self.progress,
            )
            self.metrics.evaluation(result)
            self.run.forget("report")
            return {"result": result.to_dict()}

        done = self._stage("evaluate", "everyone is measured", made_from=self._everything, work=work)
        return EvaluationResult.from_dict(done["result"])

    @property
    def _everything(self) -> list[Any]:
        """The data, and all of the recipe but where it is at work."""
        return [self.data_fingerprint, self.student_fingerprint, self.recipe.model_dump(mode="json", exclude={"run"})]

    def _contestants(self) -> list[Contestant]:
        controls = CONTROL_ROLES[self.recipe.evaluation.control]
        roles: tuple[Role, ...] = ("student_before", *controls, "student")
        own = [Contestant(role, role, self._load(role), self.run.path / role) for role in roles]
        return [
            Contestant("teacher", display_name(self.recipe.teacher.model), self.teacher.model, self.teacher.folder),
            *own,
        ]

    def report(self) -> EvaluationResult:
        """`report.html` and the model card, from what the stages left behind."""
        result, card = self.evaluate(), self.run.student / "README.md"

        def work() -> dict[str, Any]:
            self._write_report(result, card)
            return {}

        makes = [self.run.report, card]
        self._stage("report", "the report is written", made_from=self._everything, work=work, makes=makes)
        return result

    def _write_report(self, result: EvaluationResult, card: Path) -> None:
        from stillhouse.reporting import write_card, write_report

        stages = self.run.stages()
        layers = self._layers(stages["student"].get("layers"))
        data = self._data_account(stages)
        recipe_yaml = to_yaml(self.recipe)
        write_report(
            self.run.report,
            title=self.run.path.name,
            result=result,
            curves=self.metrics.curves(),
            recipe_yaml=recipe_yaml,
            layers=layers,
            data=data,
            stages=[{"name": name, "seconds": done["seconds"]} for name, done in stages.items()],
        )
        write_card(
            card,
            student_name=self.run.path.name,
            result=result,
            teacher={"model": self.recipe.teacher.model},
            recipe_yaml=recipe_yaml,
            layers=layers,
            data=data,
            licence=None,
        )

    @staticmethod
    def _layers(choice: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if choice is None else {**choice, "scores": choice["influence"]}

    def _data_account(self, stages: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        account: dict[str, Any] = {
            "train_documents": len(self.rows[0]),
            "train_tokens": round(sum(sum(example.weights) for example in self.train_examples)),
            "held_out_documents": len(self.rows[1]),
        }
        if "synthesize" in stages:
            account["synthesised"] = {n: stages["synthesize"][n] for n in ("documents", "tokens", "seconds", "dropped")}
        if "label" in stages:
            done = stages["label"]
            shards = sum(size_on_disk(path) for path in self.run.labels.glob("shard-*.safetensors"))
            account["labels"] = {
                "signal": done["signal"],
                "bytes": done["bytes"],
                "bytes_per_token": shards / done["tokens"],
                "seconds": done["seconds"],
            }
        return account

    # Models in the run folder.

    def _save(self, model: PreTrainedModel, role: Role) -> None:
        with atomic_path(self.run.path / role) as part:
            model.save_pretrained(part)
            self.tokenizer.save_pretrained(part)

    def _load(self, role: Role) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.run.path / role, dtype=self.teacher.model.dtype).eval()


@contextmanager
def at_work(recipe: Recipe, progress: Progress) -> Iterator[Pipeline]:
    """A recipe in its run folder, where no other process works meanwhile. Nothing is written before what can be known to
    be wrong without a model has been said.

    Raises:
        StillhouseError: for what the user can mend.
    """
    run = RunFolder(recipe.run)
    pipeline = Pipeline(recipe, run, progress)
    pipeline.check()
    with run.open(recipe):
        yield pipeline


def _plain(part: Any) -> Any:
    """A configuration as plain values, for hashing."""
    if isinstance(part, Config):
        return part.model_dump(mode="json")
    return [_plain(member) for member in part] if isinstance(part, list | tuple) else part
