import json
import os
import subprocess
import sys

import pytest

from stillhouse.core.following import Follower, Tail, samples_of, tokens_per_step
from stillhouse.core.life import FILE, Kept, now_of
from stillhouse.core.progress import SILENT, working
from stillhouse.core.run import RunFolder


class Clock:
    """Seconds that pass when told to."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


def test_a_tail_reads_each_whole_line_once_and_begins_anew_where_the_file_does(tmp_path):
    file = tmp_path / "lines.jsonl"
    tail = Tail(file)
    assert tail.read() == ([], False)
    file.write_bytes(b'{"a": 1}\n{"a"')
    assert tail.read() == ([{"a": 1}], True)
    with file.open("ab") as more:
        more.write(b': 2}\nno json\n[3]\n{"a": 4}\n')
    assert tail.read() == ([{"a": 2}, {"a": 4}], False)
    assert tail.read() == ([], False)
    (tmp_path / "anew").write_bytes(b'{"a": 1}\n{"a": 9}\n' * 5)
    os.replace(tmp_path / "anew", file)
    assert tail.read() == ([{"a": 1}, {"a": 9}] * 5, True)


def test_a_run_is_known_from_what_it_writes(tmp_path):
    run, follower = RunFolder(tmp_path), Follower(tmp_path)
    known = follower.look()
    assert (known.now.state, known.arm, known.num_steps, known.samples) == ("stopped", "", 0, ())
    run.event("borrowed", stage="label", lender="other")
    run.event("started", stage="train")
    for step in (1, 2, 3):
        run.log(arm="student", step=step, tokens=100.0 * step, loss=1.0 / step)
    run.log(evaluated="student", metric="forward_kl", value=1.0)
    run.event("alarm", step=2, alarm="answers_grow", says="answers grow")
    for who, step, answer in (("teacher", 0, "Four."), ("student", 1, "Five."), ("student", 3, "4.")):
        with (tmp_path / "held_out_answers.jsonl").open("a") as file:
            file.write(json.dumps({"who": who, "step": step, "asked": "2 + 2?", "answer": answer}) + "\n")
    known = follower.look()
    assert [line["step"] for line in known.curves["student"]] == [1, 2, 3] and known.num_steps == 3
    assert (known.stages["label"].borrowed_from, known.stages["train"].seconds) == ("other", None)
    assert [alarm["says"] for alarm in known.alarms] == ["answers grow"]
    assert known.sampled_step == 3 and dict(known.samples[0].continuations) == {"teacher": "Four.", "student": "4."}
    run.event("finished", stage="train", seconds=2.0)
    run.metrics.unlink()  # a killed run that goes on writes the file anew
    run.log(arm="student", step=1, tokens=100.0, loss=1.0)
    known = follower.look()
    assert known.stages["train"].seconds == 2.0 and len(known.curves["student"]) == 1


def test_answers_without_a_teachers_are_no_sample_and_tokens_a_step_are_those_of_late():
    assert samples_of([{"who": "student", "step": 1, "asked": "a", "answer": "b"}]) == ([], 1)
    assert samples_of([]) == ([], None)
    steps = [{"step": step, "tokens": float(step if step < 100 else 100 + 7 * (step - 100))} for step in range(1, 200)]
    assert tokens_per_step(steps) == 7.0
    assert (tokens_per_step(steps[:1]), tokens_per_step([])) == (1.0, 0.0)


def test_a_run_says_what_it_is_doing_how_fast_and_that_it_has_ended(tmp_path):
    clock = Clock()
    kept = Kept(SILENT, tmp_path, clock=clock)
    kept.stage("data", "before the folder is open")
    assert not (tmp_path / FILE).exists()
    with kept:
        kept.stage("train", "the student learns")
        with working(kept, "student learns", 100, "steps"):
            kept.advance(20)  # done before a kill
            for _ in range(10):
                clock.seconds += 2.0
                kept.advance(1, "loss 1.5")
            now = now_of(tmp_path)
            assert (now.state, now.stage, now.work[0].done, now.work[0].note) == ("working", "train", 30, "loss 1.5")
            assert now.work[0].rate == pytest.approx(0.5) and now.work[0].seconds_left == pytest.approx(140.0)
            assert 0 < now.memory.resident <= now.peak_bytes
            clock.seconds += 0.5
            kept.advance(1)
            assert now_of(tmp_path).work[0].done == 30  # not yet: a step may be shorter than a writing
    assert now_of(tmp_path).state == "ended" and now_of(tmp_path).work == ()
    with pytest.raises(KeyboardInterrupt), kept:
        raise KeyboardInterrupt
    assert now_of(tmp_path).state == "stopped"


def test_a_run_whose_process_was_killed_has_stopped_and_what_is_no_such_file_says_nothing(tmp_path):
    code = (
        "import os, sys, pathlib; from stillhouse.core.life import Kept; from stillhouse.core.progress import SILENT\n"
        "Kept(SILENT, pathlib.Path(sys.argv[1])).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert json.loads((tmp_path / FILE).read_text())["state"] == "working"
    assert now_of(tmp_path).state == "stopped"
    (tmp_path / FILE).write_text('{"state": "working", "work": 3}')
    assert now_of(tmp_path).state == "stopped"


def test_work_goes_on_where_nothing_can_be_kept_of_it(tmp_path):
    kept = Kept(SILENT, tmp_path / "gone")
    with kept, working(kept, "student learns", 3, "steps"):
        kept.advance(3)
