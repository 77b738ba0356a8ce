"""Pairs of answers: every form that people keep them in, and the tokens that count of each."""

import copy
import json

import pytest

from stillhouse.core.batch import PreferenceBatch, as_batch
from stillhouse.core.errors import DataError, ModelError
from stillhouse.data.config import PreferencesDataConfig
from stillhouse.data.preference_forms import read_preferences
from stillhouse.data.preferences import PreferenceReader, PreferenceRows
from stillhouse.data.prepare import prepare

ASK = [{"role": "user", "content": "who ran?"}]
FOX, GIRL = ({"role": "assistant", "content": f"the {who} ran"} for who in ("fox", "girl"))
HUMAN = "\n\nHuman: who ran?\n\nAssistant:"
ULTRA = [
    {"response": "the girl ran", "overall_score": 4.5},
    {"response": "the fox ran", "overall_score": "9"},
    {"response": "nobody", "overall_score": 1.0},
]

FORMS = {
    "prompt and answers as texts": {"prompt": "who ran?", "chosen": "the fox ran", "rejected": "the girl ran"},
    "messages and texts": {"messages": ASK, "chosen": "the fox ran", "rejected": "the girl ran"},
    "as synthesis writes them": {
        "messages": ASK,
        "chosen": "the fox ran",
        "rejected": "the girl ran",
        "chosen_score": 0.9,
        "rejected_score": 0.25,
    },
    "TRL with messages": {"prompt": ASK, "chosen": [FOX], "rejected": [GIRL]},
    "TRL with an implicit prompt": {"chosen": [*ASK, FOX], "rejected": [*ASK, GIRL]},
    "UltraFeedback, binarised": {
        "prompt": "who ran?",
        "chosen": [*ASK, FOX],
        "rejected": [*ASK, GIRL],
        "messages": [*ASK, FOX],
        "score_chosen": 8.0,
        "score_rejected": 7.5,
    },
    "HH-RLHF": {"chosen": f"{HUMAN} the fox ran", "rejected": f"{HUMAN} the girl ran"},
    "HH-RLHF with its prompt apart": {"prompt": HUMAN, "chosen": " the fox ran".strip(), "rejected": "the girl ran"},
    "OpenAI": {"input": {"messages": ASK}, "preferred_output": [FOX], "non_preferred_output": [GIRL]},
    "a question": {"question": "who ran?", "chosen": "the fox ran", "rejected": "the girl ran"},
}


def write(folder, rows):
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def learnt(example, tokenizer):
    return tokenizer.decode([token for token, weight in zip(example.ids, example.weights, strict=True) if weight])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pair(form, tmp_path, tokenizer):
    (row,), left = read_preferences(write(tmp_path, [FORMS[form]]))
    (pair,) = PreferenceReader(tokenizer, max_tokens=64).pairs([row])
    assert not left
    assert learnt(pair.chosen, tokenizer) == "the fox ran<|end|>"
    assert learnt(pair.rejected, tokenizer) == "the girl ran<|end|>"
    prompts = [side.ids[: side.weights.index(1.0)] for side in pair.sides]
    assert prompts[0] == prompts[1] == tuple(tokenizer("<|user|>who ran?<|end|><|assistant|>")["input_ids"])
    assert (row.scores is not None) == any("score" in key for key in FORMS[form])


@pytest.mark.parametrize(("against", "others"), [("worst", {"nobody"}), ("random", {"nobody", "the girl ran"})])
def test_of_several_answers_the_best_is_chosen_over_another(against, others, tmp_path, tokenizer):
    rows = [{"instruction": f"who ran {n}?", "completions": ULTRA} for n in range(20)]
    rows.append({"prompt": "x", "responses": ["the fox ran", "nobody"], "scores": [2, 1]})
    found, left = read_preferences(write(tmp_path, rows), against=against)
    assert not left and len(found) == 21
    assert {row.chosen.messages[-1]["content"] for row in found} == {"the fox ran"}
    assert {row.rejected.messages[-1]["content"] for row in found} == others | {"nobody"}
    assert all(row.scores[0] in (9.0, 2.0) and row.scores[1] < row.scores[0] for row in found)
    again, _ = read_preferences(write(tmp_path, rows), against=against)
    assert again == found


def test_what_is_no_pair_is_left_out_and_counted(tmp_path):
    pair = FORMS["prompt and answers as texts"]
    rows = [
        pair,
        {**pair, "chosen_score": 1, "rejected_score": 1},
        {**pair, "chosen_score": 1, "rejected_score": 2},
        {**pair, "rejected": pair["chosen"]},
        {"prompt": "who?", "completions": [{"response": "a", "score": 1}, {"response": "b", "score": 1}]},
        {"chosen": [*ASK, FOX, *ASK, FOX], "rejected": [*ASK, GIRL, *ASK, FOX]},
        {"prompt": [*ASK, FOX], "chosen": [FOX], "rejected": [GIRL]},
    ]
    found, left = read_preferences(write(tmp_path, rows))
    assert len(found) == 1
    assert left == {
        "scores that tie": 2,
        "scores that say the opposite": 1,
        "the same answer twice": 1,
        "answers that are not both one last turn behind the same messages": 1,
        "a prompt that ends with an answer": 1,
    }


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, ["line 1", "'text'", "'chosen' and 'rejected'"]),
        ({"chosen": "a", "rejected": "b"}, ["line 1", "no prompt"]),
        ({"prompt": "who?", "chosen": 3, "rejected": "b"}, ["line 1", "answers 3"]),
        ({"prompt": "who?", "chosen": "a", "rejected": " "}, ["line 1", "Expected a text"]),
        ({"prompt": 7, "chosen": "a", "rejected": "b"}, ["line 1", "prompt 7"]),
        ({"prompt": "who?", "completions": ["a", "b"]}, ["line 1", "2 answers and 0 scores"]),
        (
            {"prompt": "who?", "chosen": "a", "rejected": "b", "chosen_score": "x", "rejected_score": 1},
            ["chosen_score"],
        ),
        ({"prompt": "who?", "chosen": "a", "rejected": "a"}, ["none of the rows", "the same answer twice"]),
    ],
)
def test_a_row_in_no_form_is_refused_by_name(row, words, tmp_path):
    with pytest.raises(DataError) as refused:
        read_preferences(write(tmp_path, [row]))
    for word in words:
        assert word in str(refused.value)


def test_texts_are_read_as_they_stand(tmp_path, tokenizer):
    rows = [
        {"prompt": "the fox", "chosen": " ran", "rejected": " sang"},
        {"chosen": "one day the fox ran", "rejected": "one day the girl ran"},
    ]
    found, _ = read_preferences(write(tmp_path, rows), reads="text")
    first, second = PreferenceReader(tokenizer, max_tokens=64, needs_template=False).pairs(found)
    assert learnt(first.chosen, tokenizer) == " ran<|end|>"
    assert tokenizer.decode(first.chosen.ids) == "the fox ran<|end|>"
    assert [learnt(side, tokenizer) for side in second.sides] == [" fox ran<|end|>", " girl ran<|end|>"]
    with pytest.raises(DataError, match=r"data\.reads is text"):
        read_preferences(write(tmp_path, [FORMS["TRL with messages"]]), reads="text")


def test_a_pair_with_one_answer_too_long_is_left_out_whole_and_counted(tmp_path, tokenizer):
    long = {"prompt": "who ran?", "chosen": "the fox ran", "rejected": "the girl ran " * 20}
    found, _ = read_preferences(write(tmp_path, [FORMS["a question"], long]))
    reader = PreferenceReader(tokenizer, max_tokens=30)
    assert len(reader.pairs(found)) == 1
    (reason,) = reader.dropped
    assert "data.sequence_tokens (30)" in reason and reader.dropped[reason] == 1


def test_where_a_template_is_needed_and_none_is_there_it_is_said_what_to_do(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ModelError, match=r"data\.reads: text"):
        PreferenceReader(bare, max_tokens=64)


def test_turns_of_the_prompt_are_never_learnt(tmp_path, tokenizer):
    row = {"prompt": [*ASK, FOX, {"role": "user", "content": "and sang?"}], "chosen": "a girl", "rejected": "a fox"}
    found, _ = read_preferences(write(tmp_path, [{**row, "system": "be brief"}]))
    (pair,) = PreferenceReader(tokenizer, max_tokens=64).pairs(found)
    assert learnt(pair.chosen, tokenizer) == "a girl<|end|>"
    assert tokenizer.decode(pair.chosen.ids).startswith("<|system|>be brief<|end|><|user|>who ran?")


def make_rows(tmp_path, tokenizer, *, scores=True, count=4):
    names = ("chosen_score", "rejected_score")
    rows = [
        {"prompt": f"who ran {n}?", "chosen": "fox " * (n + 1), "rejected": "girl"}
        | (dict(zip(names, (n + 1, n), strict=True)) if scores else {})
        for n in range(count)
    ]
    found, _ = read_preferences(write(tmp_path, rows))
    return PreferenceRows(PreferenceReader(tokenizer, max_tokens=64).pairs(found))


def test_a_batch_has_both_answers_of_each_pair_and_tokens_of_the_chosen_ones_to_learn(tmp_path, tokenizer):
    rows = make_rows(tmp_path, tokenizer)
    batch = as_batch(rows.collate([2, 0]))
    assert isinstance(batch, PreferenceBatch)
    assert batch.num_pairs == 2 and len(batch.ids) == 4
    assert (batch.weights[1::2] == 0).all() and (batch.weights[::2] == batch.answer_weights[::2]).all()
    sides = [side for number in (2, 0) for side in rows.pairs[number].sides]
    for row, side in enumerate(sides):
        real = batch.ids[row][batch.real[row]].tolist()
        assert tuple(real) == side.ids
        wanted = [token for token, weight in zip(side.ids, side.weights, strict=True) if weight]
        assert batch.answer_tokens[batch.answer_rows == row].tolist() == wanted
    assert batch.scores.tolist() == [3, 2, 1, 0]
    assert batch.reference_logprobs is None
    assert as_batch(make_rows(tmp_path, tokenizer, scores=False).collate([0])).scores is None


def test_pairs_of_one_prompt_are_on_one_side(tmp_path, tokenizer):
    rows = [
        {
            "prompt": f"who ran {n // 2}?",
            "chosen": f"fox {n}",
            "rejected": "girl",
            "chosen_score": 2,
            "rejected_score": n % 3,
        }
        for n in range(20)
    ]
    path = write(tmp_path, rows)
    found = prepare(PreferencesDataConfig(path=path, held_out=0.3), tokenizer)
    sides = [
        {side.ids[: side.weights.index(1.0)] for pair in rows.pairs for side in pair.sides}
        for rows in (found.train, found.held_out)
    ]
    assert not sides[0] & sides[1] and all(sides)
    assert any("scores that tie" in note for note in found.notes)
    with pytest.raises(DataError, match=r"Raise data\.sequence_tokens"):
        prepare(PreferencesDataConfig(path=path, held_out=0.3, sequence_tokens=8), tokenizer)
