"""A recipe of kind stories: the whole way with a teacher that lacks one feature, and what is refused."""

import json
import re
import runpy
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from apart import processes

from stillhouse.commands.stories.measuring import first_words, judged_starts, starts_of
from stillhouse.commands.stories.pipeline import StoryPipeline
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.commands.stories.texts import Story
from stillhouse.core.cluster import Cluster
from stillhouse.core.config import load_recipe, parse_recipe
from stillhouse.core.errors import DataError, RecipeError
from stillhouse.core.files import read_lines
from stillhouse.core.label_store import read_manifest
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.rouge import words_of
from stillhouse.core.run import RunFolder
from stillhouse.core.story_results import StoryResult
from stillhouse.core.word_forms import holds
from stillhouse.labelling.label import Alone
from stillhouse.models.load import load_causal_lm
from stillhouse.students.table import SIZES
from stillhouse.synthesis.worlds import load_world
from stillhouse.teachers.hands import RayHands, unheard

from .conftest import FAULT_SERVER, assert_refused, assert_refused_in_one_line, files_in, stillhouse

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "stories.yaml"
DYING = Path(__file__).with_name("dying.py")
WORLD = {
    "name": "tiny",
    "text": "story",
    "parts": {
        "noun": {"words": "dog cat fox hen cow pig", "draw": 1, "inflect": "noun"},
        "verb": {"words": "run sing jump sit hide", "draw": 1, "inflect": "verb"},
    },
    "features": {"dialogue": {"ask": "it has a dialogue", "sign": '"'}, "moral": {"ask": "it has a moral"}},
    "most_features": 1,
    "lengths": {"short": {"words": [5, 60], "ask": "short"}},
    "prompt": "Write a {length} story with {noun} and {verb}.{features}",
    "features_phrase": " Also: {features}.",
    "summary": "Sum up: {text}",
}


GRADES = "It is told well.\nGrammar: 7\nCreativity: 3\nConsistency: 5\nInstructions: 6"


def tells(run: Path, _path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A teacher that has no dialogue in its stories until it is asked in a later round; as a judge it likes what is longer."""
    asked = body["messages"][-1]["content"]
    said = _story(run, asked, place=body["seed"] % 97) or _judgement(asked) or "They play."
    usage = {"prompt_tokens": 9, "completion_tokens": len(said.split())}
    return {
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
        "usage": usage,
    }


def _story(run: Path, asked: str, *, place: int) -> str:
    found = re.match(r"Write a short story with (\w+) and (\w+)\.", asked)
    if found is None:
        return ""
    noun, verb = found.groups()
    said = f"One day a {noun} {place} went to {verb} in the sun number {place}. Then the {noun} was glad and went home."
    is_later = (run / "rounds" / "0" / "result.json").exists()
    return f'{said} "Hello," it said.' if "dialogue" in asked and is_later else said


def _judgement(asked: str) -> str:
    shown = re.search(r"\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\nSay", asked, re.DOTALL)
    if shown is not None:
        return f"Better: {'A' if len(shown[1]) > len(shown[2]) else 'B'}"
    return GRADES if "[What followed]" in asked else ""


def small(folder: Path, url: str) -> list[str]:
    """What makes a run of seconds of the recipe's hour."""
    (folder / "tiny.yaml").write_text(json.dumps(WORLD), encoding="utf-8")
    filters = [{"name": name, "world": str(folder / "tiny.yaml")} for name in ("required_words", "features", "lengths")]
    changes = {
        "run": folder / "run",
        "teacher": json.dumps({"kind": "remote", "base_url": url, "model": "tiny", "key_env": None}),
        "data.world": folder / "tiny.yaml",
        "data.number": 40,
        "data.sequence_tokens": 128,
        "data.filters": json.dumps(filters),
        "tokenizer.size": 300,
        "training.epochs": 1,
        "training.rows_per_step": 4,
        "training.rows_per_micro_batch": 4,
        "training.save_every_steps": 1,
        "rounds.most": 2,
        "rounds.number": 16,
        "rounds.least_gain": 0.0,
        "evaluation.completions": 3,
        "evaluation.beginning_words": 5,
        "evaluation.sampling.max_new_tokens": 8,
        "evaluation.judge": json.dumps({"by": {"kind": "remote", "base_url": url, "model": "tiny", "key_env": None}}),
    }
    return [f"{key}={value}" for key, value in changes.items()]


@dataclass(frozen=True)
class Finished:
    """A run to its end, the same command again, and what was asked in all."""

    run: Path
    command: list[str]
    said: Any
    untouched: bool
    asked: Counter[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("stories")
    run = folder / "run"
    with FAULT_SERVER.FaultServer(answer=partial(tells, run), share=0.1, faults=("500", "drop")) as server:
        command = ["distill", str(RECIPE), *small(folder, server.url)]
        said = stillhouse(*command)
        before = files_in(run)
        again = stillhouse(*command)
        untouched = again.code == 0 and files_in(run) == before
        yield Finished(run, command, said, untouched, server.answered)


def test_a_teacher_that_lacks_one_feature_is_asked_for_it_and_nothing_is_done_twice(finished):
    run, said = finished.run, finished.said
    assert said.code == 0, said.err
    assert finished.untouched
    first, *later = [
        read_lines(run / "data" / "rounds" / f"{n}.jsonl") for n in range(3) if (run / "rounds" / str(n)).exists()
    ]
    assert first and not [line for line in first if "dialogue" in line["lineage"]["features"]]
    assert len(later[0]) == 16
    assert all(line["lineage"]["features"] == ["dialogue"] and '"' in line["text"] for line in later[0])
    for line in [*first, *later[0]]:
        for kind, word in line["lineage"]["words"]:
            assert holds(words_of(line["text"]), word, WORLD["parts"][kind]["inflect"])
    assert set(finished.asked.values()) == {1}
    result = StoryResult.from_json(json.loads((run / "evaluation.json").read_text()))
    assert result.rounds[0].weak[0]["name"] == "dialogue" and result.rounds[1].cells == {"feature dialogue": 16}
    assert not [weak for weak in result.rounds[1].weak if weak["axis"] == "feature"]
    assert result.rounds[1].gain is not None and result.rounds[-1].stop
    assert result.of("student").copied.words >= 0
    student = load_causal_lm(str(run / "student"))
    size = sum(parameter.numel() for parameter in student.model.parameters())
    assert size == SIZES["1M"].parameters(len(student.tokenizer))
    page = (run / "report.html").read_text()
    assert all(word in page for word in ("Memorisation", "feature dialogue", "required_words", "tokens a second"))
    assert "round 1" in said.out and (run / "student" / "README.md").exists()


def test_a_judge_grades_every_writer_and_compares_in_both_orders(finished):
    result = StoryResult.from_json(json.loads((finished.run / "evaluation.json").read_text()))
    for one in result.writers:
        assert {name: grade.value for name, grade in one.grades.items()} == {
            "grammar": 7,
            "creativity": 3,
            "consistency": 5,
            "instructions": 6,
        }
        assert one.ungraded == 0
    assert result.comparison["prompts"] == 3 and result.comparison["losses"] == 3  # originals are longer
    page = (finished.run / "report.html").read_text()
    assert "Grades by tiny" in page and "3 losses" in page


def test_a_finished_run_can_be_looked_at_and_held_beside_others(finished, tmp_path, monkeypatch):
    seen = stillhouse("inspect", *finished.command[1:], "--examples", "2")
    assert seen.code == 0, seen.err
    assert "texts of the world tiny, in 300 tokens (trained)" in seen.out and "[[" in seen.out
    assert "first round: 40 asked for" in seen.out and "example 2: " in seen.out
    page = tmp_path / "both.html"
    assert stillhouse("report", finished.run, finished.run, "--out", page).code == 0
    assert "bits per byte" in page.read_text(encoding="utf-8")
    assert_refused_in_one_line(stillhouse("chat", finished.run), "behind an API", "--teacher")
    assert_refused(stillhouse("inspect", RECIPE, f"run={tmp_path / 'none'}", NO_TEACHER), "is not written yet")
    monkeypatch.setenv("PATH", str(tmp_path))
    parsed = stillhouse("distill", RECIPE, f"run={tmp_path / 'none'}", NO_TEACHER, "evaluation.grammar=link_grammar")
    assert_refused_in_one_line(parsed, "evaluation.grammar is link_grammar", "apt install link-grammar")
    assert not (tmp_path / "none").exists()


NO_TEACHER = 'teacher={"kind": "remote", "base_url": "http://127.0.0.1:1/v1", "model": "tiny", "key_env": null}'


def test_a_sweep_asks_the_teacher_once_for_what_all_runs_ask(finished, tmp_path):
    answered = sum(finished.asked.values())
    changes = [
        change for change in finished.command[2:] if not change.startswith(("run=", "rounds.most=", "evaluation."))
    ]
    little = ["rounds.most=0", "evaluation.completions=2", "evaluation.sampling.max_new_tokens=4"]
    command = ["sweep", RECIPE, "--grid", "training.epochs=0.5,1", "--out", tmp_path, *changes, *little]
    said = stillhouse(*command)
    assert said.code == 0, said.err
    lines = read_lines(tmp_path / "sweep.jsonl")
    assert [set(line["student"]) for line in lines] == [{"bits_per_byte"}] * 2
    assert 1.9 < lines[1]["tokens"] / lines[0]["tokens"] < 2.1
    runs = [tmp_path / "runs" / f"epochs={epochs}" for epochs in (0.5, 1)]
    texts = [(run / "data" / "rounds" / "0.jsonl").read_bytes() for run in runs]
    assert texts[0] == texts[1]
    asked = len(read_lines(runs[0] / "data" / "ledger.jsonl"))
    assert sum(finished.asked.values()) == answered + asked
    assert any(line["event"] == "borrowed" for line in read_lines(runs[1] / "events.jsonl"))


def test_a_run_killed_in_any_part_of_the_loop_ends_as_if_it_had_not_been(finished, tmp_path):
    run = tmp_path / "run"
    with FAULT_SERVER.FaultServer(answer=partial(tells, run)) as server:
        command = ["distill", str(RECIPE), *small(tmp_path, server.url)]
        for moment in ("the teacher writes", "the tokenizer is trained", "a round is learnt"):
            given = {"COMMAND": command, "MOMENT": moment}
            process = processes().Process(target=runpy.run_path, args=(str(DYING), given, "dying"))
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL, moment
        said = stillhouse(*command)
        assert said.code == 0, said.err
    for name in ("student/model.safetensors", "tokenizer/tokenizer.json", "data/rounds/0.jsonl", "data/rounds/1.jsonl"):
        assert (run / name).read_bytes() == (finished.run / name).read_bytes(), name
    assert len({line["key"] for line in read_lines(run / "data" / "ledger.jsonl")}) == len(
        read_lines(finished.run / "data" / "ledger.jsonl")
    )
    events = [(line["event"], line.get("stage")) for line in read_lines(run / "events.jsonl")]
    assert {stage for event, stage in events if event == "resumed"} == {"synthesize", "tokenizer", "train_1"}
    steps = [(line["arm"], line["step"]) for line in read_lines(run / "metrics.jsonl") if "arm" in line]
    assert set(Counter(steps).values()) == {1}
    assert not list(run.rglob("*.part"))


def of_own_teacher(folder: Path, teacher: Any, tokenizer: Any) -> dict[str, Any]:
    """What makes a run of seconds with a teacher of this process, whose logits are learnt."""
    for part in (teacher, tokenizer):
        part.save_pretrained(folder / "teacher")
    (folder / "tiny.yaml").write_text(json.dumps(WORLD), encoding="utf-8")
    return {
        "run": folder / "run",
        "teacher.model": folder / "teacher",
        "data.world": folder / "tiny.yaml",
        "data.number": 10,
        "data.held_out": 0.2,
        "data.sequence_tokens": 64,
        "data.filters": "[]",
        "data.instruct": 0,
        "data.sampling.max_new_tokens": 9,
        "tokenizer": "{kind: trimmed}",
        "student.embeddings": "teacher",
        "objectives": "[{name: forward_kl}]",
        "labels": "{signal: sparse, shard_tokens: 64}",
        "training.epochs": 1,
        "rounds": "{most: 1, number: 2, ask: random}",
        "evaluation.completions": 2,
        "evaluation.beginning_words": 1,
        "evaluation.sampling.max_new_tokens": 4,
    }


def test_a_student_begins_with_the_teachers_embeddings_and_learns_what_it_said_once(tmp_path, build_model, tokenizer):
    teacher = build_model("llama", layers=1, hidden=160, max_position_embeddings=512)
    changes = of_own_teacher(tmp_path, teacher, tokenizer)
    said = stillhouse("distill", RECIPE, *(f"{key}={value}" for key, value in changes.items()))
    assert said.code == 0, said.err
    run = tmp_path / "run"
    stages = RunFolder(run).stages()
    first, later = stages["label_0"], stages["label_1"]
    assert later["records"] > first["records"] and later["tokens"] > first["tokens"]
    assert read_manifest(run / "labels").records == later["records"]
    begun = load_causal_lm(str(run / "student_before")).model.get_input_embeddings().weight.detach()
    kept = json.loads((run / "tokenizer" / "kept.json").read_text())
    theirs = teacher.get_input_embeddings().weight.detach()[kept]
    products = [(rows - rows.mean(0)) @ (rows - rows.mean(0)).T for rows in (begun, theirs)]
    assert torch.corrcoef(torch.stack([one.flatten() for one in products]))[0, 1] > 0.9
    assert {line["forward_kl"] for line in read_lines(run / "metrics.jsonl") if "forward_kl" in line}
    shard = run / "labels" / read_manifest(run / "labels").shards[-1]  # of what the second round brought
    whole = shard.read_bytes()
    shard.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    shutil.rmtree(run / "student")
    again = stillhouse("train", run / "recipe.yaml")
    assert again.code == 0, again.err
    assert f"made again: {shard.name}" in again.err and shard.read_bytes() == whole
    assert read_manifest(run / "labels").records == later["records"]


def test_vllm_writes_the_likeliest_stories_too_and_ends_before_a_student_learns(tmp_path, build_model, tokenizer, vllm):
    values = of_own_teacher(tmp_path, build_model("llama", layers=1, max_position_embeddings=512), tokenizer)
    for read_of_the_teacher in ("student.embeddings", "labels"):
        del values[read_of_the_teacher]
    values |= {
        "tokenizer": "{kind: trained, size: 300}",
        "objectives": "[{name: next_token}]",
        "data.sampling.temperature": 0,
    }
    written = {}
    for engine in ("transformers", "vllm"):
        values |= {"teacher.engine": engine, "run": tmp_path / engine}
        said = stillhouse("train", RECIPE, *(f"{key}={value}" for key, value in values.items()))
        assert said.code == 0, said.err
        written[engine] = [file.read_text() for file in sorted((tmp_path / engine / "data" / "rounds").iterdir())]
        assert len(written[engine]) == 2 and all(written[engine])
    assert written["vllm"] == written["transformers"]
    assert len(vllm) == 2 and all(one.is_closed for one in vllm), "one a round: the student learns in between"


class HandsHere(RayHands):
    """Actors of this process: a teacher that is loaded when there is something to write, and anew behind `close`."""

    loads = 0

    def __call__(self, write: Any, batches: Any, *, advance: Any = unheard) -> Iterator[tuple[int, Any]]:
        if not self.loads:
            self.loaded, self.loads = self.load(), 1
        for number, batch in reversed(batches.items()):
            yield number, write(self.loaded.model, self.loaded.tokenizer, batch, advance)

    def close(self) -> None:
        self.loads = 0


def crew_here(_cluster: Cluster, load: Any, _progress: Progress) -> Alone:
    """Who stands for actors that label."""
    return Alone(load())


def test_actors_write_and_label_what_one_process_does_and_stay_over_rounds(
    tmp_path, build_model, tokenizer, monkeypatch
):
    values = of_own_teacher(tmp_path, build_model("llama", layers=1, max_position_embeddings=512), tokenizer)
    recipe = load_recipe(
        StoryRecipe, RECIPE, [f"{key}={value}" for key, value in {**values, "data.batch_size": 1}.items()]
    )
    pipelines = {name: StoryPipeline(recipe, RunFolder(tmp_path / name), SILENT) for name in ("alone", "many")}
    pipelines["many"].cluster = Cluster("local", 2)
    monkeypatch.setattr("stillhouse.commands.stories.pipeline.RayHands", HandsHere)
    monkeypatch.setattr("stillhouse.commands.stories.pipeline.RayCrew", crew_here)
    for name, pipeline in pipelines.items():
        (tmp_path / name).mkdir()
        for number in range(2):
            pipeline.write(number)
        if name == "many":
            hands = pipeline._actors
            assert hands.loads == 1 and "teacher" not in vars(pipeline)  # nobody else has loaded it
        pipeline.label(1)
    assert hands.loads == 0  # those who label have the room
    made = [
        file.relative_to(tmp_path / "alone")
        for folder in ("data/rounds", "labels", "tokenizer")
        for file in (tmp_path / "alone" / folder).iterdir()
    ]
    assert {"1.jsonl", "kept.json", "manifest.json"} <= {file.name for file in made}
    for file in [*made, Path("data/synthetic.jsonl")]:
        assert (tmp_path / "many" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes(), file
    again = StoryPipeline(recipe, RunFolder(tmp_path / "many"), SILENT)  # what actors have begun one process ends
    again.label(1)
    assert "teacher" not in vars(again)


def test_what_processes_or_actors_cannot_do_for_stories_is_refused_in_a_line(tmp_path):
    run = f"run={tmp_path / 'none'}"
    assert_refused_in_one_line(stillhouse("train", RECIPE, run, NO_TEACHER, "--ray", "local"), "its server shares")
    odd = stillhouse("train", RECIPE, run, NO_TEACHER, "training.rows_per_step=9", "--launch", "2")
    assert_refused_in_one_line(odd, "training.rows_per_step, which is 9", "multiple of 2")
    shared = stillhouse("train", RECIPE, run, NO_TEACHER, "--launch", "2", "--sharded-teacher")
    assert_refused_in_one_line(shared, "no process asks this one")
    assert not (tmp_path / "none").exists()


def recipe_of(**changes: Any) -> dict[str, Any]:
    base = {
        "run": "runs/x",
        "teacher": {"model": "x"},
        "data": {"kind": "stories", "number": 10},
        "student": {"size": "1M"},
    }
    return {**base, **changes}


REMOTE = {"kind": "remote", "base_url": "http://127.0.0.1:1/v1", "model": "x"}
REFUSED = {
    "a size that is not in the table": ({"student": {"size": "2M"}}, "student.size"),
    "logits in other tokens": ({"objectives": [{"name": "forward_kl"}]}, "tokenizer: {kind: trimmed}"),
    "a trimmed tokenizer of a server": ({"teacher": REMOTE, "tokenizer": {"kind": "trimmed"}}, "kind: trained"),
    "a vocabulary without room": (
        {"tokenizer": {"kind": "trained", "size": 200}},
        "tokenizer.trained.size|tokenizer.size",
    ),
    "a teacher of itself": ({"teacher": {"kind": "self"}}, "teacher.kind is self"),
    "features of hidden states": ({"objectives": [{"name": "hidden_mse"}]}, "hidden_mse"),
    "nothing to learn": ({"objectives": [{"name": "next_token", "weight": 0.0}]}, "every weight"),
    "completions that do not fit": (
        {"data": {"kind": "stories", "number": 10, "sequence_tokens": 64}},
        "evaluation.sampling.max_new_tokens",
    ),
    "embeddings of other tokens": (
        {"student": {"size": "1M", "embeddings": "teacher"}},
        "student.embeddings is teacher",
    ),
    "labels that nobody reads": ({"labels": {"signal": "sparse"}}, "no objective reads it. Leave labels out"),
    "what vLLM does not tell": (
        {
            "teacher": {"model": "x", "engine": "vllm"},
            "tokenizer": {"kind": "trimmed"},
            "objectives": [{"name": "forward_kl"}],
        },
        "teacher.engine is vllm.*Learn its texts",
    ),
    "labels elsewhere": (
        {
            "labels": {"signal": "sparse", "store": "s3://bucket/labels"},
            "tokenizer": {"kind": "trimmed"},
            "objectives": [{"name": "forward_kl"}],
        },
        "labels.store is an address",
    ),
    "labels that do not serve": (
        {
            "labels": {"signal": "sampled"},
            "tokenizer": {"kind": "trimmed"},
            "objectives": [{"name": "reverse_kl"}],
        },
        "reverse_kl",
    ),
    "an unknown key": ({"rounds": {"mots": 3}}, "most"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_recipe_that_cannot_work_is_refused_with_its_key(case):
    changes, said = REFUSED[case]
    with pytest.raises(RecipeError, match=said):
        parse_recipe(StoryRecipe, recipe_of(**changes))


def test_a_world_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    said = stillhouse("distill", RECIPE, "data.world=storries", f"run={tmp_path / 'run'}")
    assert_refused_in_one_line(said, "data.world", "storries")
    assert not (tmp_path / "run").exists()


def test_the_recipe_is_whole_and_its_prompts_can_be_seen_first(capsys):
    recipe = load_recipe(StoryRecipe, RECIPE)
    assert recipe.data.world == "beginnings" and not recipe.reads_teacher
    said = stillhouse("synthesize", RECIPE, "--dry-run")
    assert said.code == 0 and said.out.count("Write a short story") == 5 and "Nothing was asked" in said.out


def test_a_model_goes_on_from_the_first_words_as_they_are_written_or_from_an_instruction():
    world = load_world("stories")
    assert first_words("One  day,\na dog ran.", 3) == "One  day,\na"
    lineage = {"seed": "1", "words": [["noun", "dog"]], "features": [], "length": "short"}
    plain = Story("One day a dog ran.", json.dumps(lineage))
    told = Story(plain.text, json.dumps({**lineage, "instruct": True, "summary": "A dog runs."}))
    (one,), (other,) = (starts_of([story], world, words=2, seed=0) for story in (plain, told))
    assert (one.shown, one.original, one.is_instruction) == ("One day", " a dog ran.", False)
    assert other.is_instruction and other.original == told.text and other.shown.endswith("Story:\n")
    assert starts_of([plain], world, words=40, seed=0) == []
    wanted = SimpleNamespace(completions=4, beginning_words=40)
    recipe: Any = SimpleNamespace(evaluation=wanted, data=SimpleNamespace(seed=0))
    pipeline: Any = SimpleNamespace(recipe=recipe, held_out=[plain], world=world)
    with pytest.raises(DataError, match=r"evaluation\.beginning_words is 40, but no held-out text .* Lower it"):
        judged_starts(pipeline)
