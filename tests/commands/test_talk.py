"""`stillhouse chat`: two models answer the same lines, from a pipe and from a terminal."""

import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.speakers import partings
from stillhouse.core.config import load_recipe, to_yaml
from stillhouse.models.generate import Sampling, generate
from stillhouse.models.load import load_causal_lm

from .conftest import CHATS, Said, assert_refused_in_one_line, stillhouse, write_kind, write_recipe, write_rows

END = "<|end|>"
SECONDS = 120
SAMPLING = {"temperature": 0.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def models(tmp_path_factory, build_model, tokenizer) -> dict[str, Path]:
    """A teacher and a student with the same tokenizer, neither of which ever ends an answer by itself."""
    folder = tmp_path_factory.mktemp("sides")
    for seed, role in enumerate(("teacher", "student")):
        model = build_model(layers=2, vocab=len(tokenizer), seed=seed + 1, max_position_embeddings=1_000_000)
        model.save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)
    return {role: folder / role for role in ("teacher", "student")}


@pytest.fixture
def talk(monkeypatch, models):
    """Send lines through a pipe, to the two models or to what the arguments name."""

    def send(lines: list[str], *arguments: object) -> Said:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        named = arguments or (f"--teacher={models['teacher']}", f"--student={models['student']}")
        return stillhouse("chat", *map(str, named), "--max-new-tokens", "12")

    return send


@pytest.fixture
def run(tmp_path, models) -> Path:
    """A run folder as far as a conversation needs one."""
    data = {"kind": "chat", "path": str(write_rows(tmp_path / "rows.jsonl", CHATS))}
    recipe = write_recipe(tmp_path, models["teacher"], synthesis=None, data=data)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(to_yaml(load_recipe(Recipe, recipe)), encoding="utf-8")
    shutil.copytree(models["student"], tmp_path / "run" / "student")
    return tmp_path / "run"


def answers(said: Said) -> list[tuple[str, str]]:
    """Who said what, in order."""
    assert said.code == 0, said.err
    return re.findall(r"^\[(teacher|student)\] .*\n((?:(?!\[|> |\.\.\.|they part).*\n)*)", said.out, re.MULTILINE)


def in_truth(source: Path, questions: list[str], *, system: str = "") -> list[str]:
    """What a model says to each, behind its own former answers, by its template and nothing of ours but `generate`."""
    loaded = load_causal_lm(str(source))
    messages, found = [{"role": "system", "content": system}] if system else [], []
    for question in questions:
        messages.append({"role": "user", "content": question})
        text = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        (tokens,) = generate(loaded.model, [ids], sampling=Sampling(**SAMPLING), seed=0)
        found.append(loaded.tokenizer.decode(tokens).removesuffix(END))
        messages.append({"role": "assistant", "content": found[-1]})
    return found


def without_control(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text.replace("\r\n", "\n"))


QUESTIONS = ["who ran to the hill?", "and sang?", "the girl?"]


def test_each_side_answers_behind_its_own_former_answers(talk, models):
    said = answers(talk(QUESTIONS))
    assert [role for role, _ in said] == ["teacher", "student"] * 3
    for role in ("teacher", "student"):
        texts = [text for who, text in said if who == role]
        assert texts == [without_control(text) + "\n" for text in in_truth(models[role], QUESTIONS)]


def test_a_run_folder_names_both_models(talk, run):
    assert answers(talk(QUESTIONS, run)) == answers(talk(QUESTIONS))


def test_system_prompts_and_resets_begin_anew(talk, models):
    first, after_reset, told, kept, untold = (
        text
        for role, text in answers(talk(["a", "/reset", "a", "/system be brief", "a", "/reset", "a", "/system", "a"]))
        if role == "student"
    )
    assert first == after_reset == untold != told == kept
    (expected,) = in_truth(models["student"], ["a"], system="be brief")
    assert told == without_control(expected) + "\n"


def test_what_is_drawn_depends_on_the_seed_alone(talk, models):
    named = [f"--{role}={folder}" for role, folder in models.items()]
    one, same, other = (answers(talk(["a", "b"], *named, "--temperature", 1, "--seed", seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_partings_are_the_places_where_the_likeliest_tokens_differ(models):
    teacher, student = (load_causal_lm(str(models[role])).model for role in ("teacher", "student"))
    asked, said = [5, 6, 7, 8], [9, 10, 11, 12, 13]
    found = partings(teacher, student, asked, said, vocab_size=250)
    with torch.no_grad():
        p, q = (m(torch.tensor([asked + said])).logits[0, :, :250].softmax(-1) for m in (teacher, student))
    expected = [place for place in range(5) if p[place + 3].argmax() != q[place + 3].argmax()]
    assert [parting.place for parting in found] == expected and expected
    for parting in found:
        row = parting.place + 3
        for choice, owner in ((parting.teachers, p), (parting.students, q)):
            assert choice.token == owner[row].argmax()
            assert choice.teacher == pytest.approx(float(p[row, choice.token]))
            assert choice.student == pytest.approx(float(q[row, choice.token]))
        assert list(parting.before) == (asked + said)[: 4 + parting.place][-8:]
    assert partings(teacher, teacher, asked, said, vocab_size=250) == []


def test_on_request_the_tokens_are_shown_where_they_part(talk, models):
    for whose in ("student", "teacher"):
        said = talk(["who ran?", f"/diff {whose}"])
        headline = re.search(rf"they part at (\d+) tokens along the {whose}'s answer of (\d+) tokens", said.out)
        assert headline is not None and 0 < int(headline[1]) <= int(headline[2])
        rows = re.findall(r"^\.\.\.(.*) \| teacher (.*) \| student (.*)$", said.out, re.MULTILINE)
        assert len(rows) == min(12, int(headline[1]))
        assert all(re.search(r"\(teacher [\d.]+ %, student [\d.]+ %\)$", cell) for row in rows for cell in row[1:])
    same = talk(["who ran?", "/diff"], f"--teacher={models['teacher']}", f"--student={models['teacher']}")
    assert "would say the same along the student's answer" in same.out


def test_quit_ends_before_the_rest(talk):
    assert len(answers(talk(["a", "/quit", "b"]))) == 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["/dif"], "there is no command '/dif'. Did you mean '/diff'?"),
        (["/diff"], "nothing is said yet"),
        (["a", "/diff me"], "whose answer is that? Known: teacher, student."),
    ],
)
def test_a_line_that_cannot_be_answered_ends_a_pipe_with_2(talk, lines, words):
    said = talk([*lines, "b"])
    assert said.code == 2 and said.err.splitlines()[-1].startswith("stillhouse: ") and words in said.err
    assert said.out.count("> b") == 0


def test_a_conversation_that_fills_the_model_is_said(talk, tmp_path, build_model, tokenizer):
    build_model(layers=1, vocab=len(tokenizer), max_position_embeddings=24).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said = talk(["a", "b", "c"], f"--teacher={tmp_path}", f"--student={tmp_path}")
    assert said.code == 2 and "the teacher reads at most 24. Begin anew: /reset" in said.err


def test_models_of_two_tokenizers_talk_but_are_not_compared_token_by_token(talk, models, student_folder):
    named = (f"--teacher={models['teacher']}", f"--student={student_folder}")
    assert len(answers(talk(["a", "b"], *named))) == 4
    said = talk(["a", "/diff"], *named)
    assert said.code == 2 and "read a text in other tokens" in said.err


def test_a_model_without_a_template_goes_on_from_each_line_alone(talk, models, tmp_path):
    bare = shutil.copytree(models["student"], tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    named = (f"--teacher={models['teacher']}", f"--student={bare}")
    said = talk(["the fox", "ran", "the fox"], *named)
    assert "the student has no chat template: it goes on from each line alone" in said.out
    first, _, third = (text for role, text in answers(said) if role == "student")
    assert first == third
    refused = talk(["/system be brief"], *named)
    assert refused.code == 2 and "can be given no system prompt" in refused.err


@pytest.fixture
def silent(tmp_path, save_teacher) -> Path:
    """A run folder of a model that gives numbers."""
    folder = tmp_path / "silent"
    folder.mkdir()
    recipe = write_kind(folder, "regression", save_teacher("regression", "mpnet", labels=("score",)))
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text(to_yaml(load_recipe(Recipe, recipe)), encoding="utf-8")
    return folder / "run"


def test_what_cannot_be_talked_with_is_refused_in_one_line_before_a_model_is_loaded(
    talk, models, run, silent, tmp_path, no_model
):
    assert_refused_in_one_line(talk([], silent), "learns data of kind 'regression' and writes no text")
    assert_refused_in_one_line(talk([], tmp_path / "nowhere"), "is no run folder: it has no recipe.yaml")
    assert_refused_in_one_line(stillhouse("chat"), "chat needs a run folder, or both --teacher and --student")
    missing = (f"--teacher={models['teacher']}", f"--student={tmp_path / 'gone'}")
    assert_refused_in_one_line(talk([], *missing), "neither an existing folder")


def test_a_run_whose_student_is_not_there_yet_says_how_to_make_it(talk, run, no_model):
    shutil.rmtree(run / "student")
    assert_refused_in_one_line(talk([], run), f"has no student yet. First: stillhouse train {run / 'recipe.yaml'}")


def test_options_that_make_no_sense_are_refused(talk, models, no_model):
    said = talk([], *(f"--{role}={folder}" for role, folder in models.items()), "--temperature", "-1")
    assert said.code == 2 and "temperature: -1.0 came, but it should be greater than or equal to 0" in said.err


# A terminal


class Terminal:
    """The command as in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.keys, inside = pty.openpty()
        fcntl.ioctl(self.keys, termios.TIOCSWINSZ, b"\x18\x00\x50\x00\x00\x00\x00\x00")

        def take() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # even where the tests run in the background and do not hear it

        self.process = subprocess.Popen(
            [sys.executable, "-m", "stillhouse", "chat", *arguments],
            stdin=inside, stdout=inside, stderr=subprocess.DEVNULL, preexec_fn=take, env={**os.environ, "TERM": "xterm"},
        )  # fmt: skip
        os.close(inside)
        self.seen = ""

    def press(self, keys: str) -> None:
        os.write(self.keys, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """What was shown until this was, which is not looked at again."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            assert time.monotonic() < deadline, self.seen[-2000:]
            if select.select([self.keys], [], [], 0.1)[0]:
                self.seen += os.read(self.keys, 65536).decode(errors="replace")
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown


def test_in_a_terminal_answers_stream_ctrl_c_stops_them_and_ctrl_d_ends(models):
    named = [f"--{role}={folder}" for role, folder in models.items()]
    terminal = Terminal(*named, "--max-new-tokens", "1000000")
    try:
        terminal.wait_for(r"/help says.*> ")
        terminal.press("who ran?\n")
        counts = [re.search(r"(\d+) tokens", terminal.wait_for(r"\d+ tokens, [^\n]*tokens/s"))[1] for _ in range(4)]
        assert int(counts[-1]) > int(counts[0]) > 0  # while it is being written
        terminal.press("\x03")
        terminal.wait_for(r"teacher.*student.*tokens/s, cut off.*> ")
        terminal.press("/nonsense\n")
        terminal.wait_for(r"there is no command.*> ")
        time.sleep(0.5)  # the prompt is shown a moment before keys are listened for
        terminal.press("\x03")  # at the prompt it does nothing
        terminal.wait_for("> ")
        terminal.press("\x04")
        assert terminal.process.wait(SECONDS) == 0
    finally:
        terminal.process.kill()
        os.close(terminal.keys)
