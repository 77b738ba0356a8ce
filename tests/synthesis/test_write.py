"""The teacher writes: the same file whatever happens on the way, and only text that is fit to learn from."""

import json

import pytest

from stillhouse.core.errors import DataError
from stillhouse.core.progress import Silent
from stillhouse.data.text import read_rows, to_examples
from stillhouse.models.generate import Sampling
from stillhouse.synthesis import synthesize, synthesize_asking
from stillhouse.synthesis.write import SHORTEST_TOKENS, as_prompt

from .scripted import Killed, ask_of, prompt_of

PROMPTS = [f"Write about number {number}." for number in range(12)]
SAMPLING = Sampling(max_new_tokens=24)


@pytest.fixture(scope="module")
def teacher(build_model, tokenizer):
    return build_model(vocab=len(tokenizer), layers=2)


def _write(teacher, tokenizer, folder, **changes):
    named = {"prompts": PROMPTS, "num_tokens": 160, "sampling": SAMPLING, "batch_size": 3, "seed": 1, **changes}
    return synthesize(teacher, tokenizer, folder=folder, **named)


def _file(folder):
    return (folder / "documents.jsonl").read_bytes()


@pytest.fixture
def answers(monkeypatch, tokenizer):
    """Lets a test say what the teacher answers, prompt after prompt."""
    queue = []

    def told(_model, prompts, **_named):
        return [queue.pop(0) for _ in prompts]

    monkeypatch.setattr("stillhouse.synthesis.write.generate", told)
    return queue


def _text(tokenizer, words, *, end=True):
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    assert len(ids) >= SHORTEST_TOKENS
    return [*ids, tokenizer.eos_token_id] if end else ids


LONG = [
    f"the small fox ran over the hill and saw a red house of {name}" for name in ("brick", "stone", "paper", "wood")
]


def test_the_same_seed_writes_the_same_file_and_another_seed_another(teacher, tokenizer, tmp_path):
    for name, seed in (("1", 1), ("2", 1), ("3", 2)):
        _write(teacher, tokenizer, tmp_path / name, seed=seed)
    assert _file(tmp_path / "1") == _file(tmp_path / "2") != _file(tmp_path / "3")


def test_a_prompt_asked_again_is_answered_anew(teacher, tokenizer, tmp_path):
    outcome = _write(teacher, tokenizer, tmp_path, prompts=["Write."] * 6, num_tokens=100, batch_size=1)
    assert outcome.dropped.get("duplicate", 0) == 0
    assert outcome.documents > 3


@pytest.mark.parametrize("lost", [1, 2])
def test_what_was_written_before_a_kill_is_kept_and_the_file_is_the_same_byte_for_byte(
    teacher, tokenizer, tmp_path, monkeypatch, lost
):
    whole = _write(teacher, tokenizer, tmp_path)
    expected, parts = _file(tmp_path), sorted((tmp_path / "parts").iterdir())
    assert len(parts) > 2
    for part in parts[-lost:]:
        part.unlink()
    (tmp_path / "documents.jsonl").unlink()
    from stillhouse.synthesis import write

    batches, own = [], write.generate
    monkeypatch.setattr(write, "generate", lambda *call, **named: batches.append(1) or own(*call, **named))
    assert _write(teacher, tokenizer, tmp_path) == whole
    assert _file(tmp_path) == expected
    assert len(batches) == lost


def test_a_finished_text_is_written_without_the_teacher(tokenizer, teacher, tmp_path, monkeypatch):
    whole = _write(teacher, tokenizer, tmp_path)
    monkeypatch.setattr("stillhouse.synthesis.write.generate", lambda *_, **__: pytest.fail("the teacher was asked"))
    assert _write(teacher, tokenizer, tmp_path) == whole


def test_enough_is_written_and_hardly_more(teacher, tokenizer, tmp_path):
    outcome = _write(teacher, tokenizer, tmp_path, num_tokens=100, batch_size=12)
    assert 100 <= outcome.tokens < 200  # a whole batch would be 288
    rows = read_rows(tmp_path / "documents.jsonl")
    assert outcome.documents == len(rows)
    assert all(row.prompt in [as_prompt(tokenizer, prompt) for prompt in PROMPTS] for row in rows)


def test_answers_that_are_too_short_or_repeated_are_dropped_and_counted(teacher, tokenizer, tmp_path, answers):
    first, second, third, _ = (_text(tokenizer, words) for words in LONG)
    short = first[: SHORTEST_TOKENS - 2] + first[-1:]
    answers += [first, short, first, second, [tokenizer.eos_token_id], third]
    outcome = _write(teacher, tokenizer, tmp_path, num_tokens=len(first + second + third))
    assert outcome.dropped == {"too short": 2, "duplicate": 1}
    assert [row.text for row in read_rows(tmp_path / "documents.jsonl")] == LONG[:3]
    assert outcome.tokens == len(first + second + third)


def test_repeated_answers_do_not_count_towards_the_text_asked_for(teacher, tokenizer, tmp_path, answers):
    first, second, *_ = (_text(tokenizer, words) for words in LONG)
    answers += [first] * 6 + [second] * 6
    outcome = _write(teacher, tokenizer, tmp_path, num_tokens=len(first) + 1, batch_size=1)
    assert outcome.documents == 2
    assert outcome.tokens == len(first) + len(second)


def test_when_the_prompts_are_used_up_it_says_so_and_what_to_do(teacher, tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"12 prompts gave \d+ tokens of the 9,000 asked for. Add words to") as fault:
        _write(teacher, tokenizer, tmp_path, num_tokens=9000)
    assert "synthesis.tokens" in str(fault.value)
    assert not (tmp_path / "documents.jsonl").exists()


def test_the_end_of_an_answer_that_was_cut_off_is_not_learnt(teacher, tokenizer, tmp_path, answers):
    finished, cut_off = _text(tokenizer, LONG[0]), _text(tokenizer, LONG[1], end=False)
    answers += [finished, cut_off]
    _write(teacher, tokenizer, tmp_path, num_tokens=len(finished + cut_off), batch_size=2)
    rows = read_rows(tmp_path / "documents.jsonl")
    assert [row.finished for row in rows] == [True, False]
    ended, open_ended = (to_examples([row], tokenizer, max_tokens=200)[0] for row in rows)
    end = tokenizer.eos_token_id
    assert ended.ids[-1] == end and ended.weights[-1] == 1
    learnt = [token for token, weight in zip(open_ended.ids, open_ended.weights, strict=True) if weight > 0]
    assert end not in learnt
    assert tokenizer.decode(learnt) == LONG[1]


def test_an_answer_follows_the_prompt_as_the_chat_template_has_it(teacher, tokenizer, tmp_path):
    assert as_prompt(tokenizer, "Hello.") == "<|user|>Hello.<|end|><|assistant|>"
    _write(teacher, tokenizer, tmp_path)
    for line in (tmp_path / "documents.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["prompt"].startswith("<|user|>Write about number ")
        assert record["prompt"].endswith("<|assistant|>")


def test_without_a_chat_template_the_prompt_is_read_as_it_is(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert as_prompt(tokenizer, "Once upon a time") == "Once upon a time"


def test_progress_counts_every_token_whether_written_now_or_before(teacher, tokenizer, tmp_path):
    class Counter(Silent):
        def __init__(self):
            self.tokens, self.finished = 0, 0

        def advance(self, amount=1, note=""):
            self.tokens += amount

        def finish(self):
            self.finished += 1

    counts = []
    for _ in range(2):
        progress = Counter()
        _write(teacher, tokenizer, tmp_path, progress=progress)
        counts.append((progress.tokens, progress.finished))
    records = [record for part in (tmp_path / "parts").iterdir() for record in json.loads(part.read_text())]
    assert counts == [(sum(record["tokens"] for record in records), 1)] * 2


def test_one_who_is_asked_in_words_writes_until_there_is_enough_and_nothing_is_asked_twice(tmp_path):
    def say(request):
        return ("once", True) if "number 1" in prompt_of(request) else (f"{prompt_of(request)} {'word ' * 19}end", True)

    options = {"prompts": PROMPTS, "num_tokens": 80, "sampling": SAMPLING, "batch_size": 3, "folder": tmp_path}
    ask, killed = ask_of(tmp_path, say, most=4)
    with pytest.raises(Killed):
        synthesize_asking(ask, **options)
    ask, writer = ask_of(tmp_path, say)
    outcome = synthesize_asking(ask, **options)
    rows = read_rows(tmp_path / "documents.jsonl")
    assert outcome.tokens >= 80 > outcome.tokens - 24 and outcome.dropped == {"too short": 1}
    assert [row.prompt for row in rows] == [PROMPTS[n] for n in (0, 2, 3, 4)] and outcome.documents == 4
    assert len(killed.asked) + len(writer.asked) == 5, "as many as give the tokens that are missing"
    with pytest.raises(DataError, match="12 prompts gave"):
        synthesize_asking(ask, **{**options, "num_tokens": 10**6})
