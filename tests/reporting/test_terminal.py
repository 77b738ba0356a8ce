import io
import subprocess
import sys

import pytest
from rich.console import Console

from stillhouse.core.progress import working
from stillhouse.reporting.terminal import LiveProgress, PlainProgress, results_table, terminal_progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def write_documents(progress, *, total=100, clock=None):
    progress.stage("synthesize", "the teacher writes")
    with working(progress, "writing", total, "documents"):
        for _ in range(total):
            if clock:
                clock.seconds += 1
            progress.advance(note="loss \x1b[31m1.23")
    progress.say("kept [bold]96[/bold] of 100")


def test_a_stream_that_is_no_terminal_gets_plain_lines_without_control_codes():
    stream = io.StringIO()
    progress = terminal_progress(stream)
    assert isinstance(progress, PlainProgress)
    write_documents(progress)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1] synthesize: the teacher writes"
    assert "100 documents" in lines[1]
    assert lines[-1] == "kept [bold]96[/bold] of 100"
    assert all(character.isprintable() or character == "\n" for character in stream.getvalue())


def test_plain_lines_come_at_most_every_few_seconds():
    stream, clock = io.StringIO(), Clock()
    write_documents(PlainProgress(stream, line_seconds=10, clock=clock), clock=clock)
    lines = [line for line in stream.getvalue().splitlines() if "left" in line]
    assert len(lines) == 9
    assert lines[0].strip() == "writing: 10/100 documents, 1.00 documents/s, 1 min 30 s left, loss \ufffd[31m1.23"


def test_plain_lines_survive_a_stream_that_knows_only_ascii():
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    PlainProgress(stream).say("naïve")
    assert buffer.getvalue() == b"na?ve\n"


@pytest.mark.parametrize("make", [lambda stream: PlainProgress(stream), lambda stream: live(stream)])
def test_work_that_breaks_off_is_reported_as_stopped(make):
    stream = io.StringIO()
    progress = make(stream)
    with pytest.raises(KeyError), working(progress, "labelling", 10, "shards"):
        progress.advance(3)
        raise KeyError("shard")
    assert "stopped at 3 of 10 shards" in stream.getvalue()


@pytest.mark.parametrize("make", [lambda stream: PlainProgress(stream), lambda stream: live(stream)])
def test_work_may_hold_work(make):
    stream = io.StringIO()
    progress = make(stream)
    with working(progress, "evaluating", 2, "models"):
        for _ in range(2):
            with working(progress, "reading", 3, "documents"):
                progress.advance(3)
            progress.advance()
    progress.advance()  # after the end: no harm
    progress.finish()
    lasting = [line for line in stream.getvalue().splitlines() if "documents/s" in line and " s," in line]
    assert len(lasting) == 2
    assert "2 models, " in stream.getvalue()


def live(stream):
    return LiveProgress(Console(file=stream, force_terminal=True, width=100, highlight=False))


def test_the_live_view_shows_stage_bar_and_note():
    stream = io.StringIO()
    write_documents(live(stream))
    shown = stream.getvalue()
    assert "synthesize" in shown
    assert "kept [bold]96[/bold] of 100" in shown  # shown as written, not read as markup
    assert "\x1b[31m1.23" not in shown
    assert shown.endswith("\n")
    assert "\x1b[?25h" in shown  # the cursor is back


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_loses_no_number_at_any_width(result, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(result))
    shown = console.file.getvalue()
    for number in (
        "71.3 %",
        "[69.5, 73.1]",
        "0.287",
        "[0.278, 0.296]",
        "1.00",
        "44.9",
        "92.0 M",
        "184 MB",
        "[550, 592]",
    ):
        assert number in shown
    assert max(map(len, shown.splitlines())) <= width


def test_the_table_marks_the_best_and_says_what_was_gained(result):
    console = Console(file=io.StringIO(), width=200)
    console.print(results_table(result))
    shown = console.file.getvalue()
    assert "* 71.3 %" in shown
    assert "* 66.1 %" not in shown
    assert "* 1.00" in shown  # no difference to the student was shown
    assert "the teacher's signals gained 5.2 points [4.0, 6.4]" in shown


def test_the_terminal_imports_nothing_heavy():
    heavy = {"torch", "transformers", "matplotlib", "jinja2"}
    code = f"import sys, stillhouse.reporting; print(*({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
