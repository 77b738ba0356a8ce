"""What a story model would learn of the texts that its teacher wrote, before one is made."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from stillhouse.commands.inspect import Shown, learnt_of, lengths_of, share_of, show_one
from stillhouse.commands.stories.pipeline import StoryPipeline
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.commands.stories.texts import Story, examples_of
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.files import read_lines
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder
from stillhouse.reporting.formatting import count, percent
from stillhouse.synthesis.flow import DROPPED, SYNTHETIC


def show(recipe_path: str, overrides: Sequence[str], *, num_examples: int) -> None:
    """Print what is kept of the first round, and its first texts as the student's tokenizer reads them. Nothing is written.

    Raises:
        StillhouseError: for whatever is wrong with recipe, world or texts.
    """
    recipe = load_recipe(StoryRecipe, Path(recipe_path), overrides)
    pipeline = StoryPipeline(recipe, RunFolder(recipe.run), SILENT)
    pipeline.check()
    if not pipeline.texts_of(0).exists():
        raise RecipeError(
            [
                f"data: {pipeline.texts_of(0)} is not written yet. First: stillhouse synthesize {recipe_path}, or look at the "
                "prompts: stillhouse synthesize --dry-run"
            ],
            source=recipe_path,
        )
    tokenizer, _ = pipeline.new_tokenizer()
    sides = {"train": pipeline.learnt(0), "held out": pipeline.held_out}
    shown = {name: _shown(pipeline, stories, tokenizer) for name, stories in sides.items()}
    console = Console(highlight=False)
    for line in _lines(pipeline, sides, shown, len(tokenizer)):
        console.print(line, markup=False, soft_wrap=True)
    for number, one in zip(range(1, num_examples + 1), shown["train"], strict=False):
        show_one(console, one, number, tokenizer)


def _shown(pipeline: StoryPipeline, stories: Sequence[Story], tokenizer: PreTrainedTokenizerBase) -> list[Shown]:
    data = pipeline.recipe.data
    examples = examples_of(stories, pipeline.world, tokenizer, max_tokens=data.sequence_tokens, seed=data.seed)
    return [Shown(one.document, one.ids, learnt_of(one)) for one in examples]


def _lines(
    pipeline: StoryPipeline, sides: dict[str, list[Story]], shown: dict[str, list[Shown]], num_tokens: int
) -> Iterator[str]:
    recipe, first = pipeline.recipe, len(read_lines(pipeline.texts_of(0)))
    lines = [line for name in (SYNTHETIC, DROPPED) for line in read_lines(pipeline.run.data / name)]
    asked = sum(line["lineage"]["round"] == 0 for line in lines)
    yield f"texts of the world {pipeline.world.name}, in {count(num_tokens)} tokens ({recipe.tokenizer.kind})"
    yield f"first round: {count(asked)} asked for, {count(first)} kept ({percent(first / asked)})"
    for name, stories in sides.items():
        told = sum(bool(story.lineage.get("instruct")) for story in stories)
        tokens = sum(len(one.ids) for one in shown[name])
        yield (
            f"{name:<10}{count(len(stories))} texts, {count(told)} behind an instruction, {count(tokens)} tokens"
            f"{share_of(shown[name])}"
        )
        yield f"{'':<10}{lengths_of(shown[name])}"
