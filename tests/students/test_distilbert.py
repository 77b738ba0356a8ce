"""A DistilBERT from a BERT: it says the same without token types and pooler, and carries neither."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForMaskedLM, BertModel

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import num_layers, task_of
from stillhouse.models.labels import labels_of
from stillhouse.students.build import student_from_layers
from stillhouse.students.distilbert import distilbert_from_layers, freeze_position_embeddings
from stillhouse.students.layer_choice import choose_layers

IDS = torch.arange(2, 32).view(2, 15)
MASK = torch.arange(15) < torch.tensor([[15], [9]])
ALIKE = ("masked_lm", "token_classification", "sentence_embedding")


def _last_hidden(model):
    return model.base_model(input_ids=IDS, attention_mask=MASK.long()).last_hidden_state[MASK]


def _answer(model):
    output = model(input_ids=IDS, attention_mask=MASK.long())
    return (output.last_hidden_state if task_of(model) == "sentence_embedding" else output.logits)[MASK]


@torch.no_grad()
@pytest.mark.parametrize("task", ALIKE)
def test_keeping_all_layers_keeps_what_the_teacher_says(task, build_encoder):
    teacher = build_encoder("bert", task)
    student = distilbert_from_layers(teacher, range(4))
    assert type(student).__name__ == type(teacher).__name__.replace("Bert", "DistilBert")
    assert_close(_answer(student), _answer(teacher), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 3), (1, 2)])
def test_the_hidden_states_are_those_of_a_bert_with_these_layers(encoder_task, kept, build_encoder):
    teacher = build_encoder("bert", encoder_task)
    ours, theirs = distilbert_from_layers(teacher, kept), student_from_layers(teacher, kept)
    assert_close(_last_hidden(ours), _last_hidden(theirs), rtol=0, atol=1e-5)
    assert num_layers(ours) == len(kept)


def test_nothing_is_left_of_token_types_pooler_and_next_sentence(encoder_task, build_encoder):
    names = distilbert_from_layers(build_encoder("bert", encoder_task), (0, 2)).state_dict()
    assert not [name for name in names if any(part in name for part in ("token_type", "pooler", "seq_relationship"))]


def test_weights_are_the_teachers_bit_for_bit_but_for_the_positions(build_encoder):
    teacher = build_encoder("bert", "masked_lm", layers=12)
    theirs, kept = teacher.state_dict(), (0, 2, 4, 7, 9, 11)
    student = distilbert_from_layers(teacher, kept)
    ours = student.state_dict()
    token_type = theirs["bert.embeddings.token_type_embeddings.weight"][0]
    positions = theirs["bert.embeddings.position_embeddings.weight"]
    assert torch.equal(ours.pop("distilbert.embeddings.position_embeddings.weight"), positions + token_type)
    bits = {weight.numpy().tobytes() for weight in theirs.values()}
    assert all(weight.numpy().tobytes() in bits for weight in ours.values())
    for number, layer in enumerate(kept):
        query = theirs[f"bert.encoder.layer.{layer}.attention.self.query.weight"]
        assert torch.equal(ours[f"distilbert.transformer.layer.{number}.attention.q_lin.weight"], query)
    assert student.vocab_projector.weight is student.distilbert.embeddings.word_embeddings.weight


def test_a_classifier_starts_from_the_teachers_pooler_and_classifier(build_encoder):
    teacher = build_encoder("bert", "sequence_classification")
    student = distilbert_from_layers(teacher, (0, 2))
    assert torch.equal(student.pre_classifier.weight, teacher.bert.pooler.dense.weight)
    assert torch.equal(student.classifier.bias, teacher.classifier.bias)


def test_the_names_of_the_answers_go_with_them(encoder_task, build_encoder):
    teacher = build_encoder("bert", encoder_task)
    student = distilbert_from_layers(teacher, (0, 2))
    assert task_of(student) == encoder_task
    assert labels_of(student) == labels_of(teacher)


def test_a_teacher_may_have_a_pooler_that_its_embeddings_do_not_use(build_encoder):
    teacher = BertModel(build_encoder("bert").config).eval()
    assert_close(_last_hidden(distilbert_from_layers(teacher, range(4))), _last_hidden(teacher), rtol=0, atol=1e-5)


@torch.no_grad()
def test_transformers_alone_loads_it_with_no_key_missing_or_left_over(build_encoder, tmp_path):
    student = distilbert_from_layers(build_encoder("bert"), (0, 3))
    student.save_pretrained(tmp_path)
    again, found = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert again.config.model_type == "distilbert"
    assert_close(_answer(again.eval()), _answer(student))


def test_a_student_keeps_the_teachers_precision(build_encoder):
    assert distilbert_from_layers(build_encoder("bert").to(torch.bfloat16), (0, 3)).dtype == torch.bfloat16


def test_layers_chosen_for_the_bert_are_those_of_the_distilbert(build_encoder, build_batch):
    teacher = build_encoder("bert", "masked_lm", layers=6)
    choice = choose_layers(teacher, build_batch("masked_lm"), keep=3, method="published")
    assert (choice.method, choice.kept) == ("published", (0, 2, 5))
    assert num_layers(distilbert_from_layers(teacher, choice.kept)) == 3


@pytest.mark.parametrize("family", ["roberta", "electra", "mpnet", "distilbert", "modernbert"])
def test_other_families_are_refused_and_those_that_serve_are_named(family, build_encoder):
    with pytest.raises(ModelError, match="student.architecture is distilbert, but the teacher") as refusal:
        distilbert_from_layers(build_encoder(family), (0, 1))
    assert "BertForMaskedLM" in str(refusal.value)


def test_a_decoder_is_refused(build_model):
    with pytest.raises(ModelError, match=r"the teacher \(LlamaForCausalLM\) is none of the BERTs"):
        distilbert_from_layers(build_model("llama"), (0, 1))


def test_frozen_positions_stay_and_the_rest_learns(build_encoder):
    student = distilbert_from_layers(build_encoder("bert"), (0, 3))
    freeze_position_embeddings(student)
    positions = student.get_position_embeddings().weight
    before = positions.clone()
    student(input_ids=IDS, labels=IDS).loss.backward()
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    torch.optim.SGD(trained, lr=0.1).step()
    assert torch.equal(positions, before)
    assert all(parameter.grad.abs().sum() > 0 for parameter in trained if parameter.dim() == 2)
    assert len(trained) == len(list(student.parameters())) - 1


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "electra"])
def test_positions_of_other_encoders_can_be_frozen_too(family, build_encoder):
    model = build_encoder(family)
    freeze_position_embeddings(model)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"{model.base_model_prefix}.embeddings.position_embeddings.weight"]


def test_a_model_without_learnt_positions_has_none_to_freeze(build_model):
    with pytest.raises(ModelError, match="student.freeze_position_embeddings is true, but LlamaForCausalLM has no"):
        freeze_position_embeddings(build_model("llama"))
