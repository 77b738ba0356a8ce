"""How long each recipe would take on this machine for a reference teacher and one megabyte of data: estimates, not runs.

Prints the rows of the table in docs/gallery.md. Operations are counted and one matrix product is timed, as `stillhouse init`
does; no weights are read and nothing is trained.
"""

import tempfile
from pathlib import Path

from transformers import BertConfig, LlamaConfig

from stillhouse.commands.estimate import estimate, matmul_speed, shape_of
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.shipped import shipped
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.reporting.formatting import duration

DATA_BYTES = 1_000_000
# As their config.json on the hub says.
SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
BERT_BASE = BertConfig()


def main() -> None:
    """A row for each recipe of which an estimate can be made."""
    speed = matmul_speed()
    with tempfile.TemporaryDirectory() as folder:
        places = {}
        for name, config in (("SmolLM2-135M", SMOLLM2_135M), ("BERT-base", BERT_BASE)):
            config.save_pretrained(Path(folder) / name)
            places[name] = Path(folder) / name
        data = Path(folder) / "data"
        data.write_bytes(b"x" * DATA_BYTES)
        print(f"at {speed / 1e9:,.0f} billion operations a second")
        for one in shipped():
            said = told(one.path, places, data, speed=speed)
            print(f"| {one.name} | {said} |")


def told(path: Path, places: dict[str, Path], data: Path, *, speed: float) -> str:
    """The teacher, what there is to learn from, and the estimate of one recipe."""
    values = read_recipe(path)
    if is_of_retrieval(values) or is_of_stories(values) or values["teacher"].get("kind") in ("remote", "self"):
        return "not estimated"
    plain = load_recipe(Recipe, path)
    name = "SmolLM2-135M" if plain.task in ("causal_lm", "reward") else "BERT-base"
    changes = [f"teacher.model={places[name]}"]
    if plain.data.path is not None:
        changes.append(f"data.path={data}")
    recipe = load_recipe(Recipe, path, changes)
    found = estimate(recipe, shape_of(str(places[name]), recipe), speed=speed)
    if found is None:
        return "not estimated"
    if recipe.data.path is not None:
        epochs = recipe.training.epochs
        return f"{name} | 1 MB, {epochs:g} epochs | {duration(found.total(epochs))}"
    wanted = recipe.synthesis
    units = float(
        getattr(wanted, "tokens", None) or getattr(wanted, "kept", None) or getattr(wanted, "number", None) or 0
    )
    return f"{name} | {units:,.0f} written | {duration(found.total(units))}"


if __name__ == "__main__":
    main()
