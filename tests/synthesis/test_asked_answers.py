"""Answers that a teacher gives in words become answers in the student's tokens, each prompt asked once."""

import pytest

from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.files import read_lines
from stillhouse.data.asked import Asked
from stillhouse.data.examples import Example
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.answers import read_answers
from stillhouse.synthesis.asked_answers import TOLD, Reader, ask_for_answers, request_for
from stillhouse.teachers.answering import Answering
from stillhouse.teachers.told import TokenNames, read_told
from stillhouse.teachers.writer import Reply

from .scripted import ask_of, prompt_of

DRAWN = Answering(sampling=Sampling(max_new_tokens=20), samples=2)


def asked(tokenizer, question):
    prompt = tuple(tokenizer(f"user: {question}\n", add_special_tokens=False)["input_ids"])
    example = Example((*prompt, 5, 6), (0.0,) * len(prompt) + (1.0, 1.0))
    return Asked(prompt, (example,), messages=({"role": "user", "content": question},))


@pytest.fixture
def reader(tokenizer):
    return Reader(tokenizer, tokenizer.eos_token_id, 40)


def test_answers_come_in_the_students_tokens_with_their_end(tmp_path, tokenizer, reader):
    prompts = [asked(tokenizer, question) for question in ("who ran?", "who sang?", "who ran?")]
    ask, writer = ask_of(tmp_path, lambda request: f"the fox, {prompt_of(request)}")
    outcome = ask_for_answers(ask, prompts, reader, folder=tmp_path, answering=DRAWN)
    answers = read_answers(tmp_path / "answers.jsonl")
    assert len(writer.asked) == 4, "a prompt that comes twice is answered once, for each of two samples"
    assert [(one.row, one.times) for one in answers] == [(0, 2), (1, 2), (2, 2)]
    assert outcome.answers == 3 and outcome.repeats == 3 and outcome.unfinished == 0
    for one, prompt in zip(answers, prompts, strict=True):
        assert one.ids[-1] == tokenizer.eos_token_id and one.finished
        assert tokenizer.decode(one.ids[:-1]) == one.answer == f"the fox, {prompt.messages[0]['content']}"
        whole = tokenizer(f"{tokenizer.decode(list(prompt.prompt))}{one.answer}", add_special_tokens=False)
        assert tuple(whole["input_ids"]) == (*prompt.prompt, *one.ids[:-1])


def test_what_was_cut_off_or_has_no_room_has_no_end(tmp_path, tokenizer):
    prompts = [asked(tokenizer, "who ran?"), asked(tokenizer, "who sang?"), asked(tokenizer, "who?")]
    said = {"who ran?": ("the fox", False), "who sang?": "the fox " * 30, "who?": ""}
    ask, _ = ask_of(tmp_path, lambda request: said[prompt_of(request)])
    reader = Reader(tokenizer, tokenizer.eos_token_id, 30)
    outcome = ask_for_answers(ask, prompts, reader, folder=tmp_path, answering=Answering(samples=1))
    first, second = read_answers(tmp_path / "answers.jsonl")
    assert not first.finished and first.ids[-1] != tokenizer.eos_token_id
    assert not second.finished and len(second.ids) == 30 - len(prompts[1].prompt)
    assert outcome.unfinished == 2 and outcome.prompts == 3, "an empty answer is none"


def test_what_was_told_of_an_answer_stands_beside_its_tokens(tokenizer):
    one, ids = asked(tokenizer, "who ran?"), tokenizer(" the fox", add_special_tokens=False)["input_ids"]
    names = TokenNames(tokenizer)
    reader = Reader(tokenizer, tokenizer.eos_token_id, 40, names)
    request = request_for(one, tokenizer, sampling=Sampling(max_new_tokens=9), seed="0", top_logprobs=2)
    told = tuple(((f"token_id:{number}", -0.5), ("token_id:7", -1.5)) for number in ids)
    reply = Reply(" the fox", finished=True, tokens=len(ids), prompt_tokens=1, top_logprobs=told)
    found, finished, places = reader.read(one, request, reply)
    assert found == (*ids, tokenizer.eos_token_id) and finished
    assert len(places) == len(found) and places[-1] == () and dict(places[0])[7] == -1.5
    with pytest.raises(ModelError, match="told no log-probabilities"):
        reader.read(one, request, Reply("the fox", finished=True, tokens=2, prompt_tokens=1))


def test_told_answers_are_found_by_the_tokens_of_prompt_and_answer(tmp_path, tokenizer):
    one = asked(tokenizer, "who ran?")
    ids = tokenizer("fox", add_special_tokens=False)["input_ids"]
    told = tuple(((f"token_id:{number}", -0.5),) for number in ids)

    def ask(requests, *, title):
        return [Reply("fox", finished=True, tokens=1, prompt_tokens=1, top_logprobs=told) for _ in requests]

    reader = Reader(tokenizer, None, 40, TokenNames(tokenizer))
    ask_for_answers(ask, [one], reader, folder=tmp_path, answering=Answering(samples=1), top_logprobs=1)
    (answer,) = read_answers(tmp_path / "answers.jsonl")
    learnt = one.taught([(answer.ids, answer.finished, 1.0)]).answered[0]
    places = read_told(tmp_path / TOLD)[learnt.key]
    assert len(places) == len(learnt.ids) and not any(places[: len(one.prompt)]) and all(places[len(one.prompt) :])
    assert read_lines(tmp_path / TOLD)[0]["cost"] == 0


def test_a_text_is_gone_on_with_and_calls_of_tools_are_refused(tokenizer):
    plain = Asked(tuple(tokenizer("the fox", add_special_tokens=False)["input_ids"]), ())
    assert request_for(plain, tokenizer, sampling=Sampling(), seed="0").prefix == "the fox"
    calling = Asked((1,), (), messages=({"role": "tool", "content": "9"},))
    with pytest.raises(DataError, match="a turn of 'tool' that a teacher behind an API cannot be asked with"):
        request_for(calling, tokenizer, sampling=Sampling(), seed="0")
