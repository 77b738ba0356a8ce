"""`stillhouse evaluate STUDENT --teacher TEACHER`: how much any model keeps of any other, whoever made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.parts.identity import plain
from stillhouse.commands.questions import questions_of
from stillhouse.commands.recipe import EvaluationConfig, suite_faults
from stillhouse.commands.stages.suites import asked_of, check_suites, suites_of
from stillhouse.core.batch import Batch
from stillhouse.core.config import Config, parse_recipe, to_yaml, with_overrides
from stillhouse.core.errors import DataError, ModelError, StillhouseError
from stillhouse.core.files import atomic_path, fingerprint, fingerprint_files
from stillhouse.core.life import Kept
from stillhouse.core.objects import files_of
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import BASELINES, EvaluationResult, Role
from stillhouse.core.run import RunFolder
from stillhouse.core.suite_results import RESULTS
from stillhouse.data.config import ChatDataConfig, DataConfig, TextDataConfig, judging_all
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.data.paired import PairedRows
from stillhouse.data.prepare import Prepared, prepare
from stillhouse.data.rowset import RowSet
from stillhouse.evaluation import Contestant, OwnTokens, ScoredBatches, evaluate, evaluate_embeddings, evaluate_encoders
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.compare import OwnSentences
from stillhouse.evaluation.remembered import Measured
from stillhouse.evaluation.suites import SUITES
from stillhouse.models.anatomy import most_tokens
from stillhouse.models.labels import answers_of
from stillhouse.models.load import (
    LoadedModel,
    check_head,
    check_serves,
    check_weights,
    display_name,
    load_config,
    load_model,
    load_tokenizer,
    source_fingerprint,
    vocabulary_fingerprint,
)
from stillhouse.reporting import write_report, write_summary

DOCUMENTS_PER_BATCH = 32
ONE_ANSWER = ("sequence_classification", "regression")
"""Tasks with one answer a document, which models with different tokenizers can give beside each other."""


class Contest(Config):
    """Which models are measured, beside whom, and on what."""

    student: str
    """A hub id, a folder, or a GGUF file."""
    teacher: str
    """The same."""
    baselines: tuple[str, ...] = Field(default=(), max_length=len(BASELINES))
    """Other models to hold beside the student."""
    data: DataConfig
    """What to measure on; all of it, as nothing is trained."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Suites, with their settings, and samples, as in a recipe; nothing is trained, so there are no controls."""

    @model_validator(mode="after")
    def _nothing_is_trained(self) -> "Contest":
        wanted = self.evaluation
        watched = wanted.reward is not None or wanted.curves is not None
        if wanted.control not in (None, "none") or watched or wanted.control_budget != "tokens":
            raise ValueError(
                "evaluation.control, control_budget, reward and curves are about training, and here nothing is trained. Leave "
                "them out; to hold another model beside the student, name it as a baseline."
            )
        faults = list(suite_faults(wanted, task=self.data.task, kind=self.data.kind))
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @property
    def sources(self) -> dict[Role, str]:
        """Every model that is measured."""
        named = zip(BASELINES, self.baselines, strict=False)
        return {"teacher": self.teacher, "student": self.student, **dict(named)}


def contest(
    student: str,
    *,
    teacher: str,
    data: str | Path,
    baselines: Sequence[str] = (),
    kind: str = "text",
    suites: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Contest:
    """A contest from plain values, `overrides` such as `data.label=stars` among them.

    Raises:
        RecipeError: naming every fault at once.
    """
    values: dict[str, Any] = {"student": student, "teacher": teacher, "baselines": list(baselines)}
    values["data"] = {"kind": kind, "path": str(data)}
    if suites:
        values["evaluation"] = {"suites": list(suites)}
    return parse_recipe(Contest, with_overrides(values, overrides), source="stillhouse evaluate")


def evaluate_models(
    student: str,
    *,
    teacher: str,
    data: str | Path,
    baselines: Sequence[str] = (),
    kind: str = "text",
    suites: Sequence[str] = (),
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure a student beside its teacher and baselines on a file, and write report.html, summary.md and metrics.jsonl.

    The models are hub ids, folders or GGUF files, made by anybody; `kind` says what the data is, and `suites` what is measured
    besides, as in a recipe. What was
    measured of a model is kept in the folder `out` and not measured again, as long as models and data are the same.

    Raises:
        StillhouseError: for what the caller can mend.
    """
    wanted = contest(
        student, teacher=teacher, data=data, baselines=baselines, kind=kind, suites=suites, overrides=overrides
    )
    folder = Path(out) if out is not None else default_folder(wanted)
    return run_contest(wanted, RunFolder(folder, named_by="--out FOLDER"), progress)


def default_folder(wanted: Contest) -> Path:
    """Where a contest's results lie that names no folder."""
    names = [
        display_name(source).replace("/", "--").removesuffix(".gguf") for source in (wanted.student, wanted.teacher)
    ]
    return Path("evaluations") / "-beside-".join(names)


def run_contest(wanted: Contest, run: RunFolder, progress: Progress) -> EvaluationResult:
    """Check, measure, report; what was measured before is not measured again."""
    kept = Kept(progress, run.path)
    entrants = Entrants(wanted, run, kept)
    entrants.check()
    with run.open(wanted), kept:
        told = wanted.model_dump(mode="json", exclude={"evaluation": {"suites", *SUITES}})
        made_from = fingerprint([entrants.models, entrants.data_fingerprint, told])

        def work() -> dict[str, Any]:
            kept.stage("evaluate", "everyone is measured")
            result = replace(entrants.judge(), made_here=False)
            MetricsLog(run).evaluation(result)
            return {"result": result.to_dict()}

        done = run.stage("evaluate", made_from=made_from, work=work)
        found = {name: entrants.suite(name, made_from) for name in suites_of(wanted.evaluation.suites)}
        result = replace(EvaluationResult.from_dict(done["result"]), suites=found)
        write_report(
            run.report,
            title=f"{display_name(wanted.student)} beside {display_name(wanted.teacher)}",
            result=result,
            curves={},
            recipe_yaml=to_yaml(wanted),
            command=command_of(wanted),
            layers=None,
            data={},
            stages=[{"name": name, "seconds": stage["seconds"]} for name, stage in run.stages().items()],
        )
        write_summary(run.summary, title=display_name(wanted.student), result=result)
    return result


def command_of(wanted: Contest) -> str:
    """The command that measures the same again."""
    data = wanted.data
    parts = [f"stillhouse evaluate {wanted.student}", f"--teacher {wanted.teacher}"]
    parts += [f"--baseline {source}" for source in wanted.baselines]
    suites = suites_of(wanted.evaluation.suites)
    parts += [f"--data {data.path}", f"--kind {data.kind}", *([f"--suites {','.join(suites)}"] if suites else [])]
    return " ".join(parts)


@dataclass(frozen=True)
class DiskMemory:
    """What was measured of each model, in files named by everything that it depends on."""

    folder: Path
    keys: Mapping[Role, str]

    def __call__(self, what: str, role: Role, work: Any) -> Measured:
        """The numbers in the file, or those of the work, which are then kept."""
        file = self.folder / f"{what}-{self.keys[role]}.npz"
        if file.exists():
            with np.load(file, allow_pickle=False) as kept:
                return dict(kept)
        found: Any = work()
        with atomic_path(file) as part, part.open("wb") as handle:
            np.savez(handle, **found)
        return dict(found)


class Entrants:
    """The models of a contest, and the data as each of them reads it."""

    def __init__(self, wanted: Contest, run: RunFolder, progress: Progress) -> None:
        self.wanted, self.run, self.progress = wanted, run, progress
        self.task = wanted.data.task

    def check(self) -> None:
        """Find what is wrong with models or data before any weight is read.

        Raises:
            ModelError: naming the model.
            DataError: naming the file and the line.
        """
        check_suites(self.wanted.evaluation)
        for source in self.wanted.sources.values():
            check_weights(source)
            config = load_config(source)
            check_serves(config, self.task, source=source)
            check_head(source, config, self.task)
        if isinstance(self.wanted.data, ChatDataConfig) and self.wanted.data.teacher_context is not None:
            raise DataError("data.teacher_context is for students that learn it. Leave it out.")
        others = [role for role in self.tokenizers if not self._shares_tokens(role)]
        if others and self.task != "sentence_embedding" and self.task not in ONE_ANSWER and not self._spoken:
            raise ModelError(
                f"{self.wanted.sources[others[0]]!r} cuts text into other tokens than {self.wanted.student!r}, so on data of "
                f"kind {self.wanted.data.kind!r} their answers cannot be held beside each other."
            )
        _ = self.read

    @cached_property
    def models(self) -> dict[Role, str]:
        """What each model is known by: the hash of its files."""
        return {role: source_fingerprint(source) for role, source in self.wanted.sources.items()}

    @cached_property
    def data_fingerprint(self) -> str:
        """Hash of the data, and of all that turns it into tokens."""
        paths = self.config.sources
        files = [file for path in paths for file in files_of(path)]
        return fingerprint([fingerprint_files(files), self.config.model_dump(mode="json", exclude={"path"})])

    @property
    def _spoken(self) -> bool:
        return isinstance(self.wanted.data, TextDataConfig | ChatDataConfig)

    @cached_property
    def config(self) -> DataConfig:
        """All of the data, in rows that every model has positions for."""
        known = (most_tokens(load_config(source)) for source in self.wanted.sources.values())
        tokens = min([self.wanted.data.sequence_tokens, *(count for count in known if count)])
        return judging_all(self.wanted.data.model_copy(update={"sequence_tokens": tokens}))

    @cached_property
    def tokenizers(self) -> dict[Role, PreTrainedTokenizerBase]:
        """Everyone's tokenizer."""
        return {role: load_tokenizer(source) for role, source in self.wanted.sources.items()}

    def _shares_tokens(self, role: Role) -> bool:
        """Whether a model reads the same tokens as the student, in conversations by the same template."""
        ours, theirs = self.tokenizers["student"], self.tokenizers[role]
        same = vocabulary_fingerprint(ours) == vocabulary_fingerprint(theirs)
        if not isinstance(self.wanted.data, ChatDataConfig):
            return same
        return same and ours.chat_template == theirs.chat_template

    @cached_property
    def read(self) -> dict[Role, Prepared]:
        """The data as the student reads it, and as everybody reads it who cuts text otherwise."""
        labels = answers_of(load_config(self.wanted.teacher))
        answers = labels if self.task in ("sequence_classification", "token_classification") else ()

        def side(role: Role) -> Prepared:
            if self._spoken and role != "student":
                tokenizer = self.tokenizers["student"]
                return prepare(self.config, tokenizer, answers=answers, teacher_tokenizer=self.tokenizers[role])
            return prepare(self.config, self.tokenizers[role], answers=answers)

        roles: list[Role] = ["student", *(role for role in self.tokenizers if not self._shares_tokens(role))]
        return {role: side(role) for role in roles}

    @cached_property
    def loaded(self) -> dict[Role, LoadedModel]:
        """Everyone, loaded."""
        return {role: self._load(role, source) for role, source in self.wanted.sources.items()}

    @property
    def contestants(self) -> list[Contestant]:
        """Everyone, to be judged."""
        sources = self.wanted.sources
        return [
            Contestant(role, display_name(sources[role]), one.model, one.folder) for role, one in self.loaded.items()
        ]

    def suite(self, name: str, made_from: str) -> dict[str, Any]:
        """What one suite finds; baselines with tokens of their own are left out of it."""
        settings = getattr(self.wanted.evaluation, name, None)

        def work() -> dict[str, Any]:
            self.progress.stage(name, SUITES[name].title)
            found = SUITES[name].measure(self._bench(name), settings)
            MetricsLog(self.run).suite(name, found)
            return {"result": found.to_dict()}

        asked = fingerprint(plain(asked_of(name, self.wanted.evaluation)))
        done = self.run.stage(name, made_from=made_from, work=work, asked=asked)
        return RESULTS[name].from_dict(done["result"]).to_dict()

    def _bench(self, name: str) -> Bench:
        folder = self.run.path / "evaluation" / name
        folder.mkdir(parents=True, exist_ok=True)
        apart = [role for role in self.read if role not in ("student", "teacher")]
        models = [one for one in self.contestants if one.role not in apart]
        speaks, rows = self.task == "causal_lm", self.read["student"].held_out
        told = self.read["teacher"].held_out if speaks and "teacher" in self.read else None
        examples = self._own_examples if speaks else []
        path = self.config.path
        assert path is not None, "all of the data is read from there"
        return Bench(
            models,
            self.task,
            self.tokenizers["student"],
            self.tokenizers["teacher"],
            folder,
            questions=questions_of(self.config, path, examples, self.tokenizers["student"]) if speaks else (),
            examples=examples,
            teacher_reads=told.teacher_examples if isinstance(told, PairedRows) else None,
            batches=() if speaks else _batches(rows),
            progress=self.progress,
        )

    @property
    def _own_examples(self) -> list[Example]:
        """The documents as the student reads them."""
        rows = self.read.get("teacher", self.read["student"]).held_out
        assert isinstance(rows, PackedRows)
        return list(rows.examples)

    def judge(self) -> EvaluationResult:
        """Load everyone and measure."""
        contestants = self.contestants
        match self.task:
            case "causal_lm":
                return self._judge_language(contestants)
            case "sentence_embedding":
                return self._judge_embeddings(contestants, self.loaded)
        held_out = {role: _batches(found.held_out) for role, found in self.read.items()}
        ours = self.read["student"]
        return evaluate_encoders(
            contestants,
            held_out["student"],
            task=self.task,
            vocab_size=len(self.tokenizers["student"]) if self.task == "masked_lm" else None,
            tags=ours.labels if self.task == "token_classification" else (),
            documents=ours.held_out_documents,
            tokenizer=self.tokenizers["student"],
            labels=ours.labels,
            own_batches={role: found for role, found in held_out.items() if role != "student"},
            progress=self.progress,
        )

    def _load(self, role: Role, source: str) -> LoadedModel:
        self.progress.say(f"loading the {role.replace('_', ' ')}, {display_name(source)}")
        labels = (
            self.read["student"].labels if self.task in ("sequence_classification", "token_classification") else None
        )
        return load_model(source, self.task, labels=labels)

    def _judge_language(self, contestants: Sequence[Contestant]) -> EvaluationResult:
        rows = {role: found.held_out for role, found in self.read.items()}
        apart: dict[Role, OwnTokens] = {
            role: self._own_tokens(role, found) for role, found in rows.items() if role != "student"
        }
        return evaluate(
            contestants,
            self._own_examples,
            self.tokenizers["student"],
            num_samples=self.wanted.evaluation.samples,
            teacher_reads=apart.pop("teacher", None),
            others_read=apart,
            remember=self._memory,
            progress=self.progress,
        )

    def _own_tokens(self, role: Role, rows: RowSet) -> OwnTokens:
        assert isinstance(rows, PairedRows)
        return OwnTokens(rows.teacher_examples, self.tokenizers[role])

    @property
    def _memory(self) -> DiskMemory:
        """What was measured of a model depends on it, on its teacher, and on the data as both read it."""
        cut = {role: vocabulary_fingerprint(tokenizer) for role, tokenizer in self.tokenizers.items()}
        shared = [self.models["teacher"], self.data_fingerprint, cut["student"], cut["teacher"]]
        keys = {role: fingerprint([known, cut[role], *shared]) for role, known in self.models.items()}
        return DiskMemory(self.run.path / "measured", keys)

    def _judge_embeddings(
        self, contestants: Sequence[Contestant], loaded: Mapping[Role, LoadedModel]
    ) -> EvaluationResult:
        sides = {}
        for role, one in loaded.items():
            assert one.pooling is not None
            found = self.read.get(role, self.read["student"])
            pairs = [
                ScoredBatches(pair.name, _batches(pair.first), _batches(pair.second), pair.scores)
                for pair in found.pairs
            ]
            sides[role] = OwnSentences(_batches(found.held_out), one.pooling, pairs)
        ours = sides["student"]
        return evaluate_embeddings(
            contestants,
            ours.batches,
            pooling=ours.pooling,
            pairs=ours.pairs,
            own_sentences=sides,
            progress=self.progress,
        )


def _batches(rows: RowSet) -> list[Batch]:
    return list(rows.batches(DOCUMENTS_PER_BATCH))


def show(
    student: str,
    overrides: Sequence[str],
    *,
    teacher: str,
    data: str | None,
    baselines: Sequence[str],
    kind: str,
    suites: Sequence[str],
    out: str | None,
) -> None:
    """The command: measure with progress in the terminal, and say where the report lies.

    Raises:
        StillhouseError: for what the user can mend.
    """
    from rich.console import Console

    from stillhouse.reporting import results_table, terminal_progress

    if data is None:
        raise StillhouseError("evaluate STUDENT --teacher TEACHER needs --data FILE: what to measure on.")
    wanted = contest(
        student, teacher=teacher, data=data, baselines=baselines, kind=kind, suites=suites, overrides=overrides
    )
    run = RunFolder(Path(out) if out is not None else default_folder(wanted), named_by="--out FOLDER")
    result = run_contest(wanted, run, terminal_progress())
    console = Console()
    console.print(results_table(result))
    console.print(f"\nreport   {run.report}\nsummary  {run.summary}", highlight=False)
