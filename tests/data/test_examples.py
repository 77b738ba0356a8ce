"""An example in pieces: nothing is lost, and every token to learn is predicted exactly once."""

from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data.examples import Example, windows
from stillhouse.data.text import Row, to_examples

WEIGHTS = st.lists(st.sampled_from([0.0, 1.0, 1.0, 0.25]), min_size=1, max_size=60)


def _example(weights, num_bytes=0):
    return Example(tuple(range(100, 100 + len(weights))), tuple(weights), num_bytes)  # every token once


@given(weights=WEIGHTS, max_tokens=st.integers(2, 20))
def test_windows_predict_every_token_to_learn_exactly_once_with_its_own_weight(weights, max_tokens):
    example = _example(weights)
    judged = [
        (token, weight)
        for piece in windows(example, max_tokens=max_tokens)
        for token, weight in zip(piece.ids[1:], piece.weights[1:], strict=True)
        if weight > 0
    ]
    assert judged == [pair for pair in zip(example.ids[1:], example.weights[1:], strict=True) if pair[1] > 0]


@given(weights=WEIGHTS, max_tokens=st.integers(2, 20), num_bytes=st.integers(0, 500))
def test_the_bytes_of_all_windows_are_those_of_the_example(weights, max_tokens, num_bytes):
    pieces = list(windows(_example(weights, num_bytes), max_tokens=max_tokens))
    assert sum(piece.num_bytes for piece in pieces) == (num_bytes if any(weights[1:]) else 0)
    assert all(piece.num_bytes >= 0 for piece in pieces)


@given(weights=WEIGHTS, max_tokens=st.integers(2, 20))
def test_a_window_is_a_piece_of_the_example_that_fits_and_has_something_to_learn(weights, max_tokens):
    example = _example(weights)
    for piece in windows(example, max_tokens=max_tokens):
        assert 2 <= len(piece.ids) == len(piece.weights) <= max_tokens
        assert piece.weights[0] == 0 and any(piece.weights)
        start = example.ids.index(piece.ids[0])
        assert example.ids[start : start + len(piece.ids)] == piece.ids


@given(weights=WEIGHTS)
def test_an_example_that_fits_is_one_window(weights):
    example = _example([0.0, *weights[1:]], num_bytes=7)
    assert list(windows(example, max_tokens=60)) == ([example] if any(weights[1:]) else [])


@given(weights=WEIGHTS, max_tokens=st.integers(2, 20))
def test_every_window_knows_which_document_it_is_of(weights, max_tokens):
    example = _example(weights)
    pieces = list(windows(example, max_tokens=max_tokens))
    again = [piece for outer in pieces for piece in windows(outer, max_tokens=2)]
    assert {piece.document for piece in [*pieces, *again]} <= {example.document}


def test_the_key_of_an_example_is_that_of_its_tokens(build_example):
    one, same, other = build_example(0, 9), build_example(0, 9, prompt=4), build_example(1, 9)
    assert one.key == same.key != other.key
    assert Example((1, 23), (0.0, 1.0)).key != Example((12, 3), (0.0, 1.0)).key


def test_no_token_crosses_from_the_prompt_into_the_text(tokenizer):
    whole = "the old man had a boat"
    together, apart = tokenizer(whole, add_special_tokens=False)["input_ids"], []
    for cut in range(len(whole)):
        (example,) = to_examples([Row(whole[cut:], whole[:cut])], tokenizer, max_tokens=64)
        read = [token for token, weight in zip(example.ids, example.weights, strict=True) if weight == 0]
        learnt = [token for token, weight in zip(example.ids, example.weights, strict=True) if weight > 0]
        assert tokenizer.decode(learnt) == whole[cut:] + "<|end|>"
        assert tokenizer.decode(read) == (whole[:cut] or "<|start|>")
        apart.append([*read, *learnt[:-1]] != together)
    assert any(apart[1:])  # so the law is worth stating: tokenised together, a token would cross


def test_text_weighs_one_and_what_comes_before_it_nothing(tokenizer):
    (example,) = to_examples([Row("the fox ran", "a girl found")], tokenizer, max_tokens=64)
    prompt = len(tokenizer("a girl found")["input_ids"])
    assert set(example.weights[:prompt]) == {0.0}
    assert set(example.weights[prompt:]) == {1.0}
    assert example.num_bytes == len("the fox ran")


def test_a_long_prompt_leaves_no_window_without_text(tokenizer):
    pieces = to_examples([Row("the fox ran over the hill", "a girl " * 40)], tokenizer, max_tokens=16)
    learnt = [t for piece in pieces for t, w in zip(piece.ids, piece.weights, strict=True) if w > 0]
    assert tokenizer.decode(learnt) == "the fox ran over the hill<|end|>"
    assert len(pieces) <= 2


def test_the_end_is_learnt_of_a_finished_text_only(tokenizer):
    finished, cut_off = (to_examples([Row("the fox", finished=f)], tokenizer, max_tokens=64)[0] for f in (True, False))
    assert finished.ids[-1] == tokenizer.eos_token_id and finished.weights[-1] == 1
    assert tokenizer.eos_token_id not in cut_off.ids
