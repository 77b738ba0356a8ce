"""A student from a configuration: random weights that the seed decides, and the teacher's ends of text."""

import pytest
import torch

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import layers_of, text_config
from stillhouse.students.build import randomised, student_from_config

IDS = torch.arange(2, 12)[None]


def test_changes_are_made_and_the_rest_is_the_teachers(family, build_model):
    teacher = build_model(family)
    student = student_from_config(teacher, seed=0, changes={"num_hidden_layers": 2})
    assert len(layers_of(student)) == 2
    assert type(student) is type(teacher)
    ours, theirs = text_config(student).to_dict(), text_config(teacher).to_dict()
    changed = {name for name in theirs if ours[name] != theirs[name]}
    assert changed - {"layer_types", "dtype"} == {"n_layer" if family == "gpt2" else "num_hidden_layers"}
    assert len(layers_of(teacher)) == 4  # as before
    student(IDS)


@pytest.mark.parametrize("layers", [2, 3, 6, 9])
def test_kinds_of_layers_go_on_in_the_teachers_pattern(build_model, layers):
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    teacher = build_model("gemma3_text", layers=3, layer_types=kinds)
    student = student_from_config(teacher, seed=0, changes={"num_hidden_layers": layers})
    assert student.config.layer_types == (kinds * 3)[:layers]
    student(IDS)


def test_kinds_of_layers_that_the_changes_name_are_kept(build_model):
    kinds = ["full_attention", "sliding_attention"]
    changes = {"num_hidden_layers": 2, "layer_types": kinds}
    assert student_from_config(build_model("gemma2"), seed=0, changes=changes).config.layer_types == kinds


def test_the_seed_decides_the_weights(build_model):
    teacher = build_model()
    logits = [student_from_config(teacher, seed=seed)(IDS).logits for seed in (0, 0, 1)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert not torch.allclose(logits[0], teacher(IDS).logits)


def test_another_architecture_is_read_from_its_folder(build_model, tmp_path):
    build_model("gpt2").save_pretrained(tmp_path)
    student = student_from_config(build_model("llama"), seed=0, config=str(tmp_path), changes={"num_hidden_layers": 1})
    assert student.config.model_type == "gpt2"
    assert len(layers_of(student)) == 1


def test_a_randomised_model_has_the_same_shapes_and_other_seeded_numbers(family, build_model):
    model = build_model(family)
    first, again, other = (randomised(model, seed=seed).state_dict() for seed in (3, 3, 4))
    matrices = [name for name, weight in model.state_dict().items() if weight.dim() == 2 and weight.is_floating_point()]
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert matrices and all(torch.equal(first[name], again[name]) for name in first)
    for name in matrices:
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], model.state_dict()[name])


def test_random_weights_are_independent_of_the_models(build_model):
    model = build_model(hidden=64)
    ours, theirs = randomised(model, seed=1).state_dict(), model.state_dict()
    for name, weight in theirs.items():
        if weight.dim() == 2:
            correlation = torch.corrcoef(torch.stack([ours[name].flatten(), weight.flatten()]))[0, 1]
            assert abs(correlation) < 5 / weight.numel() ** 0.5


@pytest.mark.parametrize(
    "make", [lambda teacher: student_from_config(teacher, seed=0), lambda m: randomised(m, seed=0)]
)
def test_a_random_model_ends_its_texts_as_the_teacher_does(build_model, make):
    teacher = build_model()
    teacher.generation_config.eos_token_id = [7, 1]
    assert make(teacher).generation_config.eos_token_id == [7, 1]
    assert make(teacher.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_layerz": 2}, "student.changes.num_layerz is no setting of LlamaConfig"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "do not fit together"),
        ({"hidden_size": -8}, "student.changes.hidden_size is -8"),
    ],
)
def test_changes_that_cannot_be_are_refused(build_model, changes, said):
    with pytest.raises(ModelError, match=said):
        student_from_config(build_model(), seed=0, changes=changes)(IDS)


def test_a_configuration_that_is_not_there_is_refused(build_model, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        student_from_config(build_model(), seed=0, config=str(tmp_path / "nowhere"))
