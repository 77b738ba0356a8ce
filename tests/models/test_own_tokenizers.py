import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from stillhouse.core.errors import DataError, ModelError
from stillhouse.models.own_tokenizers import train_tokenizer, trim_model, trim_tokenizer

TEXTS = [
    f'Once upon a time a {who} ran to the {where}. "Hello!"'
    for who in ("fox", "girl", "robot")
    for where in ("hill", "sea")
]
USED = TEXTS[:2]

WHOLE = train_tokenizer(
    [*TEXTS, *(f"{word}ing walked walker walking {word}s" for word in ("talk", "jump", "play"))], size=420
)
CUT = trim_tokenizer(WHOLE, USED)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@given(text=st.text(max_size=20))
@settings(max_examples=20, deadline=None)
def test_every_text_can_be_written_and_read_again(text):
    for tokenizer in (WHOLE, CUT.tokenizer):
        assert tokenizer.decode(ids_of(tokenizer, text), clean_up_tokenization_spaces=False) == text


def test_a_trained_tokenizer_has_the_size_that_was_asked_for():
    assert len(train_tokenizer(TEXTS, size=280)) == 280
    assert 280 < len(train_tokenizer(TEXTS, size=5000)) < 400  # there are no more pairs in these texts
    assert WHOLE.eos_token_id == WHOLE.bos_token_id == WHOLE.pad_token_id == 0
    with pytest.raises(DataError, match="tokenizer.size is 256"):
        train_tokenizer(TEXTS, size=256)


def test_a_trimmed_tokenizer_cuts_the_texts_in_use_as_the_whole_one_does():
    assert 256 < len(CUT.tokenizer) == len(CUT.kept) < len(WHOLE)
    for text in USED:
        assert [CUT.kept[number] for number in ids_of(CUT.tokenizer, text)] == ids_of(WHOLE, text)
    assert CUT.kept[CUT.tokenizer.eos_token_id] == WHOLE.eos_token_id


def test_only_a_tokenizer_that_merges_pairs_can_be_trimmed():
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(ModelError, match="kind: trained"):
        trim_tokenizer(words, ["a"])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_trimmed_model_says_what_the_whole_one_said_of_the_tokens_that_are_left(family, build_model):
    whole = build_model(family, layers=1, vocab=len(WHOLE))
    cut = trim_model(copy.deepcopy(whole), CUT.kept)
    ids = torch.tensor([ids_of(CUT.tokenizer, USED[0])])
    with torch.no_grad():
        said = whole(input_ids=torch.tensor([[CUT.kept[number] for number in ids[0]]])).logits
        torch.testing.assert_close(cut(input_ids=ids).logits, said[..., list(CUT.kept)])
