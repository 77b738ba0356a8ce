"""A student from its teacher's layers: what is kept is the teacher's to the last bit, what is left out is gone."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from stillhouse.core.errors import ModelError
from stillhouse.data.packing import to_batch
from stillhouse.models.anatomy import layers_of, parameter_count, text_config
from stillhouse.models.generate import Sampling, generate
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import forward_kl
from stillhouse.students.build import student_from_layers
from stillhouse.students.layer_choice import choose_layers

from .cases import assert_copied

IDS = torch.arange(2, 32)[None]


@torch.no_grad()
def test_keeping_all_layers_gives_the_teachers_logits_bit_for_bit(any_family, build_model):
    teacher = build_model(any_family)
    student = student_from_layers(teacher, range(4))
    assert student is not teacher
    assert torch.equal(student(IDS).logits, teacher(IDS).logits)


def test_every_weight_of_a_student_is_its_teachers_bit_for_bit(stack_family, build_model):
    teacher, kept = build_model(stack_family), (0, 2, 3)
    if stack_family == "lfm2":
        kept = (0, 1, 3)
    assert_copied(student_from_layers(teacher, kept), teacher, kept)


def test_a_student_has_its_own_weights(build_model):
    teacher = build_model()
    before = teacher(IDS).logits
    student = student_from_layers(teacher, (0, 2))
    for parameter in student.parameters():
        parameter.data.zero_()
    assert torch.equal(teacher(IDS).logits, before)


@torch.no_grad()
def test_the_measured_start_is_that_of_the_student_which_is_then_built(stack_family, build_model, build_example):
    teacher, batch = build_model(stack_family), to_batch([[build_example(1, 30)], [build_example(2, 20)]])
    choice = choose_layers(teacher, batch, keep=(0, 1, 3))
    student = student_from_layers(teacher, choice.kept)
    ours, theirs = (factored_logits(model, batch).at(batch.predicts).dense() for model in (student, teacher))
    assert choice.start_kl_nats == pytest.approx(float(forward_kl(ours, theirs).mean()), rel=1e-5)
    assert choice.start_kl_nats > 0.01


@torch.no_grad()
def test_a_saved_student_is_loaded_by_transformers_alone(stack_family, build_model, tmp_path):
    student = student_from_layers(build_model(stack_family), (0, 1, 3))
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    weights = again.state_dict()
    assert all(torch.equal(weights.pop(name), weight) for name, weight in student.state_dict().items()) and not weights
    torch.testing.assert_close(again(IDS).logits, student(IDS).logits)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_tied_embeddings_stay_tied(build_model, family):
    teacher = build_model(family)
    student = student_from_layers(teacher, (0, 2))
    assert teacher.get_output_embeddings().weight is teacher.get_input_embeddings().weight
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    gone = sum(parameter.numel() for layer in (1, 3) for parameter in layers_of(teacher)[layer].parameters())
    assert parameter_count(student) == parameter_count(teacher) - gone


@pytest.mark.parametrize("family", ["mistral", "qwen3", "gpt_neox"])
def test_separate_heads_stay_separate(build_model, family):
    student = student_from_layers(build_model(family), (0, 2))
    assert student.get_output_embeddings().weight is not student.get_input_embeddings().weight


def test_grouped_heads_rotary_positions_and_precision_survive(build_model):
    teacher = build_model("llama", rope_theta=500.0, max_position_embeddings=77)
    student = student_from_layers(teacher, (1, 2))
    assert student.config.num_key_value_heads == teacher.config.num_key_value_heads == 2
    assert student.config.rope_parameters == teacher.config.rope_parameters
    assert student.config.max_position_embeddings == 77
    assert torch.equal(student.model.rotary_emb.inv_freq, teacher.model.rotary_emb.inv_freq)
    assert student_from_layers(teacher.to(torch.bfloat16), (1, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["gemma3_text", "gemma2", "lfm2", "qwen3_5_text", "gpt_oss"])
def test_a_layer_keeps_its_own_kind(build_model, family):
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    if family == "lfm2":
        kinds = ["conv", "full_attention", "full_attention", "conv"]
    if family == "qwen3_5_text":
        kinds = ["linear_attention", "full_attention", "full_attention", "linear_attention"]
    teacher = build_model(family, layer_types=kinds)
    student = student_from_layers(teacher, (0, 2, 3))
    assert text_config(student).layer_types == [kinds[0], kinds[2], kinds[3]]
    assert text_config(student).num_hidden_layers == 3
    assert text_config(teacher).layer_types == kinds


def test_a_student_ends_its_texts_as_its_teacher_does(build_model):
    teacher = build_model()
    teacher.generation_config.eos_token_id = [7, 1]
    student = student_from_layers(teacher, (0, 1, 2))
    assert student.generation_config.eos_token_id == [7, 1]
    assert student.generation_config is not teacher.generation_config


def test_a_student_can_write(stack_family, build_model):
    student = student_from_layers(build_model(stack_family), (0, 1, 3))
    texts = generate(student, [[3, 4], [5]], sampling=Sampling(max_new_tokens=4), seed=0, stop_ids=set())
    assert [len(tokens) for tokens in texts] == [4, 4]


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("rwkv", {"attention_hidden_size": 32}, "their weights differ in kind"),
        ("bloom", {}, "they hand on more than hidden states"),
    ],
)
def test_a_family_whose_layers_depend_on_their_number_is_refused(build_model, family, changes, why):
    with pytest.raises(ModelError, match=f"depend on their number or on each other \\({why}\\)") as refusal:
        student_from_layers(build_model(family, **changes), (1, 2))
    assert "kind: checkpoint" in str(refusal.value)


def test_a_family_that_numbers_its_layers_in_secret_is_refused(build_model, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaAttention

    own = LlamaAttention.__init__

    def numbered(self, config, layer_idx):
        own(self, config, layer_idx)
        self.scaling = self.scaling / (1 + layer_idx)

    monkeypatch.setattr(LlamaAttention, "__init__", numbered)
    teacher = build_model()
    student_from_layers(teacher, (0, 1, 2))  # those that stay in their places are as they were
    with pytest.raises(ModelError, match="moved to another place they act differently"):
        student_from_layers(teacher, (0, 2))
