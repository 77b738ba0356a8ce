"""Every signal, from encoders and classifiers too: equal to what transformers itself would show."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    RobertaConfig,
)

from stillhouse.core.batch import Batch, LabelledBatch, TaggedBatch
from stillhouse.core.errors import ModelError
from stillhouse.core.signals import DenseLogits, Wanted
from stillhouse.models.signals import read_signals

INITIAL = 0.3  # large enough that every part shows in the output
SMALL = {
    "vocab_size": 90,
    "initializer_range": INITIAL,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
ENCODERS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=1),
    "distilbert": DistilBertConfig(
        vocab_size=90, initializer_range=INITIAL, dim=24, n_layers=3, n_heads=4, hidden_dim=40
    ),
    "electra": ElectraConfig(**SMALL, embedding_size=16),
    "mpnet": MPNetConfig(**SMALL, pad_token_id=1),
}
LISTENED_TO = [name for name in ENCODERS if name != "mpnet"]
ALL = frozenset(range(4))


def padded(*lengths, kind=Batch, **more):
    """Rows of random tokens, padded with whatever stands there."""
    torch.manual_seed(sum(lengths))
    shape = (len(lengths), max(lengths))
    ids = torch.randint(5, 90, shape)
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    documents = torch.where(real, 0, -1)
    positions = torch.arange(shape[1]).expand(shape)
    return kind(ids.masked_fill(~real, 1), positions, documents, real.float(), **more)


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(ENCODERS[request.param]).eval()


@torch.no_grad()
def test_the_factors_multiply_out_to_a_masked_language_models_logits(encoder):
    batch = padded(9, 6, kind=TaggedBatch, labels=torch.zeros(2, 9, dtype=torch.long))
    own = encoder(input_ids=batch.ids, attention_mask=batch.real.long()).logits
    said = read_signals(encoder, batch, Wanted(logits=True)).logits
    assert_close(said.dense()[batch.real], own[batch.real], rtol=0, atol=1e-5)


@torch.no_grad()
def test_hidden_states_are_the_models_own_by_number(encoder):
    batch = padded(9, 6)
    own = encoder(input_ids=batch.ids, attention_mask=batch.real.long(), output_hidden_states=True).hidden_states
    said = read_signals(encoder, batch, Wanted(hidden_states=ALL)).hidden_states
    assert said.keys() == ALL
    for layer in ALL:
        assert_close(said[layer][batch.real], own[layer][batch.real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", LISTENED_TO)
@torch.no_grad()
def test_scores_soften_to_the_attention_that_the_model_shows_itself(family):
    model = AutoModel.from_config(ENCODERS[family], attn_implementation="eager").eval()
    batch = padded(9, 6)
    own = model(input_ids=batch.ids, attention_mask=batch.real.long(), output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    said = read_signals(model, batch, Wanted(attentions=frozenset({1, 3}))).attentions
    assert said.keys() == {1, 3}
    for layer in said:
        ours = said[layer].scores().softmax(-1)
        for row, length in enumerate((9, 6)):
            assert_close(ours[row, :, :length], own[layer - 1][row, :, :length], rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_a_decoders_scores_are_causal_rotated_and_spread_over_key_heads(family):
    configs = {
        "llama": LlamaConfig(**SMALL, num_key_value_heads=2),
        "gpt2": GPT2Config(vocab_size=90, initializer_range=INITIAL, n_embd=24, n_layer=3, n_head=4),
    }
    model = AutoModel.from_config(configs[family], attn_implementation="eager").eval()
    batch = padded(7, 7)
    own = model(input_ids=batch.ids, output_attentions=True).attentions
    said = read_signals(model, batch, Wanted(attentions=frozenset({2}))).attentions[2]
    assert_close(said.scores().softmax(-1), own[1], rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_what_is_read_of_attention():
    model = AutoModel.from_config(ENCODERS["bert"]).train()
    said = read_signals(model, padded(9, 6), Wanted(attentions=frozenset({2}))).attentions[2]
    (said.query.square().sum() + said.value.square().sum()).backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    assert model.encoder.layer[2].attention.self.query.weight.grad is None


def test_attention_that_cannot_be_listened_to_is_refused_by_name():
    model = AutoModel.from_config(ENCODERS["mpnet"]).eval()
    with pytest.raises(ModelError, match="MPNetModel computed attention 0 times where layers \\[1\\]"):
        read_signals(model, padded(5), Wanted(attentions=frozenset({1})))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@torch.no_grad()
def test_an_embedding_is_pooled_from_real_tokens_alone(pooling):
    model = AutoModel.from_config(ENCODERS["bert"]).eval()
    together = read_signals(model, padded(9, 6), Wanted(pooling=pooling)).embeddings
    batch = padded(9, 6)
    for row, length in enumerate((9, 6)):
        states = model(input_ids=batch.ids[row : row + 1, :length]).last_hidden_state[0]
        expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        assert_close(together[row], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_classifier_answers_once_a_document_and_reads_its_second_text():
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL, num_labels=5)).eval()
    segments = (torch.arange(9) > 4).long().expand(2, 9)
    more = {"labels": torch.tensor([0, 3]), "label_weights": torch.ones(2)}
    pairs = padded(9, 6, kind=LabelledBatch, segments=segments, **more)
    said = read_signals(model, pairs, Wanted(logits=True)).logits
    own = model(input_ids=pairs.ids, attention_mask=pairs.real.long(), token_type_ids=segments).logits
    assert isinstance(said, DenseLogits)
    assert_close(said.dense(), own)
    single = padded(9, 6, kind=LabelledBatch, **more)
    assert (read_signals(model, single, Wanted(logits=True)).logits.dense() - own).abs().max() > 1e-4


@torch.no_grad()
def test_a_tagger_answers_once_a_token():
    model = AutoModelForTokenClassification.from_config(BertConfig(**SMALL, num_labels=5)).eval()
    batch = padded(9, 6, kind=TaggedBatch, labels=torch.zeros(2, 9, dtype=torch.long))
    said = read_signals(model, batch, Wanted(logits=True)).logits
    assert said.at(batch.predicts).dense().shape == (15, 5)


def test_a_batch_is_read_where_the_model_is():
    class EnoughSeenError(Exception):
        pass

    def see(_model, _args, given):
        assert {tensor.device.type for tensor in given.values() if isinstance(tensor, torch.Tensor)} == {"meta"}
        raise EnoughSeenError  # a meta device, as good as a GPU so far, cannot run all of a model

    model = AutoModel.from_config(ENCODERS["bert"]).eval().to("meta")
    model.register_forward_pre_hook(see, with_kwargs=True)
    with pytest.raises(EnoughSeenError):
        read_signals(model, padded(5, 3), Wanted(hidden_states=ALL, pooling="mean"))


@pytest.mark.parametrize("kind, more", [(Batch, {}), (LabelledBatch, {"labels": torch.tensor([0, 1])})])
def test_a_batch_moves_as_a_whole(kind, more):
    weights = {"label_weights": torch.ones(2)} if more else {}
    moved = padded(5, 3, kind=kind, **more, **weights).to(torch.device("meta"))
    assert type(moved) is kind
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
