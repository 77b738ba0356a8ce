"""Each way to find questions, on a writer whose replies are known."""

from random import Random

import pytest

from stillhouse.core.errors import DataError, ModelError
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.sources import (
    continued_texts,
    document_questions,
    evolved_questions,
    grow_topics,
    magpie_questions,
    passages_of,
    persona_questions,
    read_questions,
    self_instruct_questions,
    template_questions,
    topic_questions,
    user_opening,
)
from stillhouse.synthesis.sources.evolve import WAYS
from stillhouse.synthesis.sources.lists import list_items, names_in, one_item
from stillhouse.synthesis.sources.self_instruct import mixed_examples

from .scripted import ask_of, prompt_of

SAMPLING = Sampling(max_new_tokens=5)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1. one\n2. two", ["one", "two"]),
        ("Here they are:\n\n1) one\nand more\n\n2) two", ["one\nand more", "two"]),
        ('- one\n* **two**\n• "three"', ["one", "two", "three"]),
        ("10: ten\n11: eleven", ["ten", "eleven"]),
        ("1.5 kg is one and a half", []),
        ("no list at all", []),
        ("1.\n2. two", ["two"]),
    ],
)
def test_a_list_is_read_as_its_entries(text, items):
    assert list_items(text) == items
    assert list_items(text, finished=False) == items[:-1] or items[:1] == ["two"]


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("Why is the sky blue?", "Why is the sky blue?"),
        ('Here is a question:\n\n"Why is the sky blue?"', "Why is the sky blue?"),
        ("1. Why?\n2. How?", "Why?"),
        ('The question is: "Why?"', "Why?"),
        ("**Question:** Why?", "Why?"),
    ],
)
def test_one_thing_is_read_alone(text, item):
    assert one_item(text) == [item]
    assert one_item(text, finished=False) == []


def test_names_lose_what_is_said_about_them():
    assert names_in("1. **Bread**: how\n2. Cake - sweet\n3. Jam.") == ["Bread", "Cake", "Jam"]
    assert names_in("1. 1.1.1\n2. 3D printing") == ["3D printing"]


# Magpie


def test_magpie_asks_behind_the_opening_and_stops_at_the_end_of_the_turn(tokenizer, tmp_path):
    replies = iter(["who ran?", " ", ("who", False), "and why? "])
    ask, writer = ask_of(tmp_path, lambda request: next(replies))
    found = magpie_questions(ask, tokenizer=tokenizer, number=4, sampling=SAMPLING, seed=3, system="sing")
    assert {(request.prefix, request.stop) for request in writer.asked} == {
        ("<|system|>sing<|end|><|user|>", ("<|end|>",))
    }
    assert len({request.seed for request in writer.asked}) == 4
    assert [record.messages for record in found if not record.dropped] == [
        ({"role": "user", "content": "who ran?"},),
        ({"role": "user", "content": "and why?"},),
    ]
    assert [record.dropped for record in found] == ["", "an empty question", "a question that was cut off", ""]


def test_magpie_needs_a_template_that_lets_a_user_speak(bert_tokenizer):
    with pytest.raises(ModelError, match="no chat template"):
        user_opening(bert_tokenizer)


# Topics and personas


def garden(request):
    said = prompt_of(request)
    if said.startswith("Name"):
        return "1. Roses\n2. roses\n3. Garden\n4. Trees: tall\n5. Soil" if "topic: Garden." in said else "I know none."
    return "1. How?\n2. Why?" if "Roses" in said else "1. When?\n2. Where?\n3. Whose?"


def test_a_tree_grows_without_naming_anything_twice(tmp_path):
    ask, writer = ask_of(tmp_path, garden)
    leaves = grow_topics(ask, ["Garden"], depth=2, width=2, sampling=SAMPLING)
    assert leaves == [("Garden", "Roses"), ("Garden", "Trees")]
    assert "Trees (within Garden)" in prompt_of(writer.asked[-1])


def test_questions_are_spread_over_the_leaves_and_asked_for_again_where_too_few_came(tmp_path):
    ask, writer = ask_of(tmp_path, garden)
    found = topic_questions(ask, topics=["Roses", "Trees"], depth=0, width=2, number=5, at_once=3, sampling=SAMPLING)
    assert [(record.lineage["topic"], record.question) for record in found] == [
        (["Roses"], "How?"),
        (["Roses"], "Why?"),
        (["Trees"], "When?"),
        (["Trees"], "Where?"),
    ], "the third about roses never came, and nothing stands twice"
    assert sum("Roses" in prompt_of(request) for request in writer.asked) == 4
    with pytest.raises(DataError, match="topics or a root"):
        topic_questions(ask, topics=[], depth=0, width=2, number=5, at_once=3, sampling=SAMPLING)


def test_personas_are_given_or_thought_of_and_each_asks(tmp_path):
    def say(request):
        return "1. A baker\n2. A nurse" if "Describe" in prompt_of(request) else f"What of {prompt_of(request)[18:25]}?"

    ask, _ = ask_of(tmp_path, say)
    found = persona_questions(ask, personas=2, about="sleep", number=2, at_once=1, sampling=SAMPLING)
    assert [record.lineage["persona"] for record in found] == ["A baker", "A nurse"]
    given = persona_questions(ask, personas=["A singer"], number=1, at_once=1, sampling=SAMPLING)
    assert given[0].lineage["persona"] == "A singer" and given[0].question.startswith("What of")
    nobody, _ = ask_of(tmp_path, lambda request: "no", name="nobody")
    with pytest.raises(DataError, match="named no personas"):
        persona_questions(nobody, personas=2, number=2, at_once=1, sampling=SAMPLING)


# Self-Instruct and evolution


def test_self_instruct_keeps_what_is_new_and_mixes_its_own_into_later_requests(tmp_path):
    seeds = [f"seed {chr(97 + n) * 3} number {n}" for n in range(8)]
    words = [f"{letter}{letter}a" for letter in "bcdfghjklmnpqrst"]
    draw = Random(0)

    def say(_request):
        made = [" ".join(draw.sample(words, 4)) for _ in range(3)]
        return "\n".join(f"{n}. {text}" for n, text in enumerate([*made, seeds[0]], start=9))

    ask, writer = ask_of(tmp_path, say)
    found = self_instruct_questions(
        ask, seeds=seeds, number=12, at_once=4, requests_per_round=2, sampling=SAMPLING, below=0.7
    )
    questions = [record.question for record in found]
    assert len(questions) == 12 == len(set(questions)) and not set(questions) & set(seeds)
    first, last = writer.asked[0], writer.asked[-1]
    assert sum(seed in prompt_of(first) for seed in seeds) == 8, "while there are none of its own, seeds in their place"
    assert sum(seed in prompt_of(last) for seed in seeds) == 6
    assert len(found[-1].lineage["examples"]) == 8


def test_self_instruct_ends_where_nothing_new_comes(tmp_path):
    ask, _ = ask_of(tmp_path, lambda request: "1. the same again and again")
    found = self_instruct_questions(ask, seeds=["a b c"], number=3, sampling=SAMPLING)
    assert [record.question for record in found] == ["the same again and again"]
    with pytest.raises(DataError, match="wrote no new task in 10 rounds"):
        self_instruct_questions(ask, seeds=["the same again and again"], number=3, sampling=SAMPLING)
    assert (
        self_instruct_questions(ask, seeds=["a"], before=["the same again and again"], number=3, sampling=SAMPLING)
        == []
    )


def test_self_instruct_lets_a_model_go_on_with_its_own_list_where_the_template_is_known(tokenizer, tmp_path):
    ask, writer = ask_of(tmp_path, lambda request: " sing of the old sea\n4. no\n5. draw the red house again")
    options = {"seeds": ["seed one here", "seed two here"], "number": 2, "at_once": 3, "sampling": SAMPLING}
    found = self_instruct_questions(ask, tokenizer=tokenizer, **options)
    assert [record.question for record in found] == ["sing of the old sea", "draw the red house again"]
    request = writer.asked[0]
    assert request.prefix.startswith("<|user|>Come up with a series of 5 different tasks")
    assert request.prefix.endswith("seed one here\n3.") or request.prefix.endswith("seed two here\n3.")
    assert request.stop == ("\n6.",)


def test_six_seeds_and_two_of_its_own_are_shown_in_any_order():
    seeds, own = [f"s{n}" for n in range(20)], [f"o{n}" for n in range(5)]
    orders = {tuple(mixed_examples(seeds, own, (6, 2), random=Random(n))) for n in range(20)}
    assert all(sum(text[0] == "s" for text in order) == 6 and len(set(order)) == 8 for order in orders)
    assert len({order[0][0] for order in orders}) == 2


def test_an_evolution_goes_on_from_what_came_and_drops_what_did_not_change(tmp_path):
    replies = iter(["Why, in detail?", "why?", "The rewritten prompt is", ("Wh", False)])
    ask, writer = ask_of(tmp_path, lambda request: next(replies))
    start = [Record().say("user", "Why?")]
    found = evolved_questions(ask, start=start, number=4, rounds=4, sampling=SAMPLING, ways=("deeper",))
    assert [record.dropped for record in found] == [
        "",
        "",
        "an evolution that speaks about rewriting",
        "a question that was cut off",
    ]
    assert [record.lineage["parent"] for record in found] == ["Why?", "Why, in detail?", "why?", "why?"]
    assert all(WAYS["deeper"] in prompt_of(request) for request in writer.asked)
    ask, _ = ask_of(tmp_path, lambda request: "why", name="other")
    same = evolved_questions(ask, start=start, number=1, rounds=1, sampling=SAMPLING)
    assert same[0].dropped == "an evolution that changed nothing"


# Documents, files, templates, texts


def test_passages_end_where_sentences_do_and_lose_nothing():
    text = "One two three. Four five! Six seven eight nine? Ten.\n\nEleven twelve thirteen fourteen."
    found = list(passages_of([text, "Short."], words=5))
    assert " ".join(found).split() == [*text.split(), "Short."]
    assert all(len(passage.split()) <= 6 for passage in found)
    assert found[-1] == "Short."


def test_a_question_about_a_passage_keeps_it_and_the_student_reads_it_where_asked(tmp_path):
    ask, _ = ask_of(tmp_path, lambda request: f"Who is in {prompt_of(request).split()[4]}")
    options = {"passages": ["Ada sang.", "Bob ran."], "number": 2, "sampling": SAMPLING}
    found = document_questions(ask, **options)
    assert {record.lineage["passage"] for record in found} == {"Ada sang.", "Bob ran."}
    assert sorted(record.question for record in found) == ["Who is in Ada", "Who is in Bob"]
    read = document_questions(ask, student_reads=True, **options)
    assert all(record.question.startswith(str(record.lineage["passage"])) for record in read)


def test_questions_are_read_in_any_form_with_the_datas_own_answer(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"instruction": "Add", "instances": [{"input": "2 2", "output": "4"}]}\n'
        '{"question": "Why?", "answer": "So.", "tests": ["t"]}\n'
        '{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "A?"}, '
        '{"role": "assistant", "content": "a"}, {"role": "user", "content": "B?"}, {"role": "assistant", "content": "b"}]}\n'
    )
    found = read_questions(file)
    assert [record.question for record in found] == ["Add\n\n2 2", "Why?", "B?"]
    assert [record.lineage["reference"] for record in found] == ["4", "So.", "b"]
    assert [m["role"] for m in found[2].messages] == ["system", "user", "assistant", "user"]
    with pytest.raises(DataError, match="line 1 of synthesis.path has no 'tests'"):
        read_questions(file, columns=["tests"])
    file.write_text('{"question": "Why?", "tests": ["t"]}\n')
    assert read_questions(file, columns=["tests"])[0].lineage["tests"] == ["t"]
    file.write_text('{"question_id": 1, "turns": ["Why?", "And?"]}\n')
    assert read_questions(file)[0].messages == ({"role": "user", "content": "Why?"},)
    file.write_text('{"title": "Why?"}\n')
    with pytest.raises(DataError, match="line 1 of synthesis.path has no question"):
        read_questions(file)
    text = tmp_path / "questions.txt"
    text.write_text("Why?\n\nHow?\n")
    assert [record.question for record in read_questions(text)] == ["Why?", "How?"]


def test_templates_become_questions_each_once():
    found = template_questions(["Sing of {what}.", "Sing."], {"what": ["sea", "hill"]}, number=9)
    assert sorted(record.question for record in found) == ["Sing of hill.", "Sing of sea.", "Sing."]


def test_texts_begin_with_their_prefix_but_not_with_what_the_tokenizer_puts_before_them(tmp_path):
    ask, writer = ask_of(tmp_path, lambda request: " sea" if request.prefix else " ")
    found = continued_texts(ask, prefixes=["the", ""], number=3, sampling=SAMPLING, beginning="<s>")
    assert [request.prefix for request in writer.asked] == ["<s>the", "", "<s>the"]
    assert [(record.text, record.dropped) for record in found] == [
        ("the sea", ""),
        (" ", "an empty text"),
        ("the sea", ""),
    ]
