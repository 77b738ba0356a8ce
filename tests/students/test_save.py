"""What is saved is a plain folder: transformers loads it, and sentence-transformers too where it gives embeddings."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from stillhouse.models.load import load_model
from stillhouse.students.save import save_student


def _files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_other_tasks_get_no_files_of_sentence_transformers(build_encoder, tokenizer, tmp_path):
    save_student(build_encoder("bert", "masked_lm"), tokenizer, tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= _files(tmp_path)
    assert not _files(tmp_path) & {"modules.json", "1_Pooling", "2_Normalize", "sentence_bert_config.json"}


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalizes", [True, False])
def test_how_embeddings_are_made_comes_back_with_the_model(build_encoder, tokenizer, tmp_path, pooling, normalizes):
    student = build_encoder("bert", "sentence_embedding")
    save_student(student, tokenizer, tmp_path, pooling=pooling, normalizes=normalizes)
    again = load_model(str(tmp_path), "sentence_embedding")
    assert (again.pooling, again.normalizes) == (pooling, normalizes)
    weights = again.model.state_dict()
    assert all(torch.equal(weights.pop(name), weight) for name, weight in student.state_dict().items()) and not weights


def test_the_files_are_those_that_sentence_transformers_writes(build_encoder, tokenizer, tmp_path):
    save_student(build_encoder("bert", "sentence_embedding"), tokenizer, tmp_path, pooling="cls", normalizes=True)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [(module["idx"], module["name"], module["path"], module["type"]) for module in modules] == [
        (0, "0", "", "sentence_transformers.models.Transformer"),
        (1, "1", "1_Pooling", "sentence_transformers.models.Pooling"),
        (2, "2", "2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling.pop("word_embedding_dimension") == 32
    assert [name for name, chosen in pooling.items() if chosen] == ["pooling_mode_cls_token"]
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 64


@pytest.mark.parametrize(("asked", "written"), [(20, 20), (500, 64)])
def test_texts_are_cut_where_asked_but_never_beyond_what_the_model_reads(
    build_encoder, tokenizer, tmp_path, asked, written
):
    save_student(build_encoder("bert", "sentence_embedding"), tokenizer, tmp_path, pooling="mean", max_tokens=asked)
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == written


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "distilbert", "modernbert"])
def test_the_longest_text_is_the_longest_that_the_model_reads(build_encoder, tokenizer, tmp_path, family):
    student = build_encoder(family, "sentence_embedding")
    save_student(student, tokenizer, tmp_path, pooling="mean")
    longest = json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"]
    student(input_ids=torch.full((1, longest), 7))
    if family != "modernbert":  # its positions are rotary, and never run out
        with pytest.raises((RuntimeError, IndexError)):
            student(input_ids=torch.full((1, longest + 1), 7))


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_sentence_transformers_gives_our_embeddings(build_encoder, tokenizer, tmp_path, family):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    student = build_encoder(family, "sentence_embedding")
    save_student(student, tokenizer, tmp_path, pooling="mean", normalizes=True)
    texts = ["the old man had a boat", "a girl found a key in the garden"]
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    for text, embedding in zip(texts, theirs, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        ours = AutoModel.from_pretrained(tmp_path).eval()(input_ids=ids).last_hidden_state.mean(1)
        assert_close(torch.tensor(embedding), ours[0] / ours[0].norm())
