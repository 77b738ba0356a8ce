"""What each filter drops and what it keeps, case by case, and what holds for all of them."""

import copy
import string
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from stillhouse.core.config import Config, parse_recipe
from stillhouse.core.errors import ModelError, RecipeError, StillhouseError
from stillhouse.data.refusals import OPENINGS, refusal_in
from stillhouse.data.repetition import loop_at_end, repeated_share, top_share
from stillhouse.synthesis.config import MagpieConfig
from stillhouse.synthesis.filters import (
    FilterConfig,
    account_of,
    build_filters,
    count_dropped,
    default_filters,
    run_filters,
)
from stillhouse.synthesis.filters.agreement import AgreementConfig
from stillhouse.synthesis.filters.core import split_reason
from stillhouse.synthesis.filters.duplicates import DuplicatesConfig, NearDuplicatesConfig
from stillhouse.synthesis.filters.keywords import SELF_INSTRUCT, KeywordsConfig
from stillhouse.synthesis.filters.language import LanguageConfig, ScriptConfig
from stillhouse.synthesis.filters.leakage import LeakageConfig
from stillhouse.synthesis.filters.length import LengthConfig, UnfinishedConfig
from stillhouse.synthesis.filters.refusals import RefusalsConfig
from stillhouse.synthesis.filters.repetition import RepetitionConfig
from stillhouse.synthesis.records import Record

GUIDE = Path(__file__).parents[2] / "docs" / "filters.md"
QUESTION = "What does a fox eat in winter?"


def asked(question=QUESTION, **values):
    return Record(**values).say("user", question)


def chat(answer, question=QUESTION, **values):
    return asked(question, **values).say("assistant", answer)


def sample(answer, number, question=QUESTION):
    return chat(answer, question, lineage={"seed": "1", "answer": {"sample": number}})


def reason(config, record, **build):
    (found,) = run_filters([record], [config.build(**build)])
    return found.dropped.removeprefix(f"{config.name}: ")


# Length and ends.


@pytest.mark.parametrize(
    ("settings", "record", "expected"),
    [
        ({"shortest_answer": 8}, chat("It eats four things."), "answer too short (4 words, 8 wanted)"),
        ({"shortest_answer": 4}, chat("It eats four things."), ""),
        ({}, chat(" \n "), "answer too short (0 words, 1 wanted)"),
        ({"longest_answer": 3}, chat("It eats four things."), "answer too long (4 words, 3 allowed)"),
        ({}, asked("Why so?"), "question too short (2 words, 4 wanted)"),
        ({}, chat("Mice.").say("user", "Why?").say("assistant", "They are near."), ""),
        ({"longest_question": 6}, chat("Mice."), "question too long (7 words, 6 allowed)"),
        ({}, asked(" ".join(["word"] * 151)), "question too long (151 words, 150 allowed)"),
        ({}, asked(), ""),
        ({}, Record(text="once upon a time"), "text too short (4 words, 16 wanted)"),
        ({"shortest_text": 4}, Record(text="once upon a time"), ""),
        ({"shortest_answer": 3}, chat("狐吃鼠"), ""),
        ({}, Record(messages=({"role": "system", "content": "Be."}, {"role": "user", "content": QUESTION})), ""),
    ],
)
def test_length(settings, record, expected):
    assert reason(LengthConfig(**settings), record) == expected


def test_length_in_tokens_asks_the_writers_tokenizer(tokenizer):
    config = LengthConfig(unit="tokens", shortest_answer=5)
    assert reason(config, chat("x y"), tokenizer=tokenizer) == "answer too short (3 tokens, 5 wanted)"
    assert reason(config, chat("x y z"), tokenizer=tokenizer) == ""
    with pytest.raises(ModelError, match="Say unit: words"):
        config.build()


@pytest.mark.parametrize(
    ("settings", "record", "expected"),
    [
        ({}, chat("It eats mice"), ""),
        ({}, chat("It eats", finished=False), "answer cut off (after 2 words)"),
        ({}, asked("What does", finished=False), "question cut off (after 2 words)"),
        ({"punctuation": True}, chat("It eats mice"), "answer without an end (its last words: 'It eats mice')"),
        ({"punctuation": True}, chat('It says "mice."'), ""),
        ({"punctuation": True}, chat("**Mice!**"), ""),
        ({"punctuation": True}, chat("它吃老鼠。"), ""),
    ],
)
def test_unfinished(settings, record, expected):
    assert reason(UnfinishedConfig(**settings), record) == expected


# Repetition.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The fox runs over the hill and eats a mouse.", ""),
        ("Well, the fox " + "and the fox " * 5, "answer ends in a loop (the same 3 words, 4 times or more)"),
        ("It goes on " + "ha " * 5, ""),
        ("It goes on " + "ha " * 8, "answer ends in a loop (the same word, 8 times or more)"),
        ("mice\nfish\nmice\nfish\nberries of red", "answer repeats lines (40% of its lines, 30% allowed)"),
        (
            "a fox eats mice and fish. other words stand here between. a fox eats mice and fish. so it is",
            "answer repeats words (27% in runs of 5, 15% allowed)",
        ),
    ],
)
def test_repetition(text, expected):
    assert reason(RepetitionConfig(), chat(text)) == expected


def test_a_higher_scale_keeps_more():
    text = "mice\nfish\nmice\nfish\nberries of red"
    assert reason(RepetitionConfig(scale=3), chat(text)) == ""


def test_shares_of_repeated_runs_by_hand():
    words = ["aa", "bb", "cc", "aa", "bb", "dd"]
    assert top_share(words, 2) == pytest.approx(8 / 12)  # aa bb, twice
    assert repeated_share(words, 2) == pytest.approx(4 / 12)  # the second aa bb
    assert (top_share(["one", "two"], 2), repeated_share([], 5)) == (0.0, 0.0)


@given(
    head=st.lists(st.sampled_from("abcdef"), max_size=9), loop=st.lists(st.sampled_from("abc"), min_size=1, max_size=6)
)
def test_every_loop_at_the_end_is_found(head, loop):
    period = loop_at_end([*head, *loop * 8], times=4)
    assert 0 < period <= len(loop)


@given(st.permutations([str(n) for n in range(40)]))
def test_words_that_differ_are_no_loop(words):
    assert loop_at_end(words, times=2) == 0


# Refusals.

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with that request.",
    "I am very sorry, but I am not able to do that.",
    "Sorry, I can't do that.",
    "I apologize, but I cannot provide that.",
    "My apologies, but I'm unable to open links.",
    "I cannot provide medical advice.",
    "I can’t help you with this.",
    "I won't write that.",
    "I'm not able to browse the internet.",
    "I am unable to see pictures.",
    "I must decline.",
    "As an AI language model, I do not have feelings.",
    "As an AI, I have no body.",
    "**As a large language model**, I do not know.",
    "I'm just an AI, so I don't eat.",
    "I do not have access to your files.",
    "I don't have the ability to remember.",
    "Unfortunately, I cannot open that.",
    "Hello! I'm sorry, but I can't answer that.",
    "I don't feel comfortable with that.",
    "I'm sorry for any mistake but as a digital AI, I don't have the capability to see pictures.",
    "I'm sorry, but as a text-based AI language model I have no body.",
    "I apologize for any confusion, but I do not have direct access to your files.",
    "My sincere apologies, but that is outside my capabilities.",
    "I'm afraid I can't do that.",
    "I'm sorry, but I lack the ability to smell.",
    "As a digital assistant, I do not eat.",
    "As an artificial intelligence language model, I have no opinions.",
    "As a language model developed by some firm, I do not know.",
    "Being an AI, I never slept.",
    "As a virtual assistant I cannot sleep.",
    "I don't currently have the capability to draw.",
    "I do not possess the ability to feel.",
    "I have no way to look that up.",
    "I have no access to the internet.",
    "I'm not capable of seeing.",
    "I am not currently able to open links.",
    "I was not designed to give medical advice.",
    "That is beyond my capabilities.",
    "This falls outside the scope of my knowledge.",
    "It's not possible for me to taste soup.",
    "Unfortunately, I don't have access to your files.",
    "Unfortunately, as an AI, I cannot taste soup.",
)
ANSWERS = (
    "I'm sorry to hear that. You could rest.",
    "Sorry for the wait. Here it is.",
    "I cannot recommend this book enough, and here is why you cannot help loving it.",
    "I can't wait to tell you: foxes eat mice.",
    "As an AI researcher, you will read a lot.",
    "A fox eats mice. I'm sorry, but I can't say more.",
    "I'm an AI assistant made to answer questions.",
    "I have to go to the market, said the fox.",
    "Unfortunately, the fox died.",
    "Foxes are unable to fly.",
    "I'm sorry for any mistake; here is the corrected table.",
    "I'm sorry you lost your access card. Ask at the desk.",
    "I'm afraid of the dark, said the fox.",
    "As a digital artist, I draw foxes.",
    "As a language model researcher, I read papers.",
    "As an AI model grows, its loss falls.",
    "As artificial intelligence spreads, jobs change.",
    "I have no idea who ate the goose, said the fox, but I have no doubt that it was good.",
    "That is beyond my wildest dreams.",
    "It's not possible to divide by zero.",
    "Being a fox, I run.",
    "I was unable to sleep, said the fox.",
    "",
)


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_told_by_how_they_begin(answer):
    assert reason(RefusalsConfig(), chat(answer)).startswith("answer refuses (it begins like")


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_only_sounds_like_a_refusal_is_kept(answer):
    assert reason(RefusalsConfig(), chat(answer)) == ""


def test_every_documented_opening_is_one():
    assert all(refusal_in(f"{shown} help with that, and I don't know.") for shown, _ in OPENINGS)


def test_a_refusal_in_a_question_is_none():
    assert reason(RefusalsConfig(), chat("Then stay.", "I'm sorry, but I can't help with that.")) == ""


def test_openings_of_ones_own():
    assert reason(RefusalsConfig(), chat("Es tut mir leid.")) == ""
    assert reason(RefusalsConfig(openings=("es tut mir leid",)), chat("Es tut mir leid.")) != ""


def test_a_share_of_the_refusals_can_be_kept():
    records = [chat(REFUSALS[0], f"{QUESTION} Number {n}.") for n in range(200)]

    def kept(share):
        return [record for record in run_filters(records, [RefusalsConfig(keep=share).build()]) if not record.dropped]

    assert (kept(0.0), kept(1.0)) == ([], records)
    assert 30 < len(kept(0.25)) < 70
    assert kept(0.25) == kept(0.25)
    assert all(record in kept(0.5) for record in kept(0.25))


# Leakage.


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (chat("A fox.<|im_end|>"), 'special token in the answer ("<|im_end|>")'),
        (asked("What is a fox? [/INST]"), 'special token in the question ("[/INST]")'),
        (chat("A fox.<end_of_turn>"), 'special token in the answer ("<end_of_turn>")'),
        (chat("A fox.\n### Instruction:\nGo on."), 'heading of a template in the answer ("### Instruction:")'),
        (chat("A fox.\nUser: And then?"), 'other speaker\'s turn in the answer ("User:")'),
        (chat("**Human:** hi"), 'other speaker\'s turn in the answer ("**Human:")'),
        (chat("A fox.\nassistant\nA fox."), 'other speaker\'s turn in the answer ("assistant")'),
        (chat("Tell the user: a fox."), ""),
        (chat("### Inputs and outputs are no fox"), 'heading of a template in the answer ("### Inputs")'),
        (chat("## Introduction\nif a < b | c > d: pass"), ""),
        (chat("<b>A fox</b> <s>old</s>"), ""),
        (chat("Answer: a fox."), ""),
        (Record(text="A fox <|endoftext|> ran."), 'special token in the text ("<|endoftext|>")'),
    ],
)
def test_template_leakage(record, expected):
    assert reason(LeakageConfig(), record) == expected


def test_special_tokens_of_a_real_tokenizer(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)  # others use it, too
    tokenizer.add_special_tokens({"additional_special_tokens": ["[FOX]"]})
    assert reason(LeakageConfig(), chat("A fox [FOX].")) == ""
    assert reason(LeakageConfig(), chat("A fox [FOX]."), tokenizer=tokenizer) == 'special token in the answer ("[FOX]")'


def test_roles_can_be_let_through():
    assert reason(LeakageConfig(roles=False), chat("User: hi\nAssistant: hello")) == ""


# Keywords.


def self_instruct_keeps(instruction):
    """The rules of `post_process_gpt3_response`, written anew from its description; its test for length is ours of length."""
    words = instruction.lower().replace("?", " ").replace(".", " ").replace(",", " ").split()
    text = f" {' '.join(words)} "
    if any(f" {word} " in text for word in SELF_INSTRUCT) or instruction.startswith("Write a program"):
        return False
    return instruction[0] not in string.punctuation and instruction[0].isascii()


@pytest.mark.parametrize(
    "question",
    [
        "Draw a fox.",
        "Describe this picture.",
        "Redraw nothing, imagine.",
        "Go to the hill.",
        "What is a filed claim?",
        "What is in the file?",
        "Write a program that sorts.",
        "Write a programme for a concert.",
        "?What",
        "Été is what?",
        "(a) What",
        "What is a video, a map or an image?",
        "What makes good maps good?",
        QUESTION,
    ],
)
def test_keywords_keep_what_self_instruct_keeps(question):
    assert (reason(KeywordsConfig(), asked(question)) == "") == self_instruct_keeps(question)


def test_keywords_say_what_was_found():
    assert reason(KeywordsConfig(), asked("Draw a fox.")) == 'question holds a word of the list ("Draw")'
    assert reason(KeywordsConfig(words=()), asked("Draw a fox.")) == ""
    assert reason(KeywordsConfig(odd_beginnings=False), asked("?What")) == ""


# Languages and letters.


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "A fox eats mice.", ""),
        ({}, "Лиса ест мышей.", "answer in other letters (0% latin, 80% wanted)"),
        ({"scripts": ["cyrillic"]}, "Лиса ест мышей.", ""),
        ({"scripts": ["latin", "cyrillic"]}, "Лиса: fox.", ""),
        ({}, "The letter Ω is the last of the Greek ones.", ""),
        ({}, "1 + 1 = 2", ""),
        ({"scripts": ["chinese"]}, "狐吃鼠", ""),
    ],
)
def test_scripts(settings, text, expected):
    config = parse_recipe(ScriptConfig, {"name": "script", **settings})
    assert reason(config, chat(text, question="?")) == expected


def test_languages():
    pytest.importorskip("py3langid")
    config = LanguageConfig(languages=("en",))
    question = "What does a small red fox eat in a cold winter?"
    assert reason(config, chat("In the winter a fox eats mice, birds and what people leave behind.", question)) == ""
    found = reason(config, chat("Im Winter frisst der Fuchs Mäuse, Vögel und was die Leute übrig lassen.", question))
    assert found.startswith("answer in another language (de, ")
    assert reason(config, chat("Oui, bien sûr.", question)) == ""  # too short to tell
    with pytest.raises(StillhouseError, match="'eng' is no language that py3langid knows. Did you mean 'en'"):
        LanguageConfig(languages=("eng",)).build()


def test_a_missing_package_is_said_with_two_ways_out(monkeypatch):
    from stillhouse.data import languages

    languages.identifier.cache_clear()
    monkeypatch.setattr(languages, "find_spec", lambda name: None)
    with pytest.raises(StillhouseError, match=r"stillhouse\[language\].*or use the filter `script`"):
        LanguageConfig(languages=("en",)).build()
    languages.identifier.cache_clear()


# Agreement.


@pytest.mark.parametrize(
    ("settings", "answers", "expected"),
    [
        ({"by": "result"}, ["So 18.", "It is $18.00.", "I say 5."], ""),
        ({"by": "result"}, ["I say 5.", "So 18.", "It is 18."], "answers disagree (1 of 3, 50% wanted)"),
        ({"by": "result"}, ["#### 18", "18 of 20: \\boxed{18}"], ""),
        ({"by": "result"}, ["No idea.", "So 18."], "answer without a result (no number, and nothing marked)"),
        ({"by": "result"}, ["So 18."], "too few answers to compare (1, 2 wanted)"),
        ({"by": "result", "least": 1.0}, ["18", "18", "5"], "answers disagree (2 of 3, 100% wanted)"),
        ({"by": "text"}, ["Mice!", "mice", "fish"], ""),
        ({"by": "text"}, ["fish", "mice", "Mice."], "answers disagree (1 of 3, 50% wanted)"),
        ({"by": "rouge_l"}, ["a fox eats mice", "a fox eats fish"], ""),
        ({"by": "rouge_l"}, ["a fox eats mice", "birds fly south now"], "answers disagree (ROUGE-L 0.00, 0.5 wanted)"),
    ],
)
def test_agreement(settings, answers, expected):
    first, *others = [sample(answer, number) for number, answer in enumerate(answers)]
    config = AgreementConfig(**settings)
    assert reason(config, Record(**{**vars(first), "others": tuple(others)})) == expected
    together = run_filters([first, *others], [config.build()])
    assert together[0].dropped.removeprefix("agreement: ") == expected


def test_answers_to_other_questions_do_not_count():
    records = [sample("18", 0), sample("18", 1), sample("5", 0, "And what does a bear eat?")]
    found = run_filters(records, [AgreementConfig(by="result").build()])
    assert [record.dropped for record in found][:2] == ["", ""]
    assert "too few" in found[2].dropped


# What holds for all.

ALL = TypeAdapter(tuple[FilterConfig, ...]).validate_python(
    [
        {"name": name}
        for name in (
            *("length", "unfinished", "template_leakage", "repetition", "refusals", "script", "keywords"),
            *("duplicates", "near_duplicates"),
        )
    ]
)
TEXTS = st.one_of(
    st.text(max_size=80),
    st.sampled_from([*REFUSALS, *ANSWERS, QUESTION, "Why?", "ha " * 9, "User: hi", "<|im_end|>", "a b\n" * 5]),
)
SAID = st.lists(st.tuples(st.sampled_from(["asked", "chat", "cut off", "text"]), TEXTS, TEXTS), max_size=8)


def records_of(said):
    make = {
        "asked": lambda one, other: asked(one),
        "chat": lambda one, other: chat(other, one),
        "cut off": lambda one, other: chat(other, one, finished=False),
        "text": lambda one, other: Record(text=one),
    }
    return [make[kind](one, other) for kind, one, other in said]


@settings(max_examples=60, deadline=None)
@given(said=SAID)
def test_filters_keep_the_order_and_every_record_and_drop_nothing_more_the_second_time(said):
    records = records_of(said)
    filters = build_filters(ALL)
    found = run_filters(records, filters)
    assert [(one.messages, one.text) for one in found] == [(one.messages, one.text) for one in records]
    assert run_filters(records, build_filters(ALL)) == found
    assert run_filters(found, filters) == found
    kept = [record for record in found if not record.dropped]
    assert run_filters(kept, filters) == kept


@settings(max_examples=40, deadline=None)
@given(said=SAID)
def test_every_dropped_record_is_counted_once(said):
    filters = build_filters(ALL)
    found = run_filters(records_of(said), filters)
    lines = count_dropped(found, filters)
    assert sum(line.count for line in lines) == sum(bool(record.dropped) for record in found)
    assert list(dict.fromkeys(line.filter for line in lines)) == [one.name for one in filters]
    assert all(line.explanation for line in lines)


def test_a_filter_does_not_see_what_was_dropped_before_it():
    records = [chat("x", finished=False), chat("x")]
    found = run_filters(records, build_filters([UnfinishedConfig(), DuplicatesConfig(of="all")]))
    assert [bool(record.dropped) for record in found] == [True, False]
    found = run_filters(records, build_filters([DuplicatesConfig(of="all"), UnfinishedConfig()]))
    assert [record.dropped.partition(":")[0] for record in found] == ["unfinished", "duplicates"]


def test_what_another_step_dropped_keeps_its_reason_and_is_counted():
    filters = build_filters(default_filters("chat"))
    found = run_filters([chat("x").drop("an empty answer"), chat("A fox eats mice.")], filters)
    assert [record.dropped for record in found] == ["an empty answer", ""]
    last = count_dropped(found, filters)[-1]
    assert (last.filter, last.reason, last.count) == ("an empty answer", "an empty answer", 1)


def test_the_account_is_plain_values():
    filters = build_filters(default_filters("chat"))
    records = [chat(REFUSALS[0], f"{word} is it that a fox eats there?") for word in ("What", "Where", "How come")]
    account = account_of(run_filters([*records, asked("Why?")], filters), filters)
    assert account["counts"] == {"asked": 4, "answered": 3, "kept": 0}
    line = next(line for line in account["dropped"] if line["filter"] == "refusals")
    assert (line["count"], line["example"], line["reason"]) == (3, REFUSALS[0], "answer refuses")
    assert split_reason("length: answer too short (4 words, 8 wanted)") == (
        "length",
        "answer too short",
        "4 words, 8 wanted",
    )


# What a recipe can get wrong.


class Filters(Config):
    filters: tuple[FilterConfig, ...]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "lenght"}, "filters.0.name: 'lenght' is not known. Did you mean 'length'?"),
        ({}, "filters.0.name: it must be given"),
        (
            {"name": "length", "shortest_anser": 3},
            "filters.0.shortest_anser: there is no such key. Did you mean 'shortest_answer'",
        ),
        (
            {"name": "length", "shortest_answer": 9, "longest_answer": 3},
            r"longest_answer \(3\) is below shortest_answer \(9\), so nothing would be kept. Raise",
        ),
        ({"name": "script", "scripts": ["latn"]}, "'latn' is not known. Did you mean 'latin'"),
        ({"name": "agreement"}, "filters.0.by: it must be given"),
        ({"name": "decontamination", "paths": []}, "filters.0.paths"),
        ({"name": "near_duplicates", "threshold": 1.5}, "filters.0.threshold: 1.5 came"),
        ({"name": "refusals", "keep": -1}, "filters.0.keep: -1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_right(values, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(Filters, {"filters": [values]})


def test_agreement_needs_answers_to_compare():
    values = {"kind": "magpie", "number": 5, "filters": [{"name": "agreement", "by": "result", "samples": 3}]}
    message = r"filters.0 \(agreement\) compares 3 answers or more, but answers.samples is 2. Raise it"
    with pytest.raises(RecipeError, match=message):
        parse_recipe(MagpieConfig, {**values, "answers": {"samples": 2}})
    assert parse_recipe(MagpieConfig, {**values, "answers": {"samples": 3}}).answers.samples == 3


def test_the_guide_has_a_row_for_each_filter_that_names_all_of_its_settings():
    rows = {
        line.split("|")[1].strip(" `"): line
        for line in GUIDE.read_text(encoding="utf-8").splitlines()
        if line[:3] == "| `"
    }
    for kind in (argument for argument in get_args(get_args(FilterConfig)[0])):
        row = rows[kind.model_fields["name"].default]
        for setting in kind.model_fields.keys() - {"name"}:
            assert f"`{setting}`" in row
        for name, filters in (("chat", default_filters("chat")), ("text", default_filters("text"))):
            assert (name in row.split("|")[4]) == any(isinstance(one, kind) for one in filters)


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_the_defaults_can_be_written_out_and_read_again(kind):
    chosen = Filters(filters=default_filters(kind))
    assert parse_recipe(Filters, chosen.model_dump(mode="json")) == chosen


def test_what_is_right_for_chat_is_kept_by_the_defaults():
    good = [
        chat("Foxes eat mice, birds, eggs and berries. In winter they hunt under the snow."),
        chat("```python\nprint('a fox')\n```", "How do I print a fox in Python?"),
        chat("4.", "How much is two and two?"),
        chat("1. Mice\n2. Fish\n3. Berries", "Name three things that a fox eats."),
    ]
    assert run_filters(good, build_filters(default_filters("chat"))) == good


def test_near_duplicates_and_duplicates_are_two_filters():
    records = [asked(QUESTION), asked("what does a fox eat in WINTER"), asked("What does a fox eat in winter, then?")]
    found = run_filters(records, build_filters([DuplicatesConfig(), NearDuplicatesConfig()]))
    assert [record.dropped.partition(":")[0] for record in found] == ["", "duplicates", "near_duplicates"]
