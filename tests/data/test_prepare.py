"""From a recipe's data to rows: each kind gives the batch that its task asks for, and nobody trains on what is judged."""

import json

import pytest
import torch

from stillhouse.core.batch import Batch, LabelledBatch, TaggedBatch
from stillhouse.core.config import Config, parse_recipe
from stillhouse.core.errors import DataError
from stillhouse.data.config import DataConfig
from stillhouse.data.masking import FixedMaskRows, MaskedRows
from stillhouse.data.packing import PackedRows
from stillhouse.data.prepare import prepare

TEXTS = [
    f"the {colour} {noun} {verb}" for colour in ("red", "green") for noun in ("fox", "boat") for verb in ("ran", "sang")
]


class _Recipe(Config):
    data: DataConfig


def _prepare(tokenizer, seed=0, answers=(), **data):
    config = parse_recipe(_Recipe, {"data": {"held_out": 0.25, **data}}).data
    return prepare(config, tokenizer, seed=seed, answers=answers)


def _everything(rows):
    """All rows in one batch."""
    (batch,) = rows.batches(len(rows))
    return batch


def _texts(rows, tokenizer):
    """The words of each row, without special tokens and padding."""
    return [tokenizer.decode(list(ids), skip_special_tokens=True) for ids in rows.ids]


def _tables(kind):
    rows = [{"text": text, "label": f"{number % 3}"} for number, text in enumerate(TEXTS)]
    if kind == "tags":
        return [{"words": text.split(), "tags": ["O", "B", "I", "O"]} for text in TEXTS]
    return [{**row, "label": float(row["label"])} for row in rows] if kind == "regression" else rows


KINDS = ["text", "masked_text", "classification", "regression", "tags", "sentences"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_batches_of_a_row_set_are_its_rows_in_order_and_end_with_the_rest(bert_tokenizer, write, kind):
    prepared = _prepare(bert_tokenizer, kind=kind, path=str(write("rows.jsonl", _tables(kind))), sequence_tokens=8)
    rows = prepared.train
    together, apart = _everything(rows), list(rows.batches(4))
    assert [len(batch.ids) for batch in apart] == [4] * (len(rows) // 4) + ([len(rows) % 4] if len(rows) % 4 else [])
    for name, whole in together.tensors().items():
        pieces = [batch.tensors()[name] for batch in apart]
        width = max(piece.shape[-1] for piece in pieces) if whole.dim() > 1 else 0
        for number, row in enumerate(whole):
            piece = pieces[number // 4][number % 4]
            assert torch.equal(row[..., : piece.shape[-1]] if whole.dim() > 1 else row, piece)
        assert whole.dim() == 1 or whole.shape[-1] == width


@pytest.mark.parametrize("kind", KINDS)
def test_no_document_is_on_both_sides_and_the_share_is_as_asked(bert_tokenizer, write, kind):
    path = write("rows.jsonl", _tables(kind) * 2)
    prepared = _prepare(bert_tokenizer, kind=kind, path=str(path))
    assert (prepared.num_train_documents, prepared.num_held_out_documents) == (6, 2)
    documents = [
        {tuple(batch.ids[row][batch.documents[row] == number].tolist()) for row, number in _places(batch)}
        for batch in (_unmasked(rows) for rows in (prepared.train, prepared.held_out))
    ]
    assert not documents[0] & documents[1]
    assert [len(side) for side in documents] == [6, 2]


def _places(batch):
    return {(row, int(number)) for row in range(len(batch.ids)) for number in batch.documents[row] if number >= 0}


def _unmasked(rows):
    batch = _everything(rows)
    return (
        Batch(batch.labels, batch.positions, batch.documents, batch.weights) if isinstance(rows, MaskedRows) else batch
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_its_own_is_all_held_out_and_kept_out_of_training(bert_tokenizer, write, kind):
    rows = _tables(kind)
    path, other = write("rows.jsonl", rows), write("other.jsonl", rows[5:])
    prepared = _prepare(bert_tokenizer, kind=kind, path=str(path), held_out=0.1, held_out_path=str(other))
    assert (prepared.num_train_documents, prepared.num_held_out_documents) == (5, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_nothing_but_held_out_texts_is_refused(bert_tokenizer, write, kind):
    path = str(write("rows.jsonl", _tables(kind)))
    with pytest.raises(DataError, match="every text of data.path is in data.held_out_path too"):
        _prepare(bert_tokenizer, kind=kind, path=path, held_out=0.1, held_out_path=path)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_outside_packed_text_a_row_is_one_document_padded_on_the_right(bert_tokenizer, write, kind):
    path = write("rows.jsonl", [*_tables(kind), *_longer(kind)])
    batch = _everything(_prepare(bert_tokenizer, kind=kind, path=str(path)).train)
    assert set(batch.documents.unique().tolist()) == {-1, 0}
    assert (batch.ids[~batch.real] == bert_tokenizer.pad_token_id).all()
    assert (batch.weights[~batch.real] == 0).all()
    for row in batch.documents:
        assert row.tolist() == sorted(row.tolist(), reverse=True)
    assert batch.positions.tolist() == [list(range(batch.ids.shape[1]))] * len(batch.ids)


def _longer(kind):
    if kind == "tags":
        return [{"words": ["the", "fox", "and", "a", "bird"], "tags": ["O"] * 5}]
    return [{"text": "the fox and a bird and a key", "label": 1.0 if kind == "regression" else "1"}]


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_texts_are_refused_and_told_apart_only_where_they_are_documents(bert_tokenizer, write, kind):
    path = str(write("rows.jsonl", _tables(kind)[:2]))
    with pytest.raises(DataError) as caught:
        _prepare(bert_tokenizer, kind=kind, path=path)
    ending = "; in a .txt file, <|endoftext|> separates them." if "text" in kind else "."
    assert str(caught.value) == f"2 different texts are too few to hold 25% of them out. Give at least 4{ending}"


def test_text_is_packed_as_ever(tokenizer, write):
    path = write("rows.jsonl", [{"text": text} for text in TEXTS])
    prepared = _prepare(tokenizer, path=str(path), sequence_tokens=32)
    assert prepared.task == "causal_lm" and isinstance(prepared.train, PackedRows)
    batch = _everything(prepared.train)
    assert type(batch) is Batch and batch.ids.shape[1] == max(prepared.train.lengths) <= 32
    assert batch.num_documents == 6


def test_synthesised_text_takes_the_place_of_a_path(tokenizer, write):
    path = write("rows.jsonl", [{"text": text} for text in TEXTS])
    config = parse_recipe(_Recipe, {"data": {"held_out": 0.25}}).data
    assert prepare(config, tokenizer, path=path).num_train_documents == 6
    with pytest.raises(DataError, match="data.path is not given"):
        prepare(config, tokenizer)


def test_masks_follow_the_seed_where_they_teach_and_not_where_they_judge(bert_tokenizer, write):
    path = str(write("rows.txt", "<|endoftext|>".join(text * 4 for text in TEXTS)))
    one, other = (_prepare(bert_tokenizer, kind="masked_text", path=path, seed=seed) for seed in (1, 2))
    assert isinstance(one.held_out, FixedMaskRows)
    assert _everything(one.train).ids.tolist() != _everything(other.train).ids.tolist()
    assert _everything(one.held_out).ids.tolist() == _everything(other.held_out).ids.tolist()
    assert _everything(one.train).labels.tolist() == _everything(other.train).labels.tolist()


def test_classes_are_numbered_by_the_order_of_their_names(bert_tokenizer, write):
    path = write("rows.csv", "text,label\n" + "".join(f"{text},{'nyb'[n % 3]}\n" for n, text in enumerate(TEXTS)))
    prepared = _prepare(bert_tokenizer, kind="classification", path=str(path))
    batch = _everything(prepared.train)
    assert isinstance(batch, LabelledBatch) and batch.segments is None
    assert prepared.labels == ("b", "n", "y")
    said = dict(zip(_texts(prepared.train, bert_tokenizer), batch.labels.tolist(), strict=True))
    assert said == {text: "bny".index("nyb"[n % 3]) for n, text in enumerate(TEXTS) if text in said}
    assert batch.label_weights.tolist() == [1.0] * 6 and batch.labels.dtype == torch.long


def test_classes_that_are_whole_numbers_are_ordered_as_numbers(bert_tokenizer, write):
    labels = [10, 9, "-1", 2] * 2
    path = write("rows.jsonl", [{"text": t, "label": label} for t, label in zip(TEXTS, labels, strict=True)])
    assert _prepare(bert_tokenizer, kind="classification", path=str(path)).labels == ("-1", "2", "9", "10")
    mixed = write(
        "mixed.jsonl", [{"text": t, "label": label} for t, label in zip(TEXTS, [10, 9, "x", 2] * 2, strict=True)]
    )
    assert _prepare(bert_tokenizer, kind="classification", path=str(mixed)).labels == ("10", "2", "9", "x")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_each_class_is_held_out_by_its_share_however_the_file_is_ordered(bert_tokenizer, write, share):
    labels = ["pos", "neg"] * 100 + ["odd"] * 40 + ["two"] * 2
    path = write("rows.jsonl", [{"text": f"fox {number}", "label": label} for number, label in enumerate(labels)])
    prepared = _prepare(bert_tokenizer, kind="classification", path=str(path), held_out=share)
    held_out = [prepared.labels[label] for label in _everything(prepared.held_out).labels.tolist()]
    assert all(abs(held_out.count(name) - share * labels.count(name)) < 1 for name in prepared.labels)


@pytest.mark.parametrize("kind", ["classification", "tags"])
def test_a_label_that_is_never_trained_on_is_refused_by_name(bert_tokenizer, write, kind):
    rows = _tables(kind)
    odd = {"words": ["a"], "tags": ["ODD"]} if kind == "tags" else {"text": "a", "label": "ODD"}
    path, other = write("rows.jsonl", rows), write("other.jsonl", [odd])
    with pytest.raises(DataError, match="held-out rows have the label 'ODD', which no training row has"):
        _prepare(bert_tokenizer, kind=kind, path=str(path), held_out=0.1, held_out_path=str(other))


def test_one_class_alone_is_refused(bert_tokenizer, write):
    path = write("rows.jsonl", [{"text": text, "label": 1} for text in TEXTS])
    with pytest.raises(DataError, match="every training row has the label '1', so there is nothing to tell apart"):
        _prepare(bert_tokenizer, kind="classification", path=str(path))


def test_numbers_to_estimate_stay_numbers(bert_tokenizer, write):
    numbers = [0.5 * n - 1 for n in range(8)]
    path = write("rows.tsv", "score\ttext\n" + "".join(f"{n}\t{t}\n" for n, t in zip(numbers, TEXTS, strict=True)))
    prepared = _prepare(bert_tokenizer, kind="regression", path=str(path), label="score")
    batch = _everything(prepared.train)
    said = dict(zip(_texts(prepared.train, bert_tokenizer), batch.labels.tolist(), strict=True))
    assert said == {text: n for text, n in zip(TEXTS, numbers, strict=True) if text in said}
    assert batch.labels.dtype == torch.float32 and prepared.labels == ()


def test_the_second_text_of_a_pair_is_marked_where_the_tokenizer_marks_it(bert_tokenizer, distilbert_tokenizer, write):
    rows = [{"text": text, "other": "a small bird", "label": n % 2} for n, text in enumerate(TEXTS)]
    path = str(write("rows.jsonl", rows))
    for tokenizer in (bert_tokenizer, distilbert_tokenizer):
        batch = _everything(_prepare(tokenizer, kind="classification", path=path, pair="other").train)
        expected = ["[CLS]", *TEXTS[0].split(), "[SEP]", "a", "small", "bird", "[SEP]"]
        assert tokenizer.convert_ids_to_tokens(batch.ids[0].tolist()) == expected
        if tokenizer is bert_tokenizer:
            assert batch.segments is not None
            assert batch.segments[0].tolist() == [0] * 6 + [1] * 4
        else:
            assert batch.segments is None


def test_a_pair_is_the_same_text_in_either_order(bert_tokenizer, write):
    pairs = [(one, other) for one in TEXTS[:4] for other in TEXTS[4:]]
    rows = [{"text": a, "pair": b, "label": n % 2} for n, (a, b) in enumerate(pairs)]
    swapped = [{"text": row["pair"], "pair": row["text"], "label": row["label"]} for row in rows]
    prepared = _prepare(
        bert_tokenizer, kind="classification", path=str(write("rows.jsonl", rows + swapped)), pair="pair"
    )
    train, held_out = (
        {frozenset(text.removeprefix("the ").split(" the ")) for text in _texts(rows, bert_tokenizer)}
        for rows in (prepared.train, prepared.held_out)
    )
    assert len(train) == 12 and len(held_out) == 4 and not train & held_out
    assert (prepared.num_train_documents, prepared.num_held_out_documents) == (24, 8)


def test_the_first_token_of_each_word_carries_its_tag_and_no_other_token_does(bert_tokenizer, write):
    rows = [
        {"words": ["the", "foxes", "sang", "zz"], "tags": ["DET", "NOUN", "VERB", "X"]},
        {"words": ["a", "bird"], "tags": ["DET", "NOUN"]},
        *({"words": [word], "tags": ["NOUN"]} for word in ("sea", "hill")),
    ]
    prepared = _prepare(bert_tokenizer, kind="tags", path=str(write("rows.jsonl", rows)))
    batch = _everything(prepared.train)
    assert isinstance(batch, TaggedBatch) and prepared.labels == ("DET", "NOUN", "VERB", "X")
    tokens = bert_tokenizer.convert_ids_to_tokens(batch.ids[0].tolist())
    assert tokens == ["[CLS]", "the", "fox", "##e", "##s", "sang", "z", "##z", "[SEP]"]
    assert batch.weights[0].tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert batch.targets.tolist() == [0, 1, 2, 3, 0, 1, 1]


def test_words_that_are_cut_off_take_their_tags_with_them(bert_tokenizer, write):
    rows = [
        {"words": ["the", word, *["fox"] * 20], "tags": ["A", *["B"] * 21]} for word in ("sea", "hill", "boat", "key")
    ]
    prepared = _prepare(bert_tokenizer, kind="tags", path=str(write("rows.jsonl", rows)), sequence_tokens=8)
    assert _everything(prepared.held_out).targets.tolist() == [0, 1, 1, 1, 1, 1]


def test_words_without_as_many_tags_are_refused(bert_tokenizer, write):
    path = write("rows.jsonl", [{"words": ["a"], "tags": ["X"]}, {"words": ["a", "b"], "tags": ["X"]}])
    with pytest.raises(DataError, match="rows.jsonl, line 2 has 2 words but 1 tags. Give each word one tag."):
        _prepare(bert_tokenizer, kind="tags", path=str(path))


def test_tags_are_read_from_json_lines_alone(bert_tokenizer, write):
    with pytest.raises(DataError, match="ends in '.csv'. Known: .jsonl, or a folder."):
        _prepare(bert_tokenizer, kind="tags", path=str(write("rows.csv", "words,tags\na,b\n")))


def test_sentences_carry_no_weight_and_each_is_a_document(bert_tokenizer, write):
    prepared = _prepare(bert_tokenizer, kind="sentences", path=str(write("rows.txt", "\n\n".join(TEXTS))))
    batch = _everything(prepared.train)
    assert type(batch) is Batch and batch.total_weight == 0 and batch.num_documents == 6
    assert set(_texts(prepared.train, bert_tokenizer)) | set(_texts(prepared.held_out, bert_tokenizer)) == set(TEXTS)


def test_what_embeddings_are_judged_by_is_not_trained_on(bert_tokenizer, write):
    rows = [{"one": TEXTS[0], "two": "a bird", "score": 4.5}, {"one": "a key", "two": TEXTS[1], "score": "0"}]
    pairs = write("pairs/sts.jsonl.gz", rows).parent
    write("pairs/other.tsv", f"one\ttwo\tscore\n{TEXTS[2]}\ta fox\t1\n")
    prepared = _prepare(
        bert_tokenizer,
        kind="sentences",
        path=str(write("rows.txt", "\n".join(TEXTS))),
        pairs_path=str(pairs),
        first="one",
        second="two",
    )
    assert not {*TEXTS[:3]} & {*_texts(prepared.train, bert_tokenizer)}
    assert prepared.num_train_documents == len(prepared.train) == 3
    other, sts = prepared.pairs
    assert (other.name, sts.name) == ("other", "sts")
    assert _texts(sts.first, bert_tokenizer) == [TEXTS[0], "a key"]
    assert _texts(sts.second, bert_tokenizer) == ["a bird", TEXTS[1]]
    assert sts.scores == (4.5, 0.0) and other.scores == (1.0,)


def test_a_text_without_any_token_is_refused(tokenizer, write):
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    tokenizer.backend_tokenizer.normalizer = _swallow()
    path = write("rows.jsonl", [{"text": text} for text in [*TEXTS, "!"]])
    with pytest.raises(DataError, match='the text "!" holds no token that the tokenizer knows. Remove it.'):
        _prepare(tokenizer, kind="sentences", path=str(path))


def _swallow():
    from tokenizers.normalizers import Replace

    return Replace("!", "")


def test_a_column_that_is_not_there_is_named_with_its_key(bert_tokenizer, write):
    path = write("rows.jsonl", [{"text": text, "lable": "a"} for text in TEXTS])
    with pytest.raises(
        DataError, match="rows.jsonl, line 1 has no 'label', which data.label names. Did you mean 'lable'?"
    ):
        _prepare(bert_tokenizer, kind="classification", path=str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_and_seed_always_give_the_same_rows(bert_tokenizer, write, kind):
    path = str(write("rows.jsonl", _tables(kind)))
    one, other = (_prepare(bert_tokenizer, kind=kind, path=path) for _ in range(2))
    for first, second in ((one.train, other.train), (one.held_out, other.held_out)):
        first, second = (_everything(rows).tensors() for rows in (first, second))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert json.dumps(sorted(first)) == json.dumps(sorted(second))


@pytest.mark.parametrize("kind", ["classification", "tags"])
def test_labels_are_numbered_as_a_model_numbers_its_answers_if_it_has_them_all(bert_tokenizer, write, kind):
    path = str(write("rows.jsonl", _tables(kind)))
    own = _prepare(bert_tokenizer, kind=kind, path=path)
    more = (*reversed(own.labels), "X")
    theirs = _prepare(bert_tokenizer, answers=more, kind=kind, path=path)
    assert theirs.labels == more
    for ours, other in ((own.train, theirs.train), (own.held_out, theirs.held_out)):
        judged = _everything(ours).targets.tolist(), _everything(other).targets.tolist()
        assert [own.labels[label] for label in judged[0]] == [more[label] for label in judged[1]]
    assert _prepare(bert_tokenizer, answers=own.labels[1:], kind=kind, path=path).labels == own.labels


@pytest.mark.parametrize("spelling", ["{}", "LABEL_{}"])
def test_labels_that_are_a_models_numbers_are_numbered_by_them_however_they_are_spelt(bert_tokenizer, write, spelling):
    """Sorted as text, LABEL_10 would come before LABEL_2."""
    rows = [
        {"text": f"{text} {number}", "label": spelling.format(number % 12)} for number, text in enumerate(TEXTS * 6)
    ]
    numbers = tuple(map(str, range(12)))
    found = _prepare(bert_tokenizer, answers=numbers, kind="classification", path=str(write("rows.jsonl", rows)))
    assert found.labels == tuple(map(spelling.format, numbers))


def test_the_pieces_of_a_long_held_out_text_are_known_to_be_of_one_document(bert_tokenizer, write):
    rows = [{"text": f"{text} " * 9} for text in TEXTS]
    found = _prepare(
        bert_tokenizer, kind="masked_text", path=str(write("rows.jsonl", rows)), sequence_tokens=12, held_out=0.25
    )
    assert len(found.held_out_documents) == len(found.held_out) > found.num_held_out_documents
    assert sorted(set(found.held_out_documents)) == list(range(found.num_held_out_documents))
