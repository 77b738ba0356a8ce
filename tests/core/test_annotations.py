"""What is annotated is checked while the tests run: without it, much that these say would go unproved."""

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from stillhouse.core.batch import Batch
from stillhouse.core.config import load_recipe
from stillhouse.objectives.divergences import forward_kl

REFUSED = (BeartypeCallHintViolation, TypeCheckError)


def test_an_argument_of_another_type_is_refused():
    with pytest.raises(REFUSED):
        load_recipe(Batch, "recipe.yaml")


def test_axes_that_disagree_are_refused():
    with pytest.raises(REFUSED):
        forward_kl(torch.zeros(3, 5), torch.zeros(4, 5))


def test_a_field_of_another_type_or_shape_is_refused():
    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(REFUSED):
        Batch(ids, ids, ids, torch.zeros(2, 4))
    with pytest.raises(REFUSED):
        Batch([[0]], ids, ids, torch.zeros(2, 3))


def test_a_result_whose_axes_are_not_its_arguments_is_refused():
    def twice(values: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
        return torch.cat([values, values])

    with pytest.raises(REFUSED):
        jaxtyping.jaxtyped(twice, typechecker=beartype)(torch.zeros(3))
