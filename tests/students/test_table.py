import pytest
import torch

from stillhouse.core.errors import ModelError
from stillhouse.students.table import SIZES, student_of_size

SAID = {"1M": 1_053_824, "3M": 3_049_920, "8M": 7_909_440, "15M": 14_948_736, "28M": 28_320_256}


@pytest.mark.parametrize("size", SIZES)
def test_the_parameter_counts_of_the_table_are_exact(size):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SIZES[size]
    assert shape.parameters() == SAID[size]
    assert abs(SAID[size] / (int(size[:-1]) * 1e6) - 1) < 0.06
    with torch.device("meta"):  # the weights are counted, not made
        for vocabulary in (300, 2048):
            config = LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                tie_word_embeddings=True,
            )
            model = LlamaForCausalLM(config)
            assert sum(p.numel() for p in model.parameters()) == shape.parameters(vocabulary)


def test_a_student_is_as_large_as_said_and_the_same_for_the_same_seed(tokenizer):
    one, other = (student_of_size("1M", tokenizer, seed=seed) for seed in (0, 0))
    assert sum(p.numel() for p in one.parameters()) == SIZES["1M"].parameters(len(tokenizer))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.config.eos_token_id == tokenizer.eos_token_id


def test_narrowed_embeddings_keep_what_their_width_can_and_a_narrower_teacher_is_refused(tokenizer):
    torch.manual_seed(0)
    low = torch.randn(len(tokenizer), 96) @ torch.randn(96, 200)  # 96 components hold all of it
    student = student_of_size("1M", tokenizer, embeddings=low)
    found, centred = student.get_input_embeddings().weight.detach(), low - low.mean(0)
    products, wanted = found @ found.T, centred @ centred.T
    torch.testing.assert_close(products / products.norm(), wanted / wanted.norm(), rtol=0, atol=1e-4)
    assert found.std().item() == pytest.approx(student.config.initializer_range, rel=1e-3)
    assert found.std(dim=0).max() < 3 * found.std(dim=0).min()  # no column holds all
    with pytest.raises(ModelError, match=r"student\.embeddings is teacher.* 64 numbers a token.* 128"):
        student_of_size("1M", tokenizer, embeddings=torch.randn(len(tokenizer), 64))
