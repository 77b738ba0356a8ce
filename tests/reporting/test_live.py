import io
import json

import pytest
from rich.console import Console

from stillhouse.core.following import Follower
from stillhouse.core.life import Kept
from stillhouse.core.memory import Memory
from stillhouse.core.progress import working
from stillhouse.core.run import RunFolder
from stillhouse.reporting.live import live_view, sparkline
from stillhouse.reporting.terminal import LiveProgress


def learn(run, *, steps=range(1, 41)):
    for step in steps:
        run.log(
            arm="student", step=step, tokens=64.0 * step, forward_kl=9.0 / step, loss=10.0 / step, learning_rate=1e-5
        )


def shown(renderable, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [50, 100])
def test_the_view_shows_terms_speed_alarms_and_both_sides_at_any_width(tmp_path, width):
    run = RunFolder(tmp_path)
    learn(run)
    run.event("alarm", step=7, alarm="answers_grow", says="answers \x1b[31m grow")
    for who, answer in (("teacher", "It is four. " * 40), ("student", "Perhaps \x1b[2J five.")):
        with (tmp_path / "held_out_answers.jsonl").open("a") as file:
            file.write(json.dumps({"who": who, "step": 20, "asked": "What is 2 + 2?", "answer": answer}) + "\n")
    known = Follower(tmp_path).look()
    text = shown(live_view(known, Memory(2_000_000_000, 3_000_000_000), width=width), width)
    for words in ("forward KL", "total loss", "1.0e-5".replace(".0", ""), "2,560 tokens", "2.00 GB", "alarm in step 7"):
        assert words in text
    for words in ("What is 2 + 2?", "teacher", "student, step 20", "It is four.", "five.", "..."):
        assert words in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("█" in text) == (width > 72)


def test_a_sparkline_shows_the_course_also_behind_a_few_high_values():
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert sparkline([3.0] * 5) == "▁" * 5
    assert len(sparkline(list(range(1000)))) <= 32
    assert sparkline([1000.0, *range(20)])[1:] != "▁" * 20
    assert sparkline([]) == ""


def test_the_live_view_follows_the_run_only_while_steps_come_and_leaves_the_terminal_clean(tmp_path):
    run, stream = RunFolder(tmp_path), io.StringIO()
    learn(run, steps=range(1, 3))  # an earlier process's
    progress = LiveProgress(Console(file=stream, force_terminal=True, width=100, highlight=False))
    kept = Kept(progress, tmp_path)
    with pytest.raises(KeyboardInterrupt), kept:
        with working(kept, "labelling", 3, "shards"):
            assert "forward KL" not in shown(progress._view(), 100)
        with working(kept, "student learns", 40, "steps"):
            learn(run, steps=range(3, 9))
            assert "forward KL" in shown(progress._view(), 100)
            raise KeyboardInterrupt
    assert stream.getvalue().rstrip().endswith("\x1b[0m") and "\x1b[?25h" in stream.getvalue()
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")
