"""DistilBERT students: a BERT without token types, pooler and next-sentence head."""

from collections.abc import Sequence

from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import task_of
from stillhouse.models.labels import labels_of, name_labels
from stillhouse.models.load import untrained
from stillhouse.students.build import check_like_teacher_without_the_others, renamed

TEACHERS = (BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification, BertModel)

NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
    "cls.predictions.decoder": "vocab_projector",
    "pooler.dense": "pre_classifier",
}
"""What DistilBERT calls BERT's parts; those within a layer without the layer's name."""

POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
"""What families call the embeddings of positions that were learnt."""


def distilbert_from_layers(teacher: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A DistilBERT for the teacher's task from the layers `kept` of a BERT.

    Of the token types, the first is added to every position, so that a text alone is read as before; in a pair the two
    texts are no longer told apart by more than their separator. (The original dropped the token types altogether.) The
    heads of a masked language model and of a token classifier are the teacher's. For whole texts, BERT's head is
    `classifier(tanh(pooler(first state)))` and DistilBERT's `classifier(relu(pre_classifier(first state)))`: the teacher's
    pooler and classifier are a start that must be trained before it answers as the teacher does.

    Raises:
        ModelError: if the teacher is no BERT, or one whose layers a DistilBERT cannot act like.

    Source: Sanh et al., 2019, arXiv:1910.01108.
    """
    _refuse_others(teacher)
    student = untrained(distilbert_config(teacher.config, kept), task_of(teacher), dtype=teacher.dtype)
    student.load_state_dict(_distilbert_weights(teacher, kept), strict=True)
    heads_alike = task_of(teacher) not in ("sequence_classification", "regression")
    pair = (student, teacher) if heads_alike else (_body(student), _body(teacher))
    check_like_teacher_without_the_others(*pair, kept)
    return student


def check_bert(config: PretrainedConfig) -> None:
    """Refuse a teacher that no DistilBERT can be made from, by its configuration alone.

    Raises:
        ModelError: if it is no BERT, or one that reads in one direction.
    """
    if type(config) is not BertConfig or config.is_decoder:
        raise ModelError(_no_bert(config.model_type))


def freeze_position_embeddings(model: PreTrainedModel) -> None:
    """Keep the embeddings of positions as they are while the model is trained.

    Raises:
        ModelError: if the family has none that were learnt, as one with rotary positions.
    """
    tables = [module for name, module in model.named_modules() if name.rpartition(".")[2] in POSITION_TABLES]
    if not tables:
        raise ModelError(
            f"student.freeze_position_embeddings is true, but {type(model).__name__} has no embeddings of positions that were "
            "learnt. Leave it out."
        )
    for table in tables:
        table.requires_grad_(False)


def _refuse_others(teacher: PreTrainedModel) -> None:
    if not isinstance(teacher, TEACHERS) or teacher.config.is_decoder:
        raise ModelError(_no_bert(type(teacher).__name__))


def _no_bert(what: str) -> str:
    return (
        f"student.architecture is distilbert, but the teacher ({what}) is none of the BERTs that one is made from: "
        f"{', '.join(known.__name__ for known in TEACHERS)}. Leave `architecture` out to keep the teacher's."
    )


def distilbert_config(config: PretrainedConfig, kept: Sequence[int]) -> DistilBertConfig:
    dropout = config.hidden_dropout_prob
    found = DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        n_layers=len(kept),
        n_heads=config.num_attention_heads,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        dropout=dropout,
        attention_dropout=config.attention_probs_dropout_prob,
        seq_classif_dropout=dropout if config.classifier_dropout is None else config.classifier_dropout,
        activation=config.hidden_act,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    name_labels(found, labels_of(config))
    found.problem_type = config.problem_type
    return found


def _distilbert_weights(teacher: PreTrainedModel, kept: Sequence[int]) -> dict[str, Tensor]:
    """The teacher's weights by the names that a DistilBERT has for them."""
    weights = teacher.state_dict()
    prefix = "" if isinstance(teacher, BertModel) else "bert."
    token_type = weights[f"{prefix}embeddings.token_type_embeddings.weight"][0]
    # Not the word embeddings: the head of a masked language model is tied to them.
    positions = f"{prefix}embeddings.position_embeddings.weight"
    weights = {**weights, positions: weights[positions] + token_type}
    named = ((_distilbert_name(name, prefix, kept), value) for name, value in weights.items())
    return {name: value for name, value in named if name is not None}


def _distilbert_name(name: str, prefix: str, kept: Sequence[int]) -> str | None:
    """What a DistilBERT calls this weight; None if it has no use for it."""
    new = renamed(name, f"{prefix}encoder.layer.", kept)
    # The bias of the predictions is the decoder's too; a pooler without a head above it answers nothing.
    if new is None or "token_type_embeddings" in new or new.startswith(("cls.predictions.bias", "pooler.")):
        return None
    body, part = "distilbert." if prefix else "", new.removeprefix(prefix)
    part, _, kind = part.rpartition(".")
    if part.startswith("encoder.layer."):
        _, _, number, inside = part.split(".", 3)
        return f"{body}transformer.layer.{number}.{NAMES[inside]}.{kind}"
    if part in NAMES:
        return f"{NAMES[part]}.{kind}"
    return f"{body}{part}.{kind}" if part.startswith("embeddings.") else new


def _body(model: PreTrainedModel) -> PreTrainedModel:
    body = model.base_model
    assert isinstance(body, PreTrainedModel)
    return body
