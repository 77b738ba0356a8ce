"""Which controls a recipe trains."""

from pathlib import Path

import pytest

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.training import control_roles
from stillhouse.core.config import load_recipe
from stillhouse.core.results import ROLE_TITLES
from stillhouse.models.anatomy import multiplied_parameters, parameter_count

from .conftest import write_recipe

HARD, SCRATCH = "control_hard_labels", "control_from_scratch"


@pytest.mark.parametrize(
    ("control", "budget", "roles"),
    [
        ("none", "both", ()),
        ("hard_labels", "tokens", (HARD,)),
        ("hard_labels", "flops", (f"{HARD}_flops",)),
        ("both", "both", (HARD, SCRATCH, f"{HARD}_flops", f"{SCRATCH}_flops")),
    ],
)
def test_a_control_has_the_students_tokens_or_its_flops_or_there_is_one_of_each(
    control, budget, roles, tmp_path: Path, teacher_folder: Path
):
    path = write_recipe(tmp_path, teacher_folder, evaluation={"control": control, "control_budget": budget})
    found = control_roles(load_recipe(Recipe, path))
    assert found == roles
    assert set(found) <= ROLE_TITLES.keys()


def test_a_token_is_multiplied_with_the_head_also_where_it_is_the_table_of_tokens(build_model):
    tied = build_model("llama", vocab=50, hidden=16, tie_word_embeddings=True)
    assert multiplied_parameters(tied) == parameter_count(tied, embeddings=False) + 50 * 16
