"""How one begins: the shipped recipes, one made for one's own data, and whether it will run."""

import io
import subprocess

import pytest
import yaml
from packaging.requirements import Requirement

from stillhouse.cli import _parser
from stillhouse.commands import doctor, init, shipped
from stillhouse.commands.completion import script
from stillhouse.commands.estimate import Estimate, Shape, estimate
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import parse_recipe
from stillhouse.core.yaml_text import from_yaml, with_values

from .conftest import CHATS, assert_refused_in_one_line, stillhouse, write_rows

SMALL = Shape(layers=4, parameters=1_000_000, read_flops=2e6, layer_flops=4e5, most_tokens=512)


@pytest.fixture
def quick_look(monkeypatch) -> None:
    """A teacher's shape and a machine's speed without looking."""
    monkeypatch.setattr(init, "shape_of", lambda _source, _recipe: SMALL)
    monkeypatch.setattr(init, "matmul_speed", lambda: 1e9)
    monkeypatch.setattr(init, "check_exists", lambda _source: None)


def test_the_list_has_every_recipe_and_one_of_them_is_printed_as_it_is():
    listed, printed = stillhouse("recipes"), stillhouse("recipes", "chat")
    names = {path.stem for path in shipped.folder().glob("*.yaml")}
    assert {one.name for one in shipped.shipped()} == names
    assert all(f"\n{name} " in listed.out for name in names)
    assert "measured: 8 minutes alone on 2 cores" in " ".join(listed.out.split())
    assert printed.out == shipped.named("chat").path.read_text(encoding="utf-8")
    assert_refused_in_one_line(stillhouse("recipes", "chatt"), "Did you mean 'chat'?")


def test_a_recipe_is_found_by_its_name_where_no_such_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat = str(shipped.named("chat").path)
    assert shipped.found("chat") == shipped.found("recipes/chat.yaml") == chat
    assert shipped.found("mine.yaml") == "mine.yaml" and shipped.found("other/chat.yaml") == "other/chat.yaml"
    (tmp_path / "chat").mkdir()
    assert shipped.found("chat") == "chat"


def test_values_are_set_in_a_text_whose_every_other_byte_stays():
    text = "# who\nrun: a # where\nteacher: {model: b}\ndata:\n  # what\n  path: c\n"
    changed = with_values(text, {"run": "x: y", "teacher.k": "local", "data.path": None, "data.b": 0.5, "z": [1]})
    assert changed == (
        "# who\nrun: 'x: y' # where\nteacher: {model: b, k: local}\ndata:\n  # what\n  b: 0.5\n  path: null\n\nz: [1]\n"
    )
    assert yaml.safe_load(changed)["run"] == "x: y"


WAYS = [(have, out) for have, outs in init.CHOICES.items() for out in outs]


def test_every_choice_ends_in_a_recipe_with_the_comments_of_a_shipped_one(quick_look, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", CHATS * 40)
    for have, out in WAYS:
        wish = init.Wish(
            "teacher", have, out, 1e6, "" if have == "nothing" else str(data), str(data) if out == "retriever" else ""
        )
        text, _ = init.written(wish, tmp_path / "mine.yaml")
        values = from_yaml(text)
        assert values["run"] == "runs/mine"
        assert "teacher" in (values["teacher"].get("model"), values["student"].get("model"))
        assert have == "nothing" or str(data) in text
        assert "=PATH_OR_HUB_ID" not in text and f"recipes/{wish.recipe}.yaml" not in text
        kept = [line for line in shipped.named(wish.recipe).path.read_text().splitlines() if line.startswith("# ")]
        assert sum(line in text for line in kept) > len(kept) / 3, wish


def test_the_depth_is_half_the_teachers_and_the_time_is_what_was_given(quick_look, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", CHATS * 40)
    file = tmp_path / "mine.yaml"
    flags = ["--teacher", "t", "--have", "chats", "--data", data, "--out", "chat"]
    assert stillhouse("init", file, *flags, "--time", "1d").code == 0
    whole = from_yaml(file.read_text(encoding="utf-8"))
    assert whole["student"]["keep"] == 2 and whole["training"]["epochs"] == 2
    assert whole["data"]["sequence_tokens"] == 512  # the recipe says 1024, and this teacher reads no more
    assert_refused_in_one_line(stillhouse("init", file, *flags, "--time", "1d"), "is there already", "--force")
    assert_refused_in_one_line(
        stillhouse("init", file, *flags, "--time", "61s", "--force"), "is too short", "Give it more time"
    )
    assert stillhouse("init", file, *flags, "--time", "15m", "--force").code == 0
    part = from_yaml(file.read_text(encoding="utf-8"))
    assert 0.01 < part["training"]["epochs"] < 2
    assert "an estimate by counted operations" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--teacher is missing"]),
        (["--teacher", "https://x/v1"], ["behind an API", "stillhouse recipes remote"]),
        (["--teacher", "./none"], ["neither an existing folder"]),
        (["--teacher", "a/b", "--have", "chat"], ["--have chat", "Did you mean 'chats'?"]),
        (["--teacher", "a/b", "--have", "chats", "--data", "none.jsonl"], ["no such file"]),
        (["--teacher", "a/b", "--have", "nothing", "--data", "none.jsonl"], ["leave one of the two out"]),
        (["--teacher", "a/b", "--have", "nothing", "--out", "tags"], ["no such choice here"]),
        (["--teacher", "a/b", "--have", "nothing", "--out", "text", "--time", "soon"], ["30m or 2h"]),
    ],
)
def test_an_answer_that_is_none_is_refused(flags, words, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert_refused_in_one_line(stillhouse("init", tmp_path / "mine.yaml", *flags), *words)
    assert not (tmp_path / "mine.yaml").exists()


def test_an_estimate_grows_with_the_data_and_a_budget_is_turned_round(tmp_path):
    def told(rows: int) -> Estimate:
        data = write_rows(tmp_path / "rows.jsonl", CHATS * rows)
        values = from_yaml(shipped.named("chat").path.read_text(encoding="utf-8"))
        values = with_values(
            yaml.safe_dump(values, default_flow_style=True), {"data.path": str(data), "student.keep": 2}
        )
        found = estimate(parse_recipe(Recipe, from_yaml(values)), SMALL, speed=1e9)
        assert found is not None
        return found

    one, two = told(10), told(20)
    assert two.seconds_per_unit == pytest.approx(2 * one.seconds_per_unit)
    assert one.units_in(one.total(1.5)) == pytest.approx(1.5)
    assert one.units_in(1) == 0
    # Two models (the student and its control) learn each token at three times what reading costs.
    tokens = (tmp_path / "rows.jsonl").stat().st_size / 2 / 4 * 0.9
    assert one.seconds_per_unit == pytest.approx(tokens * 2 * 3 * (2e6 - 2 * 4e5) / (0.4 * 1e9))


def test_the_doctor_says_what_is_there_and_what_to_mend(recipe, monkeypatch, tmp_path):
    well = stillhouse("doctor", recipe())
    assert well.code == 0, well.out
    for about in ("libraries", "memory", "threads", "cache", "teacher", "tokenizer", "run"):
        assert f"{about} " in well.out
    ill = stillhouse("doctor", recipe({"teacher.model": str(tmp_path / "none")}))
    assert ill.code == 1 and "neither an existing folder" in ill.out and "1 to mend." in ill.out
    assert stillhouse("doctor", recipe(), "data.nonsense=1").code == 2


def test_the_doctor_knows_a_library_that_is_too_old_and_memory_that_is_too_little():
    assert doctor.library_fault(Requirement("torch>=1")) == ""
    assert "torch is" in doctor.library_fault(Requirement("torch>=999")) and "pip install" in doctor.library_fault(
        Requirement("torch>=999")
    )
    assert "no-such-library is missing" in doctor.library_fault(Requirement("no-such-library"))
    assert doctor.memory_line(1_000_000, 500_000, available=12_000_000).level == "ok"
    assert doctor.memory_line(1_000_000, 500_000, available=11_999_999).level == "fix"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_every_verb_and_every_recipe_is_completed(shell):
    written = script(_parser(), shell)
    for word in ("distill", "doctor", "prompt_distillation", *(["--have"] if shell != "tcsh" else [])):
        assert word in written
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=written, text=True, check=False).returncode == 0
