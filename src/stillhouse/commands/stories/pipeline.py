"""The stages of a story model, each done once: texts, tokenizer, student, and round after round of more where it is weak."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stillhouse.commands.labels import forget_damaged, recorder_of, spoken_temperature
from stillhouse.commands.launch.config import Ranks, share_of
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.plan.saved import planned_beside
from stillhouse.commands.remote import remote_teacher
from stillhouse.commands.stories.asking import Program, about
from stillhouse.commands.stories.compared import run_result
from stillhouse.commands.stories.measuring import judged_starts, measured
from stillhouse.commands.stories.recipe import StoryRecipe, TrimmedTokenizerConfig
from stillhouse.commands.stories.texts import Story, examples_of, first_round, read_stories, whole_texts
from stillhouse.core.cluster import Cluster
from stillhouse.core.config import load_recipe, to_yaml
from stillhouse.core.files import (
    atomic_path,
    fingerprint,
    fingerprint_files,
    json_line,
    read_lines,
    remove,
    write_atomic,
)
from stillhouse.core.life import Kept
from stillhouse.core.progress import Progress, working
from stillhouse.core.protocols import Teacher
from stillhouse.core.results import Interval
from stillhouse.core.run import RunFolder
from stillhouse.core.story_results import RoundResult, StoryResult
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.evaluation.stories import TextSums, bits_per_byte, check_parser, gain, predicted
from stillhouse.labelling.cluster import RayCrew
from stillhouse.labelling.label import Alone, Crew, label_by
from stillhouse.models.anatomy import parameter_count
from stillhouse.models.compiled import check_compiler
from stillhouse.models.load import (
    LoadedModel,
    check_exists,
    display_name,
    load_causal_lm,
    load_tokenizer,
    seen_by_all,
    source_fingerprint,
)
from stillhouse.models.own_tokenizers import train_tokenizer, trim_model, trim_tokenizer
from stillhouse.models.vllm_engine import check_vllm
from stillhouse.students.save import save_student
from stillhouse.students.table import student_of_size
from stillhouse.synthesis.filters import build_filters
from stillhouse.synthesis.flow import CARD, DROPPED, SYNTHETIC
from stillhouse.synthesis.run import LEDGER, write_synthetic
from stillhouse.synthesis.worlds import Cell, Weak, World, load_world, shared_out, weak_cells
from stillhouse.synthesis.worlds.cells import Asked, Judged
from stillhouse.synthesis.worlds.drawing import cells_of
from stillhouse.synthesis.worlds.world import world_fingerprint
from stillhouse.teachers import LocalTeacher, RemoteTeacherConfig
from stillhouse.teachers.hands import RayHands, Spoken, Voice
from stillhouse.teachers.hosted import by_vllm, hosted_voice, is_hosted, voice_elsewhere
from stillhouse.teachers.remote import RemoteWriter
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.teachers.writer import LocalWriter, SpreadWriter, Writer
from stillhouse.training import train
from stillhouse.training.terms import Scheduled

Launch = Callable[["StoryPipeline", str], dict[str, Any]]
"""Lets a round's student learn elsewhere, and says what it took."""


class StoryPipeline:
    """One recipe of kind stories at work in one run folder. Every stage first sees to the stages that it stands on."""

    def __init__(self, recipe: StoryRecipe, run: RunFolder, progress: Progress) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress
        self.metrics = MetricsLog(run)
        self.launch: Launch | None = None
        self.ranks = Ranks()
        """Of the processes that train together, which this is."""
        self.cluster: Cluster | None = None
        """Where the teacher writes and labels; None is in this process."""
        self._actors: RayHands | None = None

    def check(self) -> None:
        """Find what is wrong with world, filters and teacher before a model is loaded or anything is written."""
        _ = self.world
        if self.recipe.evaluation.grammar == "link_grammar":
            check_parser()
        tokenizer = self._teacher_tokenizer
        build_filters(self.recipe.data.used_filters, tokenizer=tokenizer)
        if isinstance(self.recipe.tokenizer, TrimmedTokenizerConfig):
            assert tokenizer is not None, "the recipe has been checked"
            trim_tokenizer(tokenizer, ["a"])
        if self.recipe.training.compile:
            check_compiler()
        if is_hosted(self.recipe.teacher):
            check_vllm("teacher.engine")

    # Parts.

    @cached_property
    def world(self) -> World:
        """Words, features, lengths, prompts."""
        return load_world(self.recipe.data.world)

    @cached_property
    def remote(self) -> RemoteTeacherConfig | None:
        """The teacher, where it is behind an API."""
        return self.recipe.teacher if isinstance(self.recipe.teacher, RemoteTeacherConfig) else None

    @cached_property
    def _teacher_tokenizer(self) -> PreTrainedTokenizerBase | None:
        if self.remote is not None:
            return load_tokenizer(self.remote.tokenizer) if self.remote.tokenizer else None
        check_exists(self.recipe.teacher.model)
        return load_tokenizer(self.recipe.teacher.model)

    @cached_property
    def teacher(self) -> LoadedModel:
        """A teacher of this process."""
        self._let_go_of_vllm()
        self.progress.say(f"loading the teacher, {display_name(self.recipe.teacher.model)}")
        return load_causal_lm(self.recipe.teacher.model)

    @cached_property
    def teacher_fingerprint(self) -> str:
        """Hash of the teacher's files, or of whom is asked in its place."""
        if self.remote is not None:
            return RemoteWriter(self.remote).fingerprint
        found = source_fingerprint(self.recipe.teacher.model)
        return fingerprint([found, *by_vllm(self.recipe.teacher)]) if is_hosted(self.recipe.teacher) else found

    def _writer(self) -> Writer:
        if self.remote is not None:
            return remote_teacher(self.remote, self.run, self.progress, ledger=f"data/{LEDGER}")
        about: dict[str, Any] = {
            "name": display_name(self.recipe.teacher.model),
            "fingerprint": self.teacher_fingerprint,
            "batch_size": self.recipe.data.batch_size,
        }
        if self.cluster is None:
            return LocalWriter(self._voice, **about)
        assert self._teacher_tokenizer is not None, "it is a model's of this process"
        return SpreadWriter(self._hands(self.cluster), self._teacher_tokenizer, **about)

    def _hands(self, cluster: Cluster) -> RayHands:
        """Who writes on a cluster. They stay over rounds, while the student learns, with the teacher in memory."""
        if self._actors is None:
            load = voice_elsewhere(self.recipe.teacher)
            self._actors = RayHands(cluster, load, progress=self.progress)
        return self._actors

    @property
    def _voice(self) -> Spoken:
        """Who writes in this process."""
        return self._hosted if is_hosted(self.recipe.teacher) else self.teacher

    @cached_property
    def _hosted(self) -> Voice:
        assert is_hosted(self.recipe.teacher), "another engine runs it"
        self.progress.say(f"vLLM loads the teacher, {display_name(self.recipe.teacher.model)}")
        return hosted_voice(self.recipe.teacher)

    def let_go(self) -> None:
        """Whoever writes on a cluster ends, and vLLM here, so that others have their room."""
        if self._actors is not None:
            self._actors.close()
        self._let_go_of_vllm()

    def _let_go_of_vllm(self) -> None:
        hosted = self.__dict__.pop("_hosted", None)
        if hosted is not None:
            hosted.model.close()

    def _stage(
        self, name: str, title: str, *, work: Callable[[], dict[str, Any]], makes: Sequence[Path] = ()
    ) -> dict[str, Any]:
        def announced() -> dict[str, Any]:
            self.progress.stage(name, title)
            return work()

        return self.run.stage(name, made_from=self._texts_made_from, work=announced, makes=makes)

    @cached_property
    def _texts_made_from(self) -> str:
        """The run folder refuses another recipe; what lies outside it is named here."""
        files = [Path(file) for one in self.recipe.data.filters or () for file in getattr(one, "paths", ())]
        return fingerprint(
            [
                world_fingerprint(self.recipe.data.world),
                self.teacher_fingerprint,
                fingerprint_files(file for file in files if file.is_file()),
            ]
        )

    # Texts.

    def texts_of(self, number: int) -> Path:
        """What is kept of one round."""
        return self.run.data / "rounds" / f"{number}.jsonl"

    def synthesize(self) -> dict[str, Any]:
        """The texts of the first round."""
        return self.write(0)

    def write(self, number: int) -> dict[str, Any]:
        """The texts of one round, in the cells that the round before found weak."""

        def work() -> dict[str, Any]:
            if number == 0:
                self._borrow_replies()
            writer = self._writer()
            filters = build_filters(self.recipe.data.used_filters, tokenizer=writer.tokenizer)
            cells = [self._cells_asked(before) for before in range(number)]
            program = Program(self.recipe, self.world, writer, filters, cells)
            made = write_synthetic(
                program,
                writer,
                folder=self.run.data,
                about=about(self.recipe, self.world, writer),
                fewest=0,
                finish=program.account,
                progress=self.progress,
            )
            of_round = [record for record in made.records if record.lineage["round"] == number]
            kept = [record for record in of_round if not record.dropped]
            lines = (json_line({"text": record.text, "lineage": dict(record.lineage)}) for record in kept)
            write_atomic(self.texts_of(number), "".join(lines))
            self.progress.say(f"round {number}: {len(kept):,} kept of {len(of_round):,} texts")
            if number == 0:
                judged_starts(self)  # refused now, where there are too few, or too short ones
            return {"asked": len(of_round), "kept": len(kept), "replies": made.card["replies"]}

        name = "synthesize" if number == 0 else f"synthesize_{number}"
        return self._stage(name, "the teacher writes", work=work, makes=[self.texts_of(number)])

    def _borrow_replies(self) -> None:
        """What the same teacher wrote in another run, so that it is not asked again: as far as the first round went there,
        as later ones depend on the student."""
        ledger = self.run.data / LEDGER
        for lender in map(RunFolder, self.run.lenders if not ledger.exists() else ()):
            done = lender.stages().get("synthesize")
            file = lender.data / LEDGER
            if done is None or done["made_from"] != self._texts_made_from or not file.exists():
                continue
            lines = (json_line(line) for line in read_lines(file)[: done["replies"]])
            ledger.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(ledger, "".join(lines))
            self.run.event("borrowed", stage="synthesize", lender=lender.path.name)
            return

    @cached_property
    def _first(self) -> tuple[list[Story], list[Story]]:
        return first_round(self.texts_of(0), share=self.recipe.data.held_out)

    @property
    def held_out(self) -> list[Story]:
        """What nobody trains on."""
        return self._first[1]

    def learnt(self, number: int) -> list[Story]:
        """All that is learnt from in a round: its own texts, and those of the rounds before."""
        more = [story for one in range(1, number + 1) for story in read_stories(self.texts_of(one))]
        judged = {story.text for story in self.held_out}
        return [*self._first[0], *(story for story in more if story.text not in judged)]

    # Tokenizer and student.

    @property
    def _tokenizer_folder(self) -> Path:
        return self.run.path / "tokenizer"

    def make_tokenizer(self) -> dict[str, Any]:
        """Of the student's own, or the teacher's with fewer tokens."""
        self.synthesize()

        def work() -> dict[str, Any]:
            tokenizer, kept = self.new_tokenizer()
            with atomic_path(self._tokenizer_folder) as part:
                tokenizer.save_pretrained(str(part))
                write_atomic(part / "kept.json", json.dumps(list(kept)))
            return {"tokens": len(tokenizer)}

        return self._stage("tokenizer", "the tokenizer is made", work=work, makes=[self._tokenizer_folder])

    def new_tokenizer(self) -> tuple[PreTrainedTokenizerBase, Sequence[int]]:
        """Made from the first round's texts, and which of the teacher's tokens it has, where it is cut out of the teacher's."""
        seed = self.recipe.data.seed
        texts = [story.instruction(self.world, seed=seed) + story.text for story in self.learnt(0)]
        if not isinstance(self.recipe.tokenizer, TrimmedTokenizerConfig):
            return train_tokenizer(texts, size=self.recipe.tokenizer.size), ()
        assert self._teacher_tokenizer is not None, "the recipe has been checked"
        # Words that later rounds ask for are in no text yet.
        trimmed = trim_tokenizer(self._teacher_tokenizer, [*texts, *self._all_words])
        return trimmed.tokenizer, trimmed.kept

    @property
    def _all_words(self) -> list[str]:
        return [f"{space}{word}" for word in sorted(self.world.vocabulary) for space in ("", " ")]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's."""
        return PreTrainedTokenizerFast.from_pretrained(str(self._tokenizer_folder))

    @cached_property
    def _trimmed(self) -> LocalTeacher:
        """The teacher, in the student's tokens."""
        return _trimmed_teacher(self.recipe.teacher.model, self._kept_tokens)

    @property
    def _kept_tokens(self) -> list[int]:
        kept: list[int] = json.loads((self._tokenizer_folder / "kept.json").read_text(encoding="utf-8"))
        return kept

    def make_student(self) -> dict[str, Any]:
        """The student before training, saved."""
        self.make_tokenizer()
        before = self.run.path / "student_before"

        def work() -> dict[str, Any]:
            size, tokens = self.recipe.student.size, self.recipe.data.sequence_tokens
            embedded: Any = (
                self._trimmed.model.get_input_embeddings() if self.recipe.student.embeddings == "teacher" else None
            )
            student = student_of_size(
                size,
                self.tokenizer,
                max_tokens=tokens,
                seed=self.recipe.training.seed,
                embeddings=None if embedded is None else embedded.weight.detach(),
            )
            self._save(student, before)
            return {"parameters": parameter_count(student)}

        return self._stage("student", "the student is made", work=work, makes=[before])

    def _save(self, model: PreTrainedModel, folder: Path) -> None:
        with atomic_path(folder) as part:
            save_student(model, self.tokenizer, part)

    # Rounds.

    def student_of(self, number: int) -> Path:
        """The student behind a round."""
        return self._round_folder(number) / "student"

    def _round_folder(self, number: int) -> Path:
        return self.run.path / "rounds" / str(number)

    def train(self) -> list[RoundResult]:
        """All rounds, and the student of the last."""
        self.make_student()
        rounds: list[RoundResult] = []
        while not rounds or not rounds[-1].stop:
            number = len(rounds)
            self.label(number)
            self._learn(number)
            rounds.append(self._look(number))

        def work() -> dict[str, Any]:
            with atomic_path(self.run.student) as part:
                shutil.copytree(self.student_of(len(rounds) - 1), part)
            learnt = [self.run.stages()[f"train_{number}"]["tokens"] for number in range(len(rounds))]
            return {"rounds": len(rounds), "tokens": round(self.recipe.training.epochs * sum(learnt))}

        self._stage("train", "the last student is kept", work=work, makes=[self.run.student])
        return rounds

    def _examples(self, number: int) -> list[Example]:
        """All that is learnt in a round, in the student's tokens: that of the rounds before comes first."""
        tokens, seed = self.recipe.data.sequence_tokens, self.recipe.data.seed
        return examples_of(self.learnt(number), self.world, self.tokenizer, max_tokens=tokens, seed=seed)

    @cached_property
    def _terms(self) -> list[Scheduled]:
        # None of these objectives reads a layer, so that their number does not matter.
        return [chosen.build(student_layers=1, teacher_layers=1) for chosen in self.recipe.objectives]

    def _signals(self) -> Teacher | None:
        """The teacher, in the student's tokens, or what it said of them; None where no objective reads it."""
        if not self.recipe.reads_teacher:
            return None
        if self.recipe.labels is None:
            return self._trimmed
        return StoredTeacher(
            self.run.labels,
            made_from=self._labels_made_from,
            temperature=spoken_temperature(self.recipe.objectives),
            tail=getattr(self.recipe.labels, "tail", "bucket"),
        )

    @cached_property
    def _labels_made_from(self) -> str:
        return fingerprint([self.teacher_fingerprint, fingerprint_files([self._tokenizer_folder / "kept.json"])])

    def label(self, number: int = 0) -> dict[str, Any]:
        """What the teacher says of each token of a round's texts, where the recipe has labels. Shards of the rounds before are
        kept: their texts come first."""
        self.make_tokenizer()
        self.write(number)
        wanted = self.recipe.labels
        if wanted is None:
            return {}

        def work() -> dict[str, Any]:
            tokens = len(self.tokenizer)
            outcome = label_by(
                self._crew(),
                self._examples(number),
                self.run.labels.resolve(),
                made_from=self._labels_made_from,
                row_tokens=self.recipe.data.sequence_tokens,
                recorder=recorder_of(wanted, self.recipe.objectives, self._terms, vocab_size=tokens),
                shard_tokens=wanted.shard_tokens,
                progress=self.progress,
            )
            return asdict(outcome)

        later = [f"label_{one}" for one in range(number, self.recipe.rounds.most + 1)]
        forget_damaged(self.run, self.progress, later)
        return self._stage(later[0], "the teacher labels", work=work, makes=[self.run.labels])

    def _crew(self) -> Crew:
        """Who labels: this process, or actors that each load the teacher."""
        if self.cluster is None:
            return Alone(self._trimmed, self.progress)
        self.let_go()
        load = partial(_trimmed_teacher, seen_by_all(self.recipe.teacher.model), self._kept_tokens)
        return RayCrew(self.cluster, load, self.progress)

    def _learn(self, number: int) -> None:
        def work() -> dict[str, Any]:
            self._let_go_of_vllm()
            return self.learn(number) if self.launch is None else self.launch(self, arm_of(number))

        name, title = f"train_{number}", f"the student learns, round {number}"
        self._stage(name, title, work=work, makes=[self.student_of(number)])

    def learn(self, number: int) -> dict[str, Any]:
        """A round's student learns in this process, or in this and others; what it took."""
        before = self.run.path / "student_before" if number == 0 else self.student_of(number - 1)
        student = load_causal_lm(str(before)).model
        arm, examples, ranks = arm_of(number), self._examples(number), self.ranks
        checkpoints = self.run.path / "checkpoints" / arm
        trained = train(
            student,
            PackedRows(examples, row_tokens=self.recipe.data.sequence_tokens),
            terms=self._terms,
            teacher=self._signals(),
            vocab_size=len(self.tokenizer),
            schedule=share_of(self.recipe.training, ranks.number) if ranks.number > 1 else self.recipe.training,
            checkpoints=checkpoints,
            log_line=_unheard if ranks.rank else self.metrics.arm(arm, checkpoints),
            progress=self.progress,
            title=f"the student learns, round {number}",
            held=ranks.held,
            teacher_held=ranks.teacher_held,
        )
        if ranks.rank:
            return {}  # one of them keeps what all have made
        self._save(trained, self.student_of(number))
        remove(checkpoints)
        return {"texts": len(self.learnt(number)), "tokens": sum(len(one.ids) for one in examples)}

    def _look(self, number: int) -> RoundResult:
        """How well held-out texts are predicted, where the student is weak, and whether another round follows."""
        folder = self._round_folder(number)
        sums_file, result_file = folder / "held_out.json", folder / "result.json"

        def work() -> dict[str, Any]:
            sums = self.predicts(self.student_of(number))
            write_atomic(sums_file, json.dumps({"bits": sums.bits.tolist(), "bytes": sums.bytes.tolist()}))
            result = self._judged(number, sums)
            write_atomic(result_file, json.dumps(asdict(result), ensure_ascii=False))
            if result.stop:
                self.progress.say(f"no further round: {result.stop}")
            return {"bits_per_byte": result.bits_per_byte.value}

        self._stage(f"look_{number}", "held-out texts are predicted", work=work, makes=[sums_file, result_file])
        values = json.loads(result_file.read_text(encoding="utf-8"))
        won = values["gain"]
        return RoundResult(
            **{
                **values,
                "bits_per_byte": Interval(**values["bits_per_byte"]),
                "gain": None if won is None else Interval(**won),
            }
        )

    def predicts(self, student: Path) -> TextSums:
        """What a student needs for the held-out texts."""
        tokens = self.recipe.data.sequence_tokens
        texts = whole_texts([story.text for story in self.held_out], self.tokenizer, max_tokens=tokens)
        with working(self.progress, "held-out texts are predicted", len(texts), "texts") as progress:
            sums = predicted(load_causal_lm(str(student)).model, texts, vocab_size=len(self.tokenizer))
            progress.advance(len(texts))
        return sums

    def _judged(self, number: int, sums: TextSums) -> RoundResult:
        won = None if number == 0 else gain(self._sums_of(number - 1), sums)
        weak = weak_cells(self._asked(number), self._judged_texts(sums), most=self.recipe.rounds.cells)
        counts: dict[str, int] = {}
        for cell in self._cells_asked(number - 1) if number else ():
            counts[cell.title] = counts.get(cell.title, 0) + 1
        done = self.write(number)
        return RoundResult(
            number=number,
            asked=done["asked"],
            kept=done["kept"],
            texts=len(self.learnt(number)),
            cells=counts,
            weak=[{"axis": one.cell.axis, "name": one.cell.name, "why": one.why, "weight": one.weight} for one in weak],
            bits_per_byte=bits_per_byte(sums),
            gain=won,
            stop=self._why_stop(number, won, weak),
        )

    def _why_stop(self, number: int, won: Interval | None, weak: Sequence[Weak]) -> str:
        wanted = self.recipe.rounds
        if number >= wanted.most:
            return f"rounds.most is {wanted.most}"
        if won is not None and won.value < wanted.least_gain:
            return f"the last won {won.value:.4f} bits per byte, fewer than rounds.least_gain ({wanted.least_gain:g})"
        if not weak and wanted.ask == "weakest":
            return "no cell is weak"
        return ""

    def _sums_of(self, number: int) -> TextSums:
        kept = json.loads((self._round_folder(number) / "held_out.json").read_text(encoding="utf-8"))
        return TextSums(np.array(kept["bits"]), np.array(kept["bytes"]))

    def _asked(self, number: int) -> list[Asked]:
        """All prompts up to a round, and which came to something."""
        found = []
        for name, kept in ((SYNTHETIC, True), (DROPPED, False)):
            for line in read_lines(self.run.data / name):
                lineage = line["lineage"]
                if lineage["round"] <= number:
                    found.append(Asked(frozenset(cells_of(lineage)), kept, lineage.get("cell", "")))
        return found

    def _judged_texts(self, sums: TextSums) -> list[Judged]:
        pairs = zip(self.held_out, sums.each, strict=True)
        return [Judged(frozenset(cells_of(story.lineage)), float(bits)) for story, bits in pairs]

    def _cells_asked(self, number: int) -> list[Cell]:
        """Where the round behind this one asks, a cell for each text."""
        if self.recipe.rounds.ask == "random":
            return []
        values = json.loads((self._round_folder(number) / "result.json").read_text(encoding="utf-8"))
        weak = [Weak(Cell(one["axis"], one["name"]), one["why"], one["weight"]) for one in values["weak"]]
        return shared_out(weak, self.recipe.rounds.number)

    # Evaluation and report.

    def evaluate(self) -> StoryResult:
        """The student's completions of held-out beginnings beside the originals."""
        rounds = self.train()
        self.let_go()
        file = self.run.path / "evaluation.json"

        def work() -> dict[str, Any]:
            result = measured(self, rounds)
            for one in result.writers:
                for metric, interval in one.measures.items():
                    self.run.log(evaluated=one.name, metric=metric, **asdict(interval))
            write_atomic(file, json.dumps(result.to_json(), indent=1, ensure_ascii=False))
            return {"completions": result.completions, "result": run_result(self, result).to_dict()}

        self._stage("evaluate", "held-out beginnings are gone on from", work=work, makes=[file])
        return StoryResult.from_json(json.loads(file.read_text(encoding="utf-8")))

    def report(self) -> StoryResult:
        """`report.html` and the model card."""
        from stillhouse.reporting.stories import StoryAccount, write_story_card, write_story_report

        result, card = self.evaluate(), self.run.student / "README.md"

        def work() -> dict[str, Any]:
            stages = self.run.stages()
            account = StoryAccount(
                title=self.run.path.name,
                world=self.world.name,
                teacher=display_name(self.recipe.teacher.model),
                result=result,
                curves=self.metrics.curves(),
                card=json.loads((self.run.data / CARD).read_text(encoding="utf-8")),
                recipe_yaml=to_yaml(self.recipe),
                tokens=int(stages["tokenizer"]["tokens"]),
                stages=[{"name": name, "seconds": done["seconds"]} for name, done in stages.items()],
                plan=planned_beside(self.run, self.recipe),
            )
            write_story_report(self.run.report, account)
            write_story_card(card, account)
            return {}

        self._stage("report", "the report is written", work=work, makes=[self.run.report, card])
        return result


def arm_of(number: int) -> str:
    """What the training of a round is logged as."""
    return f"round_{number}"


def learn_arm(
    run: RunFolder, arm: str, progress: Progress, ranks: Ranks, *, changes: Sequence[str] = ()
) -> dict[str, Any]:
    """A round's student learns in this process and others, by its arm; what it took."""
    pipeline = StoryPipeline(load_recipe(StoryRecipe, run.recipe, changes), run, progress)
    pipeline.ranks = ranks
    return pipeline.learn(int(arm.rpartition("_")[2]))


def _unheard(_line: Mapping[str, float]) -> None:
    """Of several processes, the first alone writes numbers down."""


def _trimmed_teacher(source: str, kept: Sequence[int]) -> LocalTeacher:
    return LocalTeacher(trim_model(load_causal_lm(source).model, kept))


@contextmanager
def at_work(
    recipe: StoryRecipe,
    progress: Progress,
    *,
    lenders: Sequence[Path] = (),
    launch: Launch | None = None,
    cluster: Cluster | None = None,
) -> Iterator[StoryPipeline]:
    """A recipe of kind stories in its run folder, where no other process works meanwhile. What the teacher has written in the
    first round of one of the `lenders`, other run folders, it is not asked for again. With a `launch`, students learn by it;
    with a `cluster`, the teacher writes and labels there.

    Raises:
        StillhouseError: for what the user can mend.
    """
    run = RunFolder(recipe.run, lenders=tuple(lenders))
    kept = Kept(progress, run.path)
    pipeline = StoryPipeline(recipe, run, kept)
    if cluster is not None and is_hosted(recipe.teacher):
        cluster = replace(cluster, gpus=recipe.teacher.tensor_parallel)
    pipeline.launch, pipeline.cluster = launch, cluster
    pipeline.check()
    with run.open(recipe), kept:
        try:
            yield pipeline
        finally:
            pipeline.let_go()
