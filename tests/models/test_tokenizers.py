"""The verdict on two tokenizers, before any weight is read."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.models.byt5 import ByT5Tokenizer

from stillhouse.core.errors import ModelError
from stillhouse.models.load import without_weights
from stillhouse.models.tokenizers import ENGLISH, Finding, Speaker, compare_tokenizers, end_of_turn, read_speaker


def speaker(tokenizer, *, rows: int | None = None, family: str = "llama") -> Speaker:
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer) if rows is None else rows)
    return Speaker(family, tokenizer, config)


@pytest.fixture
def changed(tokenizer) -> Callable[..., PreTrainedTokenizerFast]:
    """The tiny tokenizer with its parts changed by hand."""

    def change(edit: Callable[[dict[str, Any]], None] = lambda parts: None, **settings: Any) -> PreTrainedTokenizerFast:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        edit(parts)
        named = {"eos_token": "<|end|>", "pad_token": "<|end|>", "bos_token": "<|start|>"}
        named["chat_template"] = tokenizer.chat_template
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)), **{**named, **settings})

    return change


def swap(one: str, other: str) -> Callable[[dict[str, Any]], None]:
    def edit(parts: dict[str, Any]) -> None:
        vocab = parts["model"]["vocab"]
        vocab[one], vocab[other] = vocab[other], vocab[one]

    return edit


def finding(verdict, aspect: str) -> Finding:
    return next(found for found in verdict.findings if found.aspect == aspect)


def test_a_tokenizer_is_identical_to_itself(tokenizer, changed):
    found = compare_tokenizers(speaker(tokenizer), speaker(changed()))
    assert (found.verdict, found.reason) == ("identical", "All 300 ids mean the same to both.")
    assert all(one.agrees for one in found.findings)
    assert found.road == ("Every objective can compare them token by token.",)


@pytest.mark.parametrize(("ours", "theirs"), [(300, 320), (320, 300), (320, 320), (384, 320)])
def test_rows_beyond_the_tokens_are_to_be_cut_off(tokenizer, ours, theirs):
    found = compare_tokenizers(speaker(tokenizer, rows=ours), speaker(tokenizer, rows=theirs))
    assert found.verdict == "padded"
    assert "Cut both heads to the first 300 rows" in " ".join(found.road)


def test_equal_sizes_with_two_tokens_exchanged_are_different(tokenizer, changed):
    found = compare_tokenizers(speaker(tokenizer), speaker(changed(swap("a", "b"))))
    assert found.verdict == "different"
    assert found.reason.startswith("298 ids mean the same to both")
    assert "100% of the student's tokens" in found.reason
    assert finding(found, "tokens").agrees and not finding(found, "ids in common").agrees


@pytest.mark.parametrize("longer", ["teacher", "student"])
def test_added_tokens_of_one_side_alone_leave_the_ids_before_them_the_same(tokenizer, changed, longer):
    more = changed()
    more.add_tokens([AddedToken("<|tool|>", special=True), "foxes"])
    pair = (speaker(more), speaker(tokenizer)) if longer == "teacher" else (speaker(tokenizer), speaker(more))
    found = compare_tokenizers(*pair)
    assert found.verdict == "padded"
    assert "2 added tokens only one side has; no text may use them." in found.reason


def test_an_added_token_that_ends_a_turn_makes_them_different(tokenizer, changed):
    more = changed(chat_template="{% for m in messages %}{{ m.content }}<|stop|>{% endfor %}")
    more.add_tokens([AddedToken("<|stop|>", special=True)])
    assert compare_tokenizers(speaker(tokenizer), speaker(more)).verdict == "different"


def test_the_same_ids_that_are_cut_otherwise_come_with_a_warning(tokenizer, changed):
    whole = changed(lambda parts: parts["model"].update(merges=[]))
    found = compare_tokenizers(speaker(tokenizer), speaker(whole))
    assert found.verdict == "identical"
    assert "They cut text differently into these same tokens: let the teacher's tokenizer cut all of it." in found.road


def test_another_chat_template_of_the_same_length_is_told(tokenizer, changed):
    other = changed(chat_template=tokenizer.chat_template.replace("<|user|>", "<|USER|>").replace("content", "CONTENT"))
    found = compare_tokenizers(speaker(tokenizer), speaker(other))
    assert found.verdict == "identical"
    assert not finding(found, "chat template").agrees
    assert "Their chat templates differ: show each model a conversation in its own." in found.road


def test_a_head_with_fewer_rows_than_tokens_is_refused(tokenizer):
    found = compare_tokenizers(speaker(tokenizer), speaker(tokenizer, rows=299))
    assert found.verdict == "refused"
    assert found.reason.startswith("The student's head has 299 rows, but its tokenizer 300 tokens")


def test_encoders_share_a_tokenizer_or_are_refused(tokenizer, bert_tokenizer):
    encoder = speaker(bert_tokenizer, family="bert")
    assert compare_tokenizers(encoder, encoder).verdict == "identical"
    for pair in ((speaker(tokenizer), encoder), (encoder, speaker(tokenizer))):
        found = compare_tokenizers(*pair)
        assert found.verdict == "refused"
        assert "reads text in both directions" in found.reason


def test_tokens_that_name_no_bytes_are_refused_across_tokenizers(tokenizer, bert_tokenizer):
    for other in (bert_tokenizer, ByT5Tokenizer()):
        found = compare_tokenizers(speaker(other), speaker(tokenizer))
        assert found.verdict == "refused"
        assert f"the teacher's ({type(other).__name__}) it cannot be told which bytes" in found.reason


def test_a_turn_ends_with_the_templates_token_and_else_as_a_text_does(tokenizer, changed):
    start = tokenizer.convert_tokens_to_ids("<|start|>")
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id
    turns = "{% for m in messages %}{{ m.content }}<|start|>\n{% endfor %}"
    assert end_of_turn(changed(chat_template=turns)) == start
    assert end_of_turn(changed(chat_template=None)) == tokenizer.eos_token_id
    assert end_of_turn(changed(chat_template="{{ raise_exception('no') }}")) == tokenizer.eos_token_id


def test_samples_count_tokens_that_stand_side_by_side(tokenizer):
    letters = Tokenizer(models.BPE({c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = compare_tokenizers(speaker(tokenizer), speaker(PreTrainedTokenizerFast(tokenizer_object=letters)))
    assert found.verdict == "different"
    ours, theirs = finding(found, "tokens of English").teacher, finding(found, "tokens of English").student
    one_to_one = [round(int(side.split(",")[0]) * int(side.split()[1].rstrip("%")) / 100) for side in (ours, theirs)]
    assert int(ours.split(",")[0]) < int(theirs.split(",")[0]) == len(ENGLISH.encode())  # a token a byte
    assert abs(one_to_one[0] - one_to_one[1]) <= 2  # the same spans, up to the rounding of shares


def test_a_folder_is_read_without_its_weights(teacher_folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((teacher_folder / name).read_bytes())
    read = read_speaker(str(tmp_path))
    assert (read.num_tokens, read.num_rows, read.predicts) == (300, 300, True)
    assert without_weights(str(tmp_path)) == str(tmp_path)
    with pytest.raises(ModelError, match="neither an existing folder"):
        read_speaker("/no/such/model")
