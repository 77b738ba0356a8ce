"""The run folder: whose it is, what is done in it, and in which order."""

import json
import os
import subprocess
import sys
import time

import pytest
from pydantic import PositiveInt

from stillhouse.core.config import Config
from stillhouse.core.errors import RunError, StaleError
from stillhouse.core.run import RunFolder


class Recipe(Config):
    run: str = "here"
    plates: PositiveInt = 4
    herb: str = "mint"


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def contents(run: RunFolder) -> set[str]:
    return {path.name for path in run.path.iterdir()}


def test_a_folder_is_made_with_the_resolved_recipe_in_it(run):
    with run.open(Recipe(herb="sage")):
        assert contents(run) == {"recipe.yaml", ".lock"}
    assert run.recipe.read_text() == "run: here\nplates: 4\nherb: sage\n"


def test_the_same_recipe_enters_again(run):
    for _ in range(2):
        with run.open(Recipe()):
            pass


def test_a_folder_that_was_moved_is_the_same_run(run, tmp_path):
    with run.open(Recipe(run="here")):
        pass
    moved = RunFolder(run.path.rename(tmp_path / "there"))
    with moved.open(Recipe(run="there")):
        pass


def test_another_recipe_is_refused_and_the_differing_keys_named(run):
    with run.open(Recipe()):
        run.event("started")
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    message = r"was made by another recipe \(plates: 4 became 5; herb: 'mint' became 'sage'\).* run=FOLDER, or remove"
    with pytest.raises(RunError, match=message), run.open(Recipe(plates=5, herb="sage")):
        pytest.fail("entered")
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


@pytest.mark.parametrize("text", ["plate: 4\n", "plates: many\n", "plates: [\n", ""])
def test_a_folder_whose_recipe_this_version_cannot_read_is_refused(run, text):
    with run.open(Recipe()):
        pass
    run.recipe.write_text(text)
    with pytest.raises(RunError, match="is not a recipe of this version"), run.open(Recipe()):
        pytest.fail("entered")
    assert run.recipe.read_text() == text


def test_a_folder_with_somebody_elses_files_is_refused_and_left_alone(run):
    (run.path / "student").mkdir(parents=True)
    with pytest.raises(RunError, match=r"is not empty \(it has 'student'\) and no run made it"), run.open(Recipe()):
        pytest.fail("entered")
    assert contents(run) == {"student"}


@pytest.mark.parametrize("leftover", [[], [".lock"], [".lock", "recipe.yaml.part"]])
def test_an_empty_folder_or_one_where_a_run_was_killed_at_once_is_entered(run, leftover):
    run.path.mkdir()
    for name in leftover:
        (run.path / name).touch()
    with run.open(Recipe()):
        assert contents(run) == {"recipe.yaml", ".lock"}


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_the_place_of_the_folder_is_refused(run, inside):
    run.path.write_text("mine")
    folder = RunFolder(run.path / "run") if inside else run
    with pytest.raises(RunError, match="cannot be a folder: a file is in its place"), folder.open(Recipe()):
        pytest.fail("entered")
    assert run.path.read_text() == "mine"


HOLD = """
import sys, pathlib, time
sys.path[:0] = {path!r}
from stillhouse.core.run import RunFolder
from stillhouse.core.config import Config
class Recipe(Config):
    run: str = "here"
    plates: int = 4
    herb: str = "mint"
with RunFolder(pathlib.Path({folder!r})).open(Recipe()):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_kept_out_until_the_first_one_is_gone(run):
    script = HOLD.format(path=sys.path, folder=str(run.path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"inside\n"
            with pytest.raises(RunError, match="is in use by another stillhouse process"), run.open(Recipe()):
                pytest.fail("entered")
        finally:
            other.kill()
    with run.open(Recipe()):
        pass


def test_a_folder_is_free_again_when_its_block_ends_by_an_error(run):
    with pytest.raises(ZeroDivisionError), run.open(Recipe()):
        raise ZeroDivisionError
    with run.open(Recipe()):
        pass


class Work:
    """A stage's work that counts how often it is done."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.times = run, 0

    def __call__(self) -> dict[str, int]:
        self.times += 1
        (self.run.path / "product").touch()
        return {"times": self.times}


@pytest.fixture
def work(run):
    run.path.mkdir()
    return Work(run)


def events(run: RunFolder) -> list[tuple[str, str]]:
    lines = (run.path / "events.jsonl").read_text().splitlines()
    return [(line["event"], line["stage"]) for line in map(json.loads, lines)]


def test_a_stage_is_done_once_and_its_outcome_kept(run, work):
    first = run.stage("mash", made_from="malt", work=work)
    assert run.stage("mash", made_from="malt", work=work) == first
    assert (work.times, first["times"], first["resumed"]) == (1, 1, False)
    assert events(run) == [("started", "mash"), ("finished", "mash")]


def test_a_finished_stage_made_from_something_else_is_refused(run, work):
    run.stage("mash", made_from="malt", work=work)
    with pytest.raises(StaleError, match="the stage 'mash' in .* was made from something else"):
        run.stage("mash", made_from="rye", work=work)
    assert work.times == 1


def test_a_stage_that_something_else_is_asked_of_is_done_again(run, work):
    run.stage("taste", made_from="malt", work=work, asked="sweet")
    assert run.stage("taste", made_from="malt", work=work, asked="sour")["times"] == 2
    assert run.stage("taste", made_from="malt", work=work, asked="sour")["times"] == 2
    with pytest.raises(StaleError):
        run.stage("taste", made_from="rye", work=work, asked="sweet")


def test_a_stage_begun_from_something_else_is_refused_too_for_its_parts_would_mix(run, work):
    def killed() -> dict[str, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("mash", made_from="malt", work=killed)
    with pytest.raises(StaleError, match="the stage 'mash'"):
        run.stage("mash", made_from="rye", work=work)
    assert run.stage("mash", made_from="malt", work=work)["resumed"]
    assert events(run) == [("started", "mash"), ("resumed", "mash"), ("finished", "mash")]


def test_a_stage_is_done_again_where_its_product_has_gone(run, work):
    product = run.path / "product"
    run.stage("mash", made_from="malt", work=work, makes=[product])
    assert run.is_done("mash", makes=[product])
    product.unlink()
    assert not run.is_done("mash", makes=[product])
    assert run.stage("mash", made_from="malt", work=work, makes=[product])["times"] == 2
    assert product.exists()
    product.unlink()
    with pytest.raises(StaleError):
        run.stage("mash", made_from="rye", work=work, makes=[product])


def test_a_forgotten_stage_is_done_again(run, work):
    run.stage("mash", made_from="malt", work=work)
    run.forget("mash")
    assert not run.is_done("mash")
    assert run.stage("mash", made_from="malt", work=work)["times"] == 2


def test_stages_come_in_the_order_in_which_they_ended(run, work):
    for name in ("mash", "boil", "age"):
        run.stage(name, made_from="malt", work=work)
        time.sleep(0.002)  # a file system's clock may tick that slowly
    os.utime(run.path / "stages" / "boil.started")
    assert list(run.stages()) == ["mash", "boil", "age"]
    assert run.stages()["boil"]["times"] == 2


def test_events_are_in_order_and_timed(run, work):
    run.stage("mash", made_from="malt", work=work)
    run.event("warned", about="foam")
    lines = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "finished", "warned"]
    assert lines[2]["about"] == "foam"
    times = [line["time"] for line in lines]
    assert times == sorted(times)


def test_what_is_logged_is_read_back(run):
    run.path.mkdir()
    run.log(step=1, loss=0.5)
    run.log(step=2, loss=float("inf"))
    assert run.metric_lines() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("inf")}]
