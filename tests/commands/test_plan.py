"""What a run will take: by shapes, by a rehearsal, and by how much that was wrong."""

import json

import pytest
import torch
from apart import AT_LENGTH

from stillhouse.commands.means import Means
from stillhouse.commands.plan.clock import Clock, few_steps
from stillhouse.commands.plan.excerpt import excerpt, spread
from stillhouse.commands.plan.forecast import Size, seconds_of, size_of
from stillhouse.commands.plan.plan import changes_that_fit, with_override
from stillhouse.commands.plan.rehearsal import Rehearsed
from stillhouse.commands.plan.saved import VERSION, SavedPlan, errors_of, recipe_hash, save
from stillhouse.commands.plan.shapes import memory_of, savings_of
from stillhouse.commands.plan.spread import check_plannable, memory_by
from stillhouse.commands.plan.story_model import planned as story_planned
from stillhouse.commands.plan.story_rehearsal import Amount as StoryAmount
from stillhouse.commands.plan.story_rehearsal import Rehearsed as StoryRehearsed
from stillhouse.commands.plan.story_rehearsal import rehearse as rehearse_stories
from stillhouse.commands.plan.story_rehearsal import seconds_of as story_seconds
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.core.config import load_recipe, parse_recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import append_line
from stillhouse.core.progress import Silent
from stillhouse.core.run import RunFolder
from stillhouse.models.footprint import saved_bytes
from stillhouse.models.load import untrained
from stillhouse.reporting.plans import off, plan_lines, plan_view

from .conftest import assert_refused_in_one_line, recipe_values, stillhouse

TRAINING = {
    "stage": "train",
    "title": "student learns",
    "total": 10,
    "unit": "steps",
    "seconds": 25.0,
    "unit_seconds": 2.0,
    "tail_seconds": 3.0,
}
LABELLING = {
    **TRAINING,
    "stage": "label",
    "title": "the teacher labels",
    "total": 500,
    "unit": "tokens",
    "seconds": 5.0,
}
JUDGING = {**TRAINING, "stage": "evaluate", "title": "predicting held-out text", "unit": "documents", "seconds": 4.0}
TIMING = {**JUDGING, "title": "timing", "seconds": 6.0}
FOUND = Rehearsed(
    works=[TRAINING, LABELLING, JUDGING, TIMING],
    stages={"train": 27.0, "label": 6.0, "evaluate": 11.0},
    rows=8,
    documents=20,
    held_out=4,
    tokens=500,
    longest=64,
    micro_batches=1,
    one_layer_seconds=0.1,
    all_layers_seconds=0.4,
    label_bytes=100.0,
    peak_bytes=2**30,
)


@pytest.fixture(scope="module")
def planned(teacher_folder):
    """The tiny recipe, over a file."""
    values = recipe_values(teacher_folder, {"run": "runs/x", "synthesis": None, "data": {"path": "texts.jsonl"}})
    return parse_recipe(Recipe, values)


def test_what_grows_with_the_data_is_counted_on_and_the_rest_stays(planned):
    recipe = planned.model_copy(
        update={"training": planned.training.model_copy(update={"save_every_steps": 40, "epochs": 2.0})}
    )
    size = size_of(recipe, documents=200, rows=80, held_out=12, tokens=5000, longest=64)
    assert size == Size(200, 80, 12, 5000, 64, steps=80)
    seconds = seconds_of(recipe, FOUND, size, teacher_layers=4)
    micro_batches = recipe.training.rows_per_step // recipe.training.rows_per_micro_batch
    # 80 steps, each of two micro-batches; two times saved; two seconds before the first and two around the work.
    assert seconds["train"] == pytest.approx(80 * micro_batches * 2 + 2 * 3 + 2 + 2)
    assert seconds["label"] == pytest.approx(5 * 10 + 1)
    assert seconds["evaluate"] == pytest.approx(4 * 3 + 6 + 1)
    # From four layers to two: five trials with three left of four, five with two, and twice the student.
    assert seconds["student"] == pytest.approx(5 * 0.3 + 5 * 0.2 + 3 * 0.2)


def test_a_clock_tells_a_unit_from_what_comes_before_and_after_it(monkeypatch):
    times = iter([0.0, 5.0, 7.0, 9.0, 12.0])
    monkeypatch.setattr("stillhouse.commands.plan.clock.time.perf_counter", lambda: next(times))
    clock = Clock()
    clock.stage("train")
    clock.start("it learns", 3, "steps")
    for _ in range(3):
        clock.advance()
    clock.finish()
    (work,) = clock.works
    assert (work.stage, work.total, work.seconds, work.unit_seconds, work.tail_seconds) == ("train", 3, 12.0, 2.0, 3.0)


def test_what_pieces_within_a_piece_take_is_counted_once(monkeypatch):
    times = iter([0.0, 1.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr("stillhouse.commands.plan.clock.time.perf_counter", lambda: next(times))
    clock = Clock()
    clock.start("questions are searched for", 2, "questions")
    clock.start("the teacher scores", 8, "pairs")
    clock.finish()
    clock.advance(2)
    clock.finish()
    assert [work.seconds for work in clock.works] == [3.0, 3.0]


def test_a_short_training_is_rehearsed_with_fewer_steps():
    assert [few_steps(whole) for whole in (1, 20, 35, 50, 10**6)] == [3, 4, 7, 10, 10]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_activations_are_those_that_a_real_model_keeps(build_model, family):
    model = build_model(family, layers=3)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    ids = torch.arange(4 * 96).reshape(4, 96) % 300
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train().base_model(input_ids=ids, use_cache=False)
    real = sum(size for pointer, (_, size) in kept.items() if pointer not in weights)
    with torch.device("meta"):
        shape = untrained(model.config, "causal_lm", dtype=torch.float32)
    assert saved_bytes(shape, rows=4, row_tokens=96) == pytest.approx(real, rel=0.2)
    assert saved_bytes(shape, rows=8, row_tokens=96) == pytest.approx(
        2 * saved_bytes(shape, rows=4, row_tokens=96), rel=0.05
    )


def test_memory_is_told_part_by_part_and_an_adapter_has_little_to_learn(planned):
    whole = memory_of(planned, num_controls=1, program=0)
    parameters = whole.parts["student's weights"]
    assert parameters == whole.parts["gradients"] == whole.parts["optimizer"] // 2
    assert whole.parts["controls and start"] == 2 * parameters
    assert whole.most == max(whole.at("training"), whole.at("measuring"))
    again = memory_of(with_override(planned, "training.gradient_checkpointing=true"), num_controls=1, program=0)
    assert again.parts["activations"] < whole.parts["activations"]
    assert {**again.parts, "activations": 0} == {**whole.parts, "activations": 0}
    adapted = memory_of(with_override(planned, "student.lora={rank: 2}"), num_controls=1, program=0)
    assert adapted.parts["optimizer"] < whole.parts["optimizer"] / 2
    assert adapted.parts["student's weights"] > parameters


@pytest.mark.parametrize("has_gpus", [False, True])
def test_processes_share_what_is_shared_and_have_the_rest_each(planned, monkeypatch, has_gpus):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpus)
    copies, place = (1, "in each process") if has_gpus else (2, "in 2 processes")
    rows = planned.training.model_copy(update={"rows_per_step": 8, "rows_per_micro_batch": 8})
    at_once = planned.model_copy(update={"training": rows})

    def by(**means):
        return memory_by(at_once, Means(num_ranks=2, **means), num_controls=1, program=1000)

    alone, whole, sharded = memory_by(at_once, Means(), num_controls=1, program=1000), by(), by(held="sharded")
    assert alone == memory_of(at_once, num_controls=1, program=1000)
    for name in ("teacher's weights", "student's weights", "gradients", "optimizer", "the loss"):
        assert whole.parts[f"{name}, {place}"] == copies * alone.parts[name]
    # Each has half of the rows.
    assert whole.parts[f"activations, {place}"] == pytest.approx(copies * alone.parts["activations"] / 2, rel=0.1)
    for name in ("student's weights", "gradients", "optimizer"):
        assert sharded.parts[f"{name}, {place}"] == copies * (alone.parts[name] // 2)
    assert 0 < sharded.parts[f"gathered weights, {place}"] <= 2 * copies * alone.parts["student's weights"]
    assert sharded.parts[f"whole models, {place}"] == copies * (
        1000 + alone.parts["teacher's weights"] + alone.parts["student's weights"]
    )
    assert "loading" in sharded.moments and "loading" not in whole.moments
    assert whole.at("measuring") == alone.at("measuring")
    both = by(held="sharded", teacher_held="sharded")
    assert both.parts[f"teacher's weights, {place}"] == copies * (alone.parts["teacher's weights"] // 2)
    assert by(teacher_held="on_ray", ray="auto").parts[f"teacher's weights, {place}"] == 0


def test_actors_on_this_machine_take_of_its_memory_and_those_elsewhere_of_its_time(planned, monkeypatch):
    here, elsewhere = Means(ray="local", actors=3), Means(ray="host:6379", actors=3)
    alone = memory_of(planned, num_controls=1, program=1000)
    found = memory_by(planned, here, num_controls=1, program=1000)
    assert found.parts["3 actors with the teacher"] == 3 * (1000 + alone.parts["teacher's weights"])
    assert memory_by(planned, elsewhere, num_controls=1, program=1000) == alone
    size = size_of(planned, documents=200, rows=80, held_out=12, tokens=5000, longest=64)
    once, shared, thirds = (
        seconds_of(planned, FOUND, size, means, teacher_layers=4) for means in (Means(), here, elsewhere)
    )
    assert shared == once, "they share one processor"
    assert thirds["label"] == pytest.approx(5 * 10 / 3 + 1)
    assert {**thirds, "label": 0} == {**once, "label": 0}
    check_plannable(elsewhere)
    with pytest.raises(StillhouseError, match=r"--ray auto.*--actors N"):
        check_plannable(Means(ray="auto"))


def test_a_teacher_that_vllm_runs_is_there_before_the_student_learns(planned):
    hosted = planned.model_copy(update={"teacher": planned.teacher.model_copy(update={"engine": "vllm"})})
    alone, found = (memory_by(one, Means(), num_controls=1, program=1000) for one in (planned, hosted))
    weights = alone.parts["teacher's weights"]
    assert found.parts["teacher in vLLM"] > weights, "keys and values have room beside it"
    assert found.at("labelling and writing") == 1000 + found.parts["teacher in vLLM"]
    assert {**found.parts, "teacher in vLLM": 0} == {**alone.parts, "teacher in vLLM": 0}
    halves = hosted.model_copy(update={"teacher": hosted.teacher.model_copy(update={"precision": "bfloat16"})})
    few = memory_by(halves, Means(), num_controls=1, program=1000).parts["teacher in vLLM"]
    assert few == found.parts["teacher in vLLM"] // 2
    launched = memory_by(hosted, Means(num_ranks=2), num_controls=1, program=1000)
    assert launched.at("labelling and writing") == found.at("labelling and writing")
    spread = memory_by(hosted, Means(ray="local", actors=2), num_controls=1, program=1000)
    assert spread.at("labelling and writing") == 1000 + 2 * (1000 + found.parts["teacher in vLLM"])


def test_where_processes_do_not_fit_shared_weights_are_named(recipe, texts_file, no_model):
    path = recipe(
        {
            "synthesis": None,
            "labels": None,
            "data": {"path": str(texts_file), "sequence_tokens": 64},
            "training.rows_per_step": 8,
        }
    )
    options = ("plan", path, "--no-rehearsal", "--launch", "2")
    said = stillhouse(*options, "--memory", "0.001")
    assert said.code == 0, said.err
    assert "gradients, in 2 processes" in said.out and "\n  --sharded " in said.out
    assert "gathered weights, in 2 processes" in stillhouse(*options, "--sharded").out
    assert_refused_in_one_line(stillhouse(*options[:-1], "3"), "--launch 3", "multiple of 3")
    assert_refused_in_one_line(stillhouse("plan", path, "--sharded"), "--launch N")


def test_plans_of_other_kinds_are_for_one_process(teacher_folder):
    with pytest.raises(StillhouseError, match=r"data\.kind is 'stories'.*--launch 2 --sharded"):
        story_planned(
            story_recipe(teacher_folder),
            means=Means(num_ranks=2, held="sharded"),
            rehearsal=False,
            room=2**40,
            progress=Silent(),
        )


def test_changes_make_it_fit_and_where_none_does_those_that_help_come_together(planned):
    def needs(recipe):
        return memory_of(recipe, num_controls=1, program=0).at("training")

    long = with_override(with_override(planned, "data.sequence_tokens=512"), "training.rows_per_step=8")
    long = with_override(long, "training.rows_per_micro_batch=8")
    before, room = needs(long), needs(with_override(long, "training.rows_per_micro_batch=2"))
    found = changes_that_fit(long, savings_of(long), room=room, needs=needs)
    assert found and all(change.memory <= room for change in found)
    assert found[0].overrides == ("training.rows_per_micro_batch=2",)
    for change in found:
        assert needs(with_override(long, change.overrides[0])) == change.memory
    (nearest,) = changes_that_fit(long, savings_of(long), room=1, needs=needs)
    assert len(nearest.overrides) > 1 and 1 < nearest.memory < before


def test_an_excerpt_is_spread_over_the_file_and_reads_as_it_does(tmp_path):
    assert spread(list("abcdefghij"), 3) == ["a", "d", "g"]
    assert spread(["a"], 3) == ["a"]
    (tmp_path / "rows.csv").write_text("text,label\none,x\ntwo,y\nthree,x\nfour,y\n")
    (tmp_path / "out").mkdir()
    lines = excerpt(tmp_path / "rows.csv", tmp_path / "out", rows=2).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "one", "label": "x"}, {"text": "three", "label": "x"}]
    (tmp_path / "texts.txt").write_text("one\n<|endoftext|>\ntwo\nlines\n<|endoftext|>\nthree\n")
    assert excerpt(tmp_path / "texts.txt", tmp_path / "out", rows=2).read_text() == "one\n<|endoftext|>\ntwo\nlines"


def test_a_plan_is_held_against_what_the_stages_took_and_another_recipes_is_not(planned, tmp_path):
    recipe = planned.model_copy(update={"run": tmp_path / "run"})
    plan = SavedPlan(VERSION, recipe_hash(recipe), {"label": 10.0, "train": 90.0, "student": 4.0}, 2**30, 0)
    save(plan, recipe.run)
    run = RunFolder(recipe.run)
    with run.open(recipe):  # a plan is nothing strange in a folder
        run.stage("label", made_from="", work=dict)
        run.stage("train", made_from="", work=dict)
    for name, changes in {"label": {"seconds": 20.0}, "train": {"seconds": 60.0, "resumed": True}}.items():
        file = run.path / "stages" / f"{name}.json"
        record = {**json.loads(file.read_text()), **changes}
        append_line(run.path / "events.jsonl", {"event": "finished", "stage": name, "processor_seconds": 8.0})
        file.write_text(json.dumps({name: value for name, value in record.items() if name != "check"}))
    errors = errors_of(run, recipe)
    assert errors is not None and errors.seconds is not None and errors.memory is not None
    assert (errors.seconds.share, errors.left_out) == (-0.5, ("train",))
    assert errors.memory.taken > 0
    lines = plan_lines(errors.to_dict())
    assert lines[0] == "time: planned 10 s, taken 20 s (−50 %)"
    # Eight seconds of a processor in twenty: ten of a whole one would have been too much.
    assert lines[1] == "given 100 % of a processor while planned and 40 % while run: at equal shares +25 %"
    view = plan_view(errors.to_dict())
    assert view is not None and "at equal shares" in view.notes[0] and "train" in view.notes[1]
    assert errors_of(run, with_override(recipe, "training.epochs=7")) is None
    assert plan_view(None) is None
    assert [off({"planned": planned, "taken": 200.0}) for planned in (199.6, 201.0, 190.0)] == ["0 %", "0 %", "−5 %"]


def test_a_rehearsal_tells_the_time_and_leaves_only_the_plan(recipe, texts_file, tmp_path):
    path = recipe({"synthesis": None, "data": {"path": str(texts_file), "sequence_tokens": 64, "held_out": 0.25}})
    said = stillhouse("plan", path, "--price-per-hour", "2", "evaluation.control=none")
    assert said.code == 0, said.err
    for words in ("documents to learn from", "about", "at 2 an hour", "activations", "labels", "train", "it fits"):
        assert words in said.out
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert set(plan["seconds"]) >= {"label", "student", "train", "evaluate"}
    assert plan["memory"] > 2**27
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["recipe.yaml", "run"]
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["plan.json"]


@AT_LENGTH
def test_several_processes_are_rehearsed_as_such_and_held_against_a_run_by_as_many(recipe, texts_file, tmp_path):
    path = recipe(
        {
            "synthesis": None,
            "labels": None,
            "data": {"path": str(texts_file), "sequence_tokens": 64, "held_out": 0.25},
            "training.rows_per_step": 4,
            "training.rows_per_micro_batch": 2,
            "evaluation.control": "none",
        }
    )
    said = stillhouse("plan", path, "--launch", "2")
    assert said.code == 0, said.err
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["num_ranks"] == 2 and plan["memory"] > 3 * 2**27, "two processes, and the first"
    assert (done := stillhouse("distill", path, "--launch", "2")).code == 0, done.err
    assert "time: planned" in done.out and "memory: planned" in done.out
    values = load_recipe(Recipe, path)
    found = errors_of(RunFolder(values.run), values)
    assert "train" in found.stages and found.memory.taken > 3 * 2**27


def test_without_a_rehearsal_and_on_a_small_machine_shapes_alone_tell(recipe, texts_file, no_model):
    path = recipe({"synthesis": None, "data": {"path": str(texts_file), "sequence_tokens": 64}})
    said = stillhouse("plan", path, "--no-rehearsal", "--memory", "0.001")
    assert said.code == 0, said.err
    assert "by counted operations" in said.out and "it does not fit" in said.out and "together:" in said.out
    for option, value in (("--memory", "0"), ("--price-per-hour", "-1")):
        assert_refused_in_one_line(stillhouse("plan", path, "--no-rehearsal", option, value), option, "above 0")


STORIES = {
    "run": "runs/x",
    "data": {
        "kind": "stories",
        "world": "beginnings",
        "number": 400,
        "held_out": 0.1,
        "sequence_tokens": 64,
        "batch_size": 8,
        "sampling": {"max_new_tokens": 16},
        "filters": [],
    },
    "tokenizer": {"kind": "trained", "size": 300},
    "student": {"size": "1M"},
    "training": {"epochs": 2, "rows_per_step": 4, "rows_per_micro_batch": 2},
    "rounds": {"most": 2, "number": 100},
    "evaluation": {"completions": 20, "sampling": {"max_new_tokens": 8}},
}


def story_recipe(model, **changes):
    return parse_recipe(StoryRecipe, {**STORIES, "teacher": {"kind": "local", "model": str(model)}, **changes})


def test_every_round_of_stories_is_counted_and_learns_from_all_texts_before_it(teacher_folder):
    def piece(stage, title, total, unit, seconds):
        steps = {"unit_seconds": 1.0, "tail_seconds": 0.0}
        return {"stage": stage, "title": title, "total": total, "unit": unit, "seconds": seconds, **steps}

    found = StoryRehearsed(
        works=[
            piece("synthesize", "the teacher writes: story, round 0", 8, "texts", 16.0),
            piece("train_0", "the student learns, round 0", 10, "steps", 10.0),
            piece("look_0", "held-out texts are predicted", 2, "texts", 1.0),
            piece("evaluate", "the student goes on", 2, "texts", 3.0),
            piece("evaluate", "the teacher reads", 2, "texts", 2.0),
        ],
        stages={"synthesize": 20.0, "train_0": 11.0, "look_0": 1.0, "evaluate": 6.0},
        peak_bytes=2**30,
        asked=8,
        kept=4,
        learnt=2,
        held_out=2,
        tokens=100,
        rows=2,
        completions=2,
    )
    amount = StoryAmount(story_recipe(teacher_folder), found)
    assert (amount.held_out, amount.completions) == (20, 20)
    assert [amount.learnt(number) for number in range(3)] == [180, 230, 280]
    assert [amount.steps(number) for number in range(3)] == [2 * 45, 116, 2 * 70]
    seconds = story_seconds(amount)
    # 50 batches of 8 in the place of one, and 13 of them, the last half full; what is done before the first is done once.
    assert seconds["synthesize"] == pytest.approx(16 * 50 + 4)
    assert seconds["synthesize_2"] == pytest.approx(16 * (100 + 8 * 13) / 16)
    assert seconds["train_0"] == pytest.approx(90 * 2 + 1)  # a step is of two micro-batches
    assert seconds["look_1"] == pytest.approx(1 * 10)
    # Two students, in two batches each; the teacher reads three texts a beginning in the place of two.
    assert seconds["evaluate"] == pytest.approx(3 * 2 * 2 + 2 * 10 * 3 / 2 + 1)
    assert (
        story_seconds(StoryAmount(story_recipe(teacher_folder, rounds={"most": 0}), found)).keys()
        == found.stages.keys()
    )


def test_stories_are_rehearsed_in_one_batch_and_planned_without_it_by_shapes(teacher_folder, tmp_path):
    recipe = story_recipe(teacher_folder, run=str(tmp_path / "run"))
    found = rehearse_stories(recipe, tmp_path)
    assert (found.asked, found.kept) == (8, 8) and found.learnt == found.held_out == 4
    assert {"synthesize", "tokenizer", "train_0", "look_0", "evaluate", "report"} <= found.stages.keys()
    assert {work["title"] for work in found.works} >= {"the teacher reads", "the student goes on"}
    plan = story_planned(recipe, rehearsal=False, room=1, progress=Silent())
    assert plan.amount[0] == "400 texts to write, and up to 200 more in later rounds"
    assert plan.peak == plan.memory.most and plan.changes and not plan.seconds
    remote = story_recipe(
        "", teacher={"kind": "remote", "base_url": "http://localhost:1", "model": "x", "key_env": None}
    )
    with pytest.raises(StillhouseError, match="each request costs money"):
        story_planned(remote, rehearsal=True, room=10**12, progress=Silent())
