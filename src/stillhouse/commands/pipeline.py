"""The stages of a distillation, each done once: the composition root of every verb."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stillhouse.commands.adapters import ADAPTER_FOLDER, named
from stillhouse.commands.alarm_log import alarming, alarms_of
from stillhouse.commands.checks import check_models
from stillhouse.commands.labels import spoken_temperature
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.parts import Parts, plain
from stillhouse.commands.preferences import check_reference, check_scores, load_reference, weighed_by
from stillhouse.commands.recipe import HARD_OBJECTIVE, Recipe
from stillhouse.commands.replays import account_of, said_of
from stillhouse.commands.reward_watch import reward_watch
from stillhouse.commands.sources import ROLLOUTS, check_engine, rollout_log, said_of_answers, told_to
from stillhouse.commands.synthesis import DataFreeConfig, check_synthesis, made_from, write_data
from stillhouse.core.batch import Batch
from stillhouse.core.config import to_yaml
from stillhouse.core.files import atomic_path, fingerprint, remove
from stillhouse.core.label_store import damaged
from stillhouse.core.progress import Progress
from stillhouse.core.protocols import Teacher
from stillhouse.core.results import EvaluationResult, Role
from stillhouse.core.run import RunFolder
from stillhouse.data.preferences import PreferenceRows
from stillhouse.data.rowset import RowSet
from stillhouse.evaluation import Contestant, OwnTokens, ScoredBatches, evaluate, evaluate_embeddings, evaluate_encoders
from stillhouse.evaluation.preferences import HeldOutPairs
from stillhouse.kernels.terms import Term
from stillhouse.labelling import label, load_weighed, save_weighed
from stillhouse.labelling.answers import FILE_NAME as ANSWER_LOGPROBS
from stillhouse.labelling.config import SparseConfig
from stillhouse.models.adapters import adapter_config, merge_adapter, save_adapter, trainable_count
from stillhouse.models.anatomy import parameter_count
from stillhouse.models.generate import Engine
from stillhouse.models.load import check_weights, display_name, source_fingerprint, waits_for_unpacking
from stillhouse.models.together import sample_together
from stillhouse.models.vllm_engine import VllmEngine
from stillhouse.students.build import randomised
from stillhouse.students.config import FromLayersConfig
from stillhouse.students.distilbert import freeze_position_embeddings
from stillhouse.students.lora import frozen_hash
from stillhouse.students.projections import FILE_NAME as PROJECTIONS
from stillhouse.students.projections import Projections
from stillhouse.synthesis import CARD, filled_templates, rewrite, synthesize, write_answers
from stillhouse.synthesis.config import HistoryConfig, PromptSynthesisConfig
from stillhouse.synthesis.rewards import check_reward
from stillhouse.teachers import LocalTeacher, SelfTeacher, SelfTeacherConfig, StoredTeacher
from stillhouse.training import train
from stillhouse.training.mixing import MixedRows
from stillhouse.training.replay import ReplayRows
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.sources import OfflineConfig, ReplayConfig, TeacherSourceConfig, answering_of, share_of
from stillhouse.training.terms import Scheduled
from stillhouse.training.trainer import Schedule, as_many_steps
from stillhouse.training.watch import Watch

DOCUMENTS_PER_BATCH = 32
"""Documents in one batch of an evaluation: each has a row of its own, as long as the longest."""

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
        self.parts, self.metrics = Parts(recipe, run, progress), MetricsLog(run)

    def check(self) -> None:
        """Find what is wrong with teacher, student or data before any model is loaded or anything is written."""
        check_weights(self.recipe.teacher.model)
        if waits_for_unpacking(self.recipe.teacher.model):
            self.progress.say(f"unpacking {display_name(self.recipe.teacher.model)}, once")
        check_engine(self.recipe.source, has_adapter=self.recipe.student.lora is not None)
        if self.recipe.watched_reward is not None:
            check_reward(self.recipe.watched_reward.reward, key="evaluation.reward.reward")
        check_models(self.recipe)
        check_reference(self.recipe)
        check_synthesis(self.recipe)
        self.parts.check_data()
        check_scores(self.parts)

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

        made_from_hash = fingerprint([plain(part) for part in made_from])
        return self.run.stage(name, made_from=made_from_hash, work=announced, makes=makes)

    def synthesize(self) -> dict[str, Any]:
        """The teacher writes the training text, or its own answers into it."""
        if self.recipe.history is not None:
            return self._rewrite(self.recipe.history)
        wanted = self.recipe.synthesis
        if wanted is None:
            return {}
        if not isinstance(wanted, PromptSynthesisConfig):
            return self._write_data(wanted)

        def work() -> dict[str, Any]:
            outcome = synthesize(
                self.parts.teacher.model,
                self.parts.teacher_tokenizer,
                prompts=filled_templates(wanted.templates, wanted.slots, seed=wanted.seed),
                folder=self.run.data,
                num_tokens=wanted.tokens,
                sampling=wanted.sampling,
                batch_size=wanted.batch_size,
                seed=wanted.seed,
                progress=self.progress,
            )
            return asdict(outcome)

        made_from = [self.parts.teacher_fingerprint, wanted]
        return self._stage(
            "synthesize", "the teacher writes", made_from=made_from, work=work, makes=[self.parts.documents]
        )

    def _write_data(self, wanted: DataFreeConfig) -> dict[str, Any]:
        """Data from nothing: conversations, or texts."""
        return self._stage(
            "synthesize",
            "the teacher writes",
            made_from=made_from(self.parts, wanted),
            work=lambda: write_data(self.parts, wanted, progress=self.progress),
            makes=[self.parts.documents],
        )

    def _rewrite(self, wanted: HistoryConfig) -> dict[str, Any]:
        """The conversations to train on, with the teacher's answers in the place of the data's."""

        def work() -> dict[str, Any]:
            outcome = rewrite(
                self.parts.teacher.model,
                self.parts.teacher_tokenizer,
                self.parts.conversations,
                file=self.parts.rewritten,
                max_tokens=self.recipe.data.sequence_tokens,
                sampling=wanted.sampling,
                batch_size=wanted.batch_size,
                seed=wanted.seed,
                progress=self.progress,
            )
            for reason, number in outcome.kept.items():
                self.progress.say(f"{number:,} of {outcome.conversations:,} conversations stay as they are: {reason}")
            self.parts.read_anew()
            return asdict(outcome)

        made_from, makes = [self.parts.data_fingerprint], [self.parts.rewritten]
        return self._stage("history", "the teacher answers anew", made_from=made_from, work=work, makes=makes)

    def answer(self) -> dict[str, Any]:
        """The teacher's answers to the prompts to train on, where the recipe asks for them; never to those held out."""
        wanted = answering_of(self.recipe.source)
        self.synthesize()
        if wanted is None:
            return {}

        def work() -> dict[str, Any]:
            outcome = write_answers(
                self.parts.teacher.model,
                self.parts.teacher_tokenizer,
                self.parts.asked,
                folder=self.parts.answers.parent,
                answering=wanted,
                stop_ids=self.parts.stop_ids(self.parts.teacher.model, self.parts.teacher_tokenizer),
                vocab_size=len(self.parts.teacher_tokenizer),
                max_tokens=self.recipe.data.sequence_tokens,
                progress=self.progress,
            )
            self.progress.say(said_of_answers(outcome))
            if unread := self.parts.num_unread:
                self.progress.say(f"left out: {unread:,} prompts whose answers cannot be read in the student's tokens")
            return asdict(outcome)

        made_from = [self.parts.data_fingerprint, wanted]
        return self._stage("answer", "the teacher answers", made_from=made_from, work=work, makes=[self.parts.answers])

    def label(self) -> dict[str, Any]:
        """The teacher's signals over the training text, stored."""
        wanted = self.recipe.labels
        self.answer()
        if wanted is None:
            return {}

        def work() -> dict[str, Any]:
            outcome = label(
                LocalTeacher(self.parts.teacher.model),
                self.parts.label_examples,
                self.run.labels,
                made_from=self.parts.learnt_fingerprint,
                row_tokens=self.recipe.data.sequence_tokens,
                recorder=self.parts.recorder(wanted),
                shard_tokens=wanted.shard_tokens,
                progress=self.progress,
            )
            return asdict(outcome)

        self._forget_damaged_labels()
        made_from = [self.parts.learnt_fingerprint, wanted, self.recipe.objectives]  # which say what is read
        return self._stage("label", "the teacher labels", made_from=made_from, work=work)

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
            student, choice = self.parts.new_student()
            self.parts.save(student, "student_before")
            return {"layers": None if choice is None else asdict(choice)}

        made_from = [self.parts.data_fingerprint, self.parts.student_fingerprint]
        makes = [self.run.path / "student_before"]
        return self._stage("student", "the student is made", made_from=made_from, work=work, makes=makes)

    @property
    def _reads_pairs(self) -> bool:
        return any(chosen.reads_pairs for chosen in self.recipe.objectives)

    def weigh(self) -> dict[str, Any]:
        """What the student before training gives each of two answers, and the teacher, where an objective reads pairs."""
        self.make_student()
        if not self._reads_pairs:
            return {}

        def work() -> dict[str, Any]:
            weighed = weighed_by(self.parts)
            save_weighed(weighed, self._weighed)
            return {"pairs": len(weighed.reference_logprobs)}

        reads_rewards = any(chosen.reads_rewards for chosen in self.recipe.objectives)
        teacher = self.recipe.teacher.reference if reads_rewards else None
        made_from = [
            self.parts.data_fingerprint,
            self.parts.student_fingerprint,
            None if teacher is None else source_fingerprint(teacher),
        ]
        return self._stage("weigh", "answers are weighed", made_from=made_from, work=work, makes=[self._weighed])

    @property
    def _weighed(self) -> Path:
        return self.run.path / ANSWER_LOGPROBS

    def train(self) -> dict[str, Any]:
        """The student, trained by the recipe's objectives, and the projections that it was trained with."""
        self.answer()
        makes = [self.run.student, *(self.run.path / name for name in self._made_beside_the_student())]
        if not self.run.is_done("train", makes=makes):  # labels have served once it is done, and may be gone
            self.label()
            self.weigh()
        self.make_student()

        def work() -> dict[str, Any]:
            student = self.parts.start()
            terms = self.parts.terms(student)
            projections = self.parts.projections(student, terms)
            done = self._train_arm("student", student, terms, self._signals(student), projections)
            beside = [ADAPTER_FOLDER] if "adapter" in done else []
            if projections.maps:
                projections.save(self.run.path)
                beside.append(PROJECTIONS)
            return {**done, "beside": beside} if beside else done

        made_from = [*self._arms_are_made_from, self.recipe.objectives, self.recipe.labels]
        return self._stage("train", "the student learns", made_from=made_from, work=work, makes=makes)

    def _made_beside_the_student(self) -> list[str]:
        """Names of files that were written with the student when it was trained."""
        return list(self.run.stages().get("train", {}).get("beside", ()))

    @property
    def _arms_are_made_from(self) -> list[Any]:
        source = [] if isinstance(self.recipe.source, OfflineConfig) else [self.recipe.source]
        return [self.parts.learnt_fingerprint, self.parts.student_fingerprint, self.recipe.training, *source]

    def _signals(self, student: PreTrainedModel) -> Teacher:
        labels = self.recipe.labels
        if labels is None and isinstance(self.recipe.teacher, SelfTeacherConfig):
            return SelfTeacher(student)
        if labels is None:
            return LocalTeacher(self.parts.teacher.model)
        return StoredTeacher(
            self.run.labels,
            made_from=self.parts.learnt_fingerprint,
            temperature=spoken_temperature(self.recipe.objectives),
            tail=labels.tail if isinstance(labels, SparseConfig) else "bucket",
        )

    def _train_arm(
        self,
        arm: Role,
        student: PreTrainedModel,
        terms: Sequence[Term | Scheduled],
        teacher: Teacher | None,
        projections: Projections | None = None,
    ) -> dict[str, Any]:
        checkpoints = self.run.path / "checkpoints" / arm
        if self._keeps_positions and arm != "control_from_scratch":  # whose positions nobody has learnt yet
            freeze_position_embeddings(student)
        frozen = frozen_hash(student) if adapter_config(student) else None
        log_line, watch = self.metrics.arm(arm, checkpoints), None
        source = self.recipe.source
        if arm == "student" and not isinstance(source, OfflineConfig | TeacherSourceConfig):
            most_tokens, watch = source.sampling.max_new_tokens, Watch()
            log_line = alarming(log_line, self.run, self.progress, arm=arm, most_tokens=most_tokens)
        rows, told = self.parts.mixed(self._rows(arm, student, checkpoints, watch)), dict[str, Any]()
        if isinstance(rows, MixedRows):
            told = {"replay": account_of(rows)}
            self.progress.say(said_of(told["replay"]))
        wanted, inspect = self.recipe.watched_reward, None
        if arm == "student" and wanted is not None:
            inspect = reward_watch(wanted, self.parts, self.run, self.progress, checkpoints=checkpoints)
        trained = train(
            student,
            rows,
            terms=terms,
            teacher=teacher,
            vocab_size=self.parts.num_answers,
            schedule=self._schedule(arm),
            checkpoints=checkpoints,
            pooling=self.parts.pooling,
            projections=projections,
            common=self.parts.common,
            log_line=log_line,
            watch=watch,
            replay_terms=self.parts.replay_terms,
            inspect=inspect,
            progress=self.progress,
            title=arm.replace("_", " ") + " learns",
        )
        assert frozen is None or frozen == frozen_hash(trained), "what is frozen has changed"
        trained = self.parts.in_full(trained)
        account = self._save_adapter(trained, arm)
        self.parts.save(trained, arm)
        remove(checkpoints)  # several times the student's size, and of no use any more
        if checkpoints.parent.is_dir() and not any(checkpoints.parent.iterdir()):
            remove(checkpoints.parent)
        lines = [line for line in self.run.metric_lines() if line.get("arm") == arm]
        return {
            "steps": lines[-1]["step"],
            "tokens": lines[-1]["tokens"],
            "final_loss": lines[-1]["loss"],
            **account,
            **told,
        }

    def _save_adapter(self, trained: PreTrainedModel, arm: Role) -> dict[str, Any]:
        """What an arm's adapter is, kept where it is the student's, and then merged into the weights that it was trained on."""
        if adapter_config(trained) is None:
            return {}
        account: dict[str, Any] = {
            "trainable_parameters": trainable_count(trained),
            "parameters": parameter_count(trained),
        }
        if arm == "student":
            with atomic_path(self.run.path / ADAPTER_FOLDER) as part:
                account["disk_bytes"] = save_adapter(trained, part, base=self.parts.adapter_base)
            account |= {"base": self.parts.adapter_base, **named(self.recipe.student.lora)}
        merge_adapter(trained)
        return {"adapter": account}

    def _rows(self, arm: Role, student: PreTrainedModel, checkpoints: Path, watch: Watch | None) -> RowSet:
        """What this arm learns from: where student or teacher answers, a control gets the data's own answers."""
        source, parts, is_student = self.recipe.source, self.parts, arm == "student"
        if is_student and self._reads_pairs:
            rows = parts.data.train
            assert isinstance(rows, PreferenceRows)
            return rows.with_weighed(load_weighed(self._weighed))
        if isinstance(source, OfflineConfig | TeacherSourceConfig):
            return parts.learnt if is_student else parts.data.train
        tell = told_to()
        if watch is not None:
            tell = told_to(rollout_log(self.run.path / ROLLOUTS, checkpoints, parts.tokenizer), watch.hear)
        answering: dict[str, Any] = {
            "student_share": source.share if is_student else 0.0,
            "sampling": source.sampling,
            "seed": self.recipe.training.seed,
            "stop_ids": parts.stop_ids(student),
            "vocab_size": parts.num_answers,
            "max_tokens": self.recipe.data.sequence_tokens,
            "batch_size": source.batch_size,
            "tell": tell,
            "write": self._writer(student) if is_student else None,
        }
        if is_student and isinstance(source, ReplayConfig):
            return ReplayRows(
                parts.asked,
                student,
                held_out=parts.data.held_out,
                capacity=source.capacity,
                fresh_share=share_of(source.fresh_share),
                share_step=source.share_step,
                tolerance_nats=source.tolerance_nats,
                check_every_steps=source.check_every_steps,
                **answering,
            )
        return AskedRows(parts.answered if is_student else parts.asked, student, **answering)

    def _schedule(self, arm: Role) -> Schedule:
        """The recipe's, for as many steps as the student makes: the teacher may have answered a prompt more than once."""
        schedule = self.recipe.training
        if arm == "student" or self.recipe.source.kind != "teacher":
            return schedule
        of_these, of_those = (self.parts.mixed(rows) for rows in (self.parts.learnt, self.parts.data.train))
        return as_many_steps(schedule, len(of_these), on=len(of_those))

    def _writer(self, student: PreTrainedModel) -> Engine | None:
        """Who writes the student's answers, where that is not the student alone in this process."""
        source = self.recipe.source
        assert not isinstance(source, OfflineConfig | TeacherSourceConfig)
        if source.engine == "vllm":
            most_tokens, folder = self.recipe.data.sequence_tokens, self.run.path / "student_before"
            engine = VllmEngine(folder, student, max_tokens=most_tokens, batch_size=source.batch_size)
            return partial(engine, student)
        if source.way is None:
            return None
        return partial(sample_together, student, self.parts.teacher.model, way=source.way)

    @property
    def _keeps_positions(self) -> bool:
        return isinstance(self.recipe.student, FromLayersConfig) and self.recipe.student.freeze_position_embeddings

    def train_controls(self) -> None:
        """The same architecture on the same texts and steps, without the teacher's signals."""
        for role in CONTROL_ROLES[self.recipe.control]:
            self._train_control(role)

    def _train_control(self, role: Role) -> None:
        hard = HARD_OBJECTIVE[self.recipe.task]
        assert hard is not None, "a recipe whose data has nothing to learn from has no control"

        def work() -> dict[str, Any]:
            start = self.parts.start()
            if role == "control_from_scratch":
                start = randomised(start, seed=self.recipe.training.seed)
            return self._train_arm(role, start, [Term(hard)], None)

        title, makes = "the control learns without the teacher", [self.run.path / role]
        self._stage(role, title, made_from=self._arms_are_made_from, work=work, makes=makes)

    def evaluate(self) -> EvaluationResult:
        """Teacher, student, student before training and controls on the held-out data."""
        self.train()
        self.train_controls()

        def work() -> dict[str, Any]:
            result = self._judge()
            self.metrics.evaluation(result)
            self.run.forget("report")
            return {"result": result.to_dict()}

        done = self._stage("evaluate", "everyone is measured", made_from=self._everything, work=work)
        return EvaluationResult.from_dict(done["result"])

    def _judge(self) -> EvaluationResult:
        parts, contestants, task = self.parts, self._contestants(), self.recipe.task
        if task == "causal_lm":
            theirs = parts.held_out_as_the_teacher_reads
            return evaluate(
                contestants,
                parts.held_out_examples,
                parts.tokenizer,
                num_samples=self.recipe.evaluation.samples,
                teacher_reads=None if theirs is None else OwnTokens(theirs, parts.teacher_tokenizer),
                in_context=parts.in_context,
                elsewhere=parts.elsewhere,
                preferences=self._preferences,
                progress=self.progress,
            )
        if task == "sentence_embedding":
            assert parts.pooling is not None
            pairs = [
                ScoredBatches(found.name, _batches(found.first), _batches(found.second), found.scores)
                for found in parts.data.pairs
            ]
            held_out = _batches(parts.data.held_out)
            return evaluate_embeddings(
                contestants, held_out, pooling=parts.pooling, pairs=pairs, progress=self.progress
            )
        return evaluate_encoders(
            contestants,
            _batches(parts.data.held_out),
            task=task,
            vocab_size=parts.num_answers if task == "masked_lm" else None,
            tags=parts.data.labels if task == "token_classification" else (),
            documents=parts.data.held_out_documents,
            progress=self.progress,
        )

    @property
    def _preferences(self) -> HeldOutPairs | None:
        """The pairs held out, and what tells the teacher's own rewards; None for other data."""
        rows, source = self.parts.data.held_out, self.recipe.teacher.reference
        if not isinstance(rows, PreferenceRows):
            return None
        return HeldOutPairs(rows.pairs, None if source is None else partial(load_reference, source))

    @property
    def _everything(self) -> list[Any]:
        """The data, and all of the recipe but where it is at work."""
        return [
            self.parts.data_fingerprint,
            self.parts.student_fingerprint,
            self.recipe.model_dump(mode="json", exclude={"run": True, "synthesis": {"writer"}}),
        ]

    def _contestants(self) -> list[Contestant]:
        controls = CONTROL_ROLES[self.recipe.control]
        roles: tuple[Role, ...] = ("student_before", *controls, "student")
        own = [Contestant(role, role, self.parts.load(role), self.run.path / role) for role in roles]
        return [
            Contestant(
                "teacher", display_name(self.recipe.teacher.model), self.parts.teacher.model, self.parts.teacher.folder
            ),
            *own,
        ]

    def report(self) -> EvaluationResult:
        """`report.html` and the model card, from what the stages left behind."""
        result, card = self.evaluate(), self.run.student / "README.md"

        def work() -> dict[str, Any]:
            self._write_report(result, card)
            return {}

        makes = [self.run.report, card]
        if ADAPTER_FOLDER in self._made_beside_the_student():
            makes.append(self.run.path / ADAPTER_FOLDER / "README.md")
        self._stage("report", "the report is written", made_from=self._everything, work=work, makes=makes)
        return result

    def _write_report(self, result: EvaluationResult, card: Path) -> None:
        from stillhouse.reporting import write_adapter_card, write_card, write_report

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
        if "adapter" in data:
            write_adapter_card(
                self.run.path / ADAPTER_FOLDER / "README.md",
                student_name=self.run.path.name,
                result=result,
                adapter=data["adapter"],
                licence=None,
            )

    @staticmethod
    def _layers(choice: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if choice is None else {**choice, "scores": choice["influence"]}

    def _data_account(self, stages: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        account: dict[str, Any] = {
            "train_documents": self.parts.data.num_train_documents,
            "train_tokens": self.parts.train_tokens,
            "held_out_documents": self.parts.data.num_held_out_documents,
        }
        if "synthesize" in stages:
            done = stages["synthesize"]
            account["synthesised"] = {n: done[n] for n in ("documents", "tokens", "seconds", "dropped")}
        if "label" in stages:
            account["labels"] = {
                name: stages["label"][name] for name in ("signal", "bytes", "bytes_per_token", "seconds")
            }
        if self.parts.replayed is not None:
            found = self.parts.replayed
            counts = {"documents": found.num_documents, "held_out": found.num_held_out}
            account["replay"] = {**counts, **stages["train"].get("replay", {})}
        if "adapter" in stages["train"]:
            account["adapter"] = stages["train"]["adapter"]
        if (file := self.run.data / CARD).exists():
            card = json.loads(file.read_text(encoding="utf-8"))
            account |= {"written": card, "reward": card.get("reward")}
        return {**account, "alarms": alarms_of(self.run)}


def _batches(rows: RowSet) -> list[Batch]:
    """All rows, for an evaluation."""
    return list(rows.batches(DOCUMENTS_PER_BATCH))


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
