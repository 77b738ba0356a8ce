"""A whole recipe, and what must be true of its parts together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stillhouse.commands.adapters import adapter_faults
from stillhouse.commands.curves import CurvesConfig
from stillhouse.commands.hosting import hosting_faults, teacher_writes
from stillhouse.commands.labels import label_faults
from stillhouse.commands.remote import asking_faults, labels_faults, objective_faults, student_faults
from stillhouse.commands.replays import replay_faults
from stillhouse.commands.sources import (
    answers_faults,
    context_faults,
    policy_faults,
    source_faults,
    teacher_source_faults,
)
from stillhouse.commands.trackers import Tracker
from stillhouse.core.config import Config
from stillhouse.core.suites import ALWAYS, SuiteName
from stillhouse.core.task import Task
from stillhouse.data.config import DataConfig, RagDataConfig, TextDataConfig
from stillhouse.data.replay import ReplayDataConfig
from stillhouse.evaluation.behaviour.config import BehaviourConfig
from stillhouse.evaluation.similarity import SimilarityConfig
from stillhouse.evaluation.suites import SUITES
from stillhouse.evaluation.support import GroundingConfig
from stillhouse.evaluation.tasks.config import TaskConfig
from stillhouse.labelling.config import LabelsConfig
from stillhouse.objectives import (
    AnyObjective,
    FeatureObjective,
    Objective,
    PreferenceObjective,
    RankingObjective,
    SpanObjective,
    objective,
)
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, StudentConfig
from stillhouse.synthesis.config import ConversationSynthesisConfig, GroundedConfig, HistoryConfig, SynthesisConfig
from stillhouse.synthesis.rewards import RewardWatchConfig
from stillhouse.teachers import RemoteTeacherConfig, TeacherConfig
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.sources import OfflineConfig, SourceConfig, TeacherSourceConfig
from stillhouse.training.trainer import Schedule

Control = Literal["hard_labels", "from_scratch", "both", "none"]

HARD_OBJECTIVE: Mapping[Task, str | None] = {
    "causal_lm": "next_token",
    "masked_lm": "masked_token",
    "sequence_classification": "hard_label",
    "token_classification": "hard_label",
    "regression": "squared_error",
    "reward": "hard_label",
    "sentence_embedding": None,
}
"""What a student learns where it has no teacher."""

ON_NUMBERS = ("squared_error", "logit_mse")
"""The objectives on logits for which the one number of a regression is more than a distribution over a single class."""


class EvaluationConfig(Config):
    """What the student is judged beside."""

    control: Control | None = None
    """The same architecture on the same budget without teacher signals: from the same start (`hard_labels`), from random
    weights (`from_scratch`), `both`, or `none`. If left out: `hard_labels` where the data has something to learn from."""
    suites: tuple[SuiteName, ...] = ALWAYS
    """What is measured: `language` (how held-out data is predicted or answered) and `cost` always are, named or not; the
    others where they are named."""
    tasks: tuple[TaskConfig, ...] | None = None
    """Questions with right answers, from files of your own: multiple choice, minimal pairs, answers to be found by a pattern,
    texts like a reference, stereotypes, gaps between groups, and tasks of lm-eval. For the suite `tasks`."""
    behaviour: BehaviourConfig | None = None
    """What models are asked to see how they behave, how they answer, and who looks at it. For the suite `behaviour`."""
    similarity: SimilarityConfig | None = None
    """By which model, and on how much, answers are compared. For the suite `similarity`."""
    control_budget: Literal["tokens", "flops", "both"] = "tokens"
    """What the controls have as much of as the student: `tokens`; `flops`, the teacher's forward counted, so that they train on
    for as long as the student and its teacher computed; or one of each."""
    curves: CurvesConfig | None = None
    """Where it is given, held-out KL, agreement and the rest are measured while student and controls learn, and drawn."""
    samples: int = Field(default=3, ge=0)
    """Held-out beginnings that every language model continues, for reading."""
    teacher_answers: int = Field(default=32, ge=0)
    """Of a teacher behind an API: held-out prompts that it is asked to answer, to measure the student beside its answers."""
    questions: int = Field(default=100, ge=1)
    """Of data of kind rag: at most so many held-out questions are answered by everyone, over their passages and without."""
    grounding: GroundingConfig | None = None
    """Of data of kind rag: who says, beside words, whether answers are borne out by the passages that they cite."""
    reward: RewardWatchConfig | None = None
    """A reward of the student's held-out answers, shown over training beside its agreement with the teacher. If left out:
    the one by which the training data was chosen, where there is one."""


class Recipe(Config):
    """Teacher, student, data, objectives: one distillation."""

    run: Path
    """The folder that this recipe fills."""
    teacher: TeacherConfig
    student: StudentConfig
    synthesis: SynthesisConfig | None = None
    """Where it is given, the teacher writes the training text, or whole conversations."""
    data: DataConfig = TextDataConfig()
    history: HistoryConfig | None = None
    """Where it is given, the teacher first answers in the conversations to train on, turn by turn; else they stay."""
    replay: ReplayDataConfig | None = None
    """Where it is given, rows of other data are mixed in, or at least measured on, to see what is forgotten."""
    labels: LabelsConfig | None = None
    """Where it is given, the teacher runs once over the data and training reads what it said; else it runs in every step."""
    source: SourceConfig = OfflineConfig()
    """Who writes the answers that are learnt: the data (`offline`), the teacher before training (`teacher`), the student while
    it trains (`student`), or now the one, now the other (`mixed`)."""
    objectives: tuple[ObjectiveConfig, ...] = Field(min_length=1)
    training: Schedule = Schedule()
    evaluation: EvaluationConfig = EvaluationConfig()
    report_to: tuple[Tracker, ...] = ()
    """Trackers that are told every step, beside `metrics.jsonl`; each has to be installed, and set up by its own variables."""

    @model_validator(mode="after")
    def _a_teacher_is_named(self) -> "Recipe":
        """A resolved recipe says which model it is that teaches itself."""
        teacher, student = self.teacher, self.student
        if teacher.model or not isinstance(student, CheckpointConfig):
            return self
        return self.model_copy(update={"teacher": teacher.model_copy(update={"model": student.model})})

    @model_validator(mode="after")
    def _a_remote_teacher_can_say_it(self) -> "Recipe":
        """Whatever needs a teacher in this process is refused before a request is sent."""
        if not isinstance(self.teacher, RemoteTeacherConfig):
            if isinstance(self.student, FromConfigConfig) and self.student.tokenizer is not None:
                raise ValueError(
                    "student.tokenizer is given, but a student of kind from_config has its teacher's, which is here. Leave "
                    "it out."
                )
            return self
        replays = self.replay is not None and self.replay.share > 0 and self.replay.learn == "objectives"
        faults = [
            *asking_faults(self.data, self.source),
            *student_faults(self.student),
            *objective_faults(self.teacher, self.labels, self.objectives),
            *labels_faults(self.teacher, self.labels, self.source, replays=replays),
        ]
        if self.evaluation.reward is not None:
            faults.append(
                "evaluation.reward is watched beside what a teacher in this process answers, in each look. Leave it out."
            )
        if others := sorted(set(self.evaluation.suites) - set(ALWAYS)):
            faults.append(
                f"evaluation.suites names {others[0]}, which asks a teacher in this process. Leave it out: what can be "
                "measured "
                "beside its answers is measured by evaluation.teacher_answers."
            )
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _vllm_can_say_it(self) -> "Recipe":
        faults = hosting_faults(
            self.teacher,
            data=self.data,
            task=self.task,
            writes=teacher_writes(self.synthesis, self.history) or isinstance(self.data, RagDataConfig),
            labels=self.labels,
            source=self.source,
            objectives=self.objectives,
        )
        if found := list(faults):
            raise ValueError(" ".join(found))
        return self

    @model_validator(mode="after")
    def _there_is_text(self) -> "Recipe":
        if isinstance(self.data, RagDataConfig):
            asks = isinstance(self.synthesis, GroundedConfig) and self.synthesis.number is not None
            if asks == (self.data.path is not None):
                raise ValueError(
                    "give data.path or synthesis.number: exactly one of them says where the questions come from."
                )
        elif (self.synthesis is None) == (self.data.path is None):
            raise ValueError("give data.path or synthesis: exactly one of them says where the text comes from.")
        return self

    @property
    def task(self) -> Task:
        """What teacher and student are asked for: the kind of data says it."""
        return self.data.task

    @property
    def control(self) -> Control:
        """Which controls the student is judged beside."""
        default: Control = "none" if HARD_OBJECTIVE[self.task] is None else "hard_labels"
        if isinstance(self.teacher, RemoteTeacherConfig) and self.source.kind == "offline" and self.labels is None:
            default = "none"  # the student itself learns what such a control would
        return self.evaluation.control or default

    @property
    def watched_reward(self) -> RewardWatchConfig | None:
        """The reward that is shown over training, if any."""
        chosen_by = getattr(getattr(self.synthesis, "choose", None), "reward", None)
        if isinstance(self.teacher, RemoteTeacherConfig):
            return None
        if self.evaluation.reward is not None or chosen_by is None:
            return self.evaluation.reward
        return RewardWatchConfig(reward=chosen_by)

    @model_validator(mode="after")
    def _only_answers_are_rewarded(self) -> "Recipe":
        if self.evaluation.reward is not None and self.task != "causal_lm":
            raise ValueError(
                f"evaluation.reward scores what a language model answers, but data is of kind {self.data.kind!r}. Leave it out."
            )
        return self

    @model_validator(mode="after")
    def _only_answers_over_passages_are_grounded(self) -> "Recipe":
        if self.evaluation.grounding is not None and not isinstance(self.data, RagDataConfig):
            raise ValueError(
                "evaluation.grounding holds answers against their passages, but data is of kind "
                f"{self.data.kind!r}. Leave it out."
            )
        return self

    @model_validator(mode="after")
    def _curves_have_something_to_compare(self) -> "Recipe":
        evaluation = self.evaluation
        if evaluation.curves is not None and self.task != "causal_lm":
            raise ValueError(
                f"evaluation.curves compares what comes next in a text, but data is of kind {self.data.kind!r}. Leave it out."
            )
        if evaluation.curves is not None and self.teacher.kind == "remote":
            raise ValueError(
                "evaluation.curves compares with what a teacher says of every token, which an API does not tell. Leave it out."
            )
        return self

    @model_validator(mode="after")
    def _suites_suit_the_task(self) -> "Recipe":
        faults = list(suite_faults(self.evaluation, task=self.task, kind=self.data.kind))
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _only_text_is_written_and_stored(self) -> "Recipe":
        written = synthesis_fault(self.synthesis, self.data.kind)
        if written:
            raise ValueError(written)
        if self.labels is not None and self.data.kind == "preferences":
            raise ValueError(
                "labels keep what a language model says token by token, but data of kind 'preferences' is about whole answers, "
                "which are read once before training anyway. Leave labels out."
            )
        if self.labels is not None and self.task != "causal_lm":
            raise ValueError(
                f"labels keep what a language model says about text, but data is of kind {self.data.kind!r}. Leave labels out."
            )
        return self

    @model_validator(mode="after")
    def _only_conversations_have_a_history(self) -> "Recipe":
        if self.history is not None and self.data.kind != "chat":
            raise ValueError(
                f"history lets the teacher answer in conversations, but data is of kind {self.data.kind!r}. Leave history "
                "out, or use data of kind chat."
            )
        if self.history is not None and self.synthesis is not None:
            raise ValueError("with synthesis the teacher has answered in its conversations already. Leave history out.")
        if self.history is not None and getattr(self.data, "teacher_context", None) is not None:
            raise ValueError(
                "history lets the teacher answer as a student does, without data.teacher_context. Leave one of the two out."
            )
        return self

    @model_validator(mode="after")
    def _objectives_can_teach(self) -> "Recipe":
        names = [chosen.name for chosen in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(
                f"objectives names {max(names, key=names.count)!r} twice. Name each once, with one weight."
            )
        if not any(chosen.has_weight for chosen in self.objectives):
            raise ValueError("every weight in objectives is 0, so there is nothing to learn. Give one a weight.")
        return self

    @model_validator(mode="after")
    def _objectives_suit_the_task(self) -> "Recipe":
        faults = [
            fault for chosen in self.objectives if (fault := _misfit(objective(chosen.name), self.data.kind, self.task))
        ]
        everywhere = [chosen.name for chosen in self.objectives if chosen.where == "tokens"]
        if everywhere and self.data.kind == "preferences":
            faults.append(
                f"where is tokens for {everywhere[0]}, but of data of kind 'preferences' only the chosen answers are learnt by "
                "token. Leave where out."
            )
        if everywhere and self.task in ("sequence_classification", "regression", "reward"):
            faults.append(
                f"where is tokens for {everywhere[0]}, but data of kind {self.data.kind!r} has one answer a document. "
                "Leave where out."
            )
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _layers_can_be_compiled(self) -> "Recipe":
        found = ((chosen.name, objective(chosen.name)) for chosen in self.objectives)
        heard = [name for name, one in found if isinstance(one, FeatureObjective) and one.reads_attention]
        if self.training.compile and heard:
            raise ValueError(
                f"training.compile is true, but {heard[0]} reads attention, which nobody hears in compiled layers. Leave one "
                "of the two out."
            )
        return self

    @model_validator(mode="after")
    def _objectives_can_stand_together(self) -> "Recipe":
        across = [chosen.name for chosen in self.objectives if chosen.compares_spans]
        others = (chosen.name for chosen in self.objectives if not chosen.serves_two_tokenizers)
        by_token = [name for name in others if objective(name).reads_teacher]
        if across and by_token:
            raise ValueError(
                f"{across[0]} shows teacher and student a text in tokens of their own, and {by_token[0]} compares token by "
                f"token. Use {across[0]} where the tokenizers differ, {by_token[0]} where they are the same, and next_token "
                "beside either."
            )
        return self

    @model_validator(mode="after")
    def _labels_serve_the_objectives(self) -> "Recipe":
        faults = [] if self.labels is None else label_faults(self.labels, self.objectives)
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _someone_can_be_asked(self) -> "Recipe":
        if isinstance(self.source, OfflineConfig):
            return self
        has_labels, kind = self.labels is not None, self.source.kind
        if isinstance(self.source, TeacherSourceConfig):
            faults = teacher_source_faults(data=self.data.kind)
        else:
            faults = source_faults(kind, data=self.data.kind, has_labels=has_labels, objectives=self.objectives)
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _the_teacher_can_be_told_more(self) -> "Recipe":
        faults = context_faults(self.data, self.objectives)
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _an_adapter_can_learn(self) -> "Recipe":
        faults = adapter_faults(
            self.student, self.teacher, control=self.control, data=self.data, objectives=self.objectives
        )
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _there_are_draws_to_learn_from(self) -> "Recipe":
        faults = policy_faults(self.source, self.objectives)
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _other_data_can_be_mixed_in(self) -> "Recipe":
        faults = [
            *replay_faults(self.replay, data=self.data, task=self.task, rows_per_step=self.training.rows_per_step)
        ]
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _the_answers_are_somebodys(self) -> "Recipe":
        faults = answers_faults(self.source, self.task, self.objectives)
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @model_validator(mode="after")
    def _a_reference_has_pairs_to_read(self) -> "Recipe":
        if self.teacher.reference is not None and self.data.kind != "preferences":
            raise ValueError(
                f"teacher.reference is for pairs of answers, but data is of kind {self.data.kind!r}. Leave it out, or use data "
                "of kind preferences."
            )
        return self

    @model_validator(mode="after")
    def _there_is_a_control(self) -> "Recipe":
        if self.control != "none" and HARD_OBJECTIVE[self.task] is None:
            raise ValueError(
                f"evaluation.control is {self.control!r}, but sentences have nothing to learn from without a teacher. "
                "Leave it out, or say none."
            )
        return self


def suite_faults(evaluation: EvaluationConfig, *, task: Task, kind: str) -> Iterator[str]:
    """What is asked to be measured of models that it says nothing about, and settings of what is not measured at all."""
    for name, suite in SUITES.items():
        if name in evaluation.suites and task not in suite.tasks:
            yield f"evaluation.suites names {name!r}, which says nothing of data of kind {kind!r}. Leave it out."
        if name == "tasks" and name in evaluation.suites and not evaluation.tasks:
            yield "evaluation.suites names 'tasks', but evaluation.tasks has none. Give it some, or leave the suite out."
        if name not in evaluation.suites and getattr(evaluation, name, None) is not None:
            yield f"evaluation.{name} is given, but evaluation.suites does not name {name!r}. Add it there, or leave this out."


def synthesis_fault(synthesis: SynthesisConfig | None, kind: str) -> str:
    """Why data of this kind cannot be what is synthesised; empty where it can."""
    if synthesis is None:
        return ""
    if isinstance(synthesis, GroundedConfig) or kind == "rag":
        fits = isinstance(synthesis, GroundedConfig) and kind == "rag"
        return (
            "" if fits else "synthesis of kind grounded and data of kind rag go together. Leave one out, or use both."
        )
    needs = "chat" if isinstance(synthesis, ConversationSynthesisConfig) else "text"
    if kind == needs:
        return ""
    what = "conversations" if needs == "chat" else "text"
    return (
        f"synthesis of kind {synthesis.kind} writes {what} for data of kind {needs}, but the kind is {kind!r}. Use "
        f"data: {{kind: {needs}}}, or leave synthesis out."
    )


def _misfit(chosen: AnyObjective, kind: str, task: Task) -> str:
    """Why this objective says nothing about data of this kind; empty where it does."""
    if isinstance(chosen, PreferenceObjective):
        pairs = kind == "preferences"
        return "" if pairs else f"{chosen.name} learns from pairs of answers, which data of kind {kind!r} has none of."
    if isinstance(chosen, RankingObjective):
        return f"{chosen.name} learns from how passages rank, which data of kind {kind!r} says nothing of."
    if kind == "preferences" and not isinstance(chosen, Objective):
        return (
            f"{chosen.name} does not learn from data of kind 'preferences', whose chosen answers are learnt token by token. "
            "Use dpo, or an objective on logits such as forward_kl or next_token."
        )
    hard, embeds = HARD_OBJECTIVE[task], task == "sentence_embedding"
    if isinstance(chosen, FeatureObjective):
        if chosen.reads == "embeddings" and not embeds:
            return f"{chosen.name} compares sentence embeddings, but data of kind {kind!r} has none. Try hidden_cosine."
        if chosen.is_dual and task != "causal_lm":
            return f"{chosen.name} reads which token comes next, which data of kind {kind!r} does not predict."
        return ""
    if isinstance(chosen, SpanObjective):
        spoken = task == "causal_lm"
        return "" if spoken else f"{chosen.name} compares spans of text, which data of kind {kind!r} does not predict."
    if embeds:
        return f"{chosen.name} compares logits, which sentence embeddings have none of. Try embedding_cosine."
    if not chosen.reads_teacher and chosen.name != hard:
        return f"{chosen.name} does not learn from data of kind {kind!r}. Use {hard}."
    if task == "regression" and chosen.name not in ON_NUMBERS:
        return f"{chosen.name} compares distributions, and a single number has none. Use logit_mse."
    return ""
