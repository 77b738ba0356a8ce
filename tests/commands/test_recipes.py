"""Every file in `recipes/` goes the whole way on a tiny model of its architecture, and is what the pages say of it."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.files import read_lines
from stillhouse.core.task import Task
from stillhouse.core.yaml_text import from_yaml
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig

from .conftest import CHATS, FAULT_SERVER, KINDS, PAIRS_OF_ANSWERS, SaveTeacher, stillhouse, write_rows

ROOT = Path(__file__).parents[2]
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
PAGES = [*ROOT.glob("*.md"), ROOT / "recipes" / "README.md", *(ROOT / "docs").rglob("*.md")]

PUBLISHED_DEPTH, SHALLOW = 12, 4
"""Layers that the published choices and pairs of layers count on, and what is enough for the rest."""
WIDTH, NARROW = 96, 48
"""Of the tiny teacher and of a narrower student; both have 48 relation heads in them."""
ROWS = {"sequence_tokens": 32, "held_out": 0.25}

OF_RETRIEVERS = {name for name, path in RECIPES.items() if is_of_retrieval(read_recipe(path))}
"""Those whose whole way tests/retrieval/test_command.py goes."""
OF_STORIES = {name for name, path in RECIPES.items() if is_of_stories(read_recipe(path))}
"""Those whose whole way test_stories.py goes."""

TinyTeacher = Callable[[Recipe], Path]


def depth_for(recipe: Recipe) -> int:
    """As many layers as the recipe counts on; where it lets them be measured, or takes a model as it is, few."""
    student = recipe.student
    measured = isinstance(student, FromLayersConfig) and isinstance(student.keep, int) and student.choose == "greedy"
    return SHALLOW if measured or isinstance(student, CheckpointConfig) else PUBLISHED_DEPTH


@pytest.fixture(scope="session")
def tiny_teacher(
    tmp_path_factory: pytest.TempPathFactory,
    save_teacher: SaveTeacher,
    build_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    writing_teacher: Path,
) -> TinyTeacher:
    """A random model of the architecture that a recipe's teacher has, made once for all recipes that it suits."""

    @cache
    def encoder(task: Task, depth: int, labels: tuple[str, ...]) -> Path:
        named = {"labels": labels} if labels else {}
        return save_teacher(task, "bert", layers=depth, hidden_size=WIDTH, **named)

    @cache
    def decoder(family: str, depth: int) -> Path:
        folder = tmp_path_factory.mktemp("teachers") / family
        build_model(family, layers=depth, vocab=len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    def make(recipe: Recipe) -> Path:
        depth = depth_for(recipe)
        if recipe.synthesis is not None and recipe.data.kind in ("chat", "rag"):
            return writing_teacher
        if recipe.task != "causal_lm":
            return encoder(recipe.task, depth, KINDS[recipe.data.kind].labels if recipe.data.kind in KINDS else ())
        learns_positions = getattr(recipe.student, "freeze_position_embeddings", False)
        return decoder("gpt2" if learns_positions else "llama", depth)

    return make


def tiny(
    recipe: Recipe, teacher: Path, texts_file: Path, folder: Path, *, student: Path, server: str
) -> dict[str, Any]:
    """What makes two steps on little data of a recipe's many on much; its objectives stay as they are."""
    changes = {"run": folder / "run", "teacher.model": teacher, "training.epochs": 1, "evaluation.samples": 1}
    if recipe.teacher.kind == "remote":
        changes |= {"teacher.model": "tiny", "teacher.base_url": server, "teacher.key_env": "null"}
    changes |= {f"data.{key}": value for key, value in ROWS.items()}
    rows_per_step = 2 if recipe.task in ("causal_lm", "reward") else 9
    changes |= dict.fromkeys(("training.rows_per_step", "training.rows_per_micro_batch"), rows_per_step)
    if recipe.data.kind == "rag":
        changes |= over_passages(folder)
    elif recipe.synthesis is not None and recipe.data.kind == "chat":
        number = "kept" if recipe.synthesis.kept else "number"
        changes |= {
            "data.sequence_tokens": 128,
            f"synthesis.{number}": 24,
            "synthesis.sampling.max_new_tokens": 24,
        }
        changes |= {"synthesis.answers.sampling.max_new_tokens": 8, "synthesis.batch_size": 8}
        changes["synthesis.filters"] = [{"name": "duplicates"}]  # what a random model says, others would drop
        if recipe.synthesis.kind == "self_instruct":  # a random model writes no list of tasks
            changes["synthesis.writer"] = {"kind": "remote", "base_url": server, "model": "tiny"}
        if recipe.synthesis.choose is not None:
            changes["synthesis.choose.reward"] = {"kind": "length"}  # the tiny tokenizer has no yes
        if recipe.synthesis.sources:
            (folder / "texts.txt").write_text("The fox ran over the hill.\nThe girl sang.\n", encoding="utf-8")
            changes["synthesis.path"] = folder / "texts.txt"
    elif recipe.synthesis is not None:
        changes |= {"synthesis.tokens": 250, "synthesis.batch_size": 4, "synthesis.sampling.max_new_tokens": 32}
    elif recipe.data.kind == "chat":
        changes["data.sequence_tokens"] = 96  # in which a prompt leaves room for an answer
        changes["data.path"] = write_rows(folder / "rows.jsonl", CHATS)
        if recipe.data.teacher_context is not None:
            return changes | in_context(folder, teacher)
    elif recipe.data.kind in ("preferences", "rewards"):
        changes["data.sequence_tokens"] = 64
        changes["data.path"] = write_rows(folder / "rows.jsonl", PAIRS_OF_ANSWERS)
    elif recipe.task == "causal_lm":
        changes["data.path"] = texts_file
    else:
        changes["data.path"] = write_rows(folder / "rows.jsonl", KINDS[recipe.data.kind].rows)
    if getattr(recipe.source, "sampling", None) is not None:
        changes["source.sampling.max_new_tokens"] = 8
    if recipe.history is not None:
        changes["history.sampling.max_new_tokens"] = 8
    if recipe.evaluation.behaviour is not None:
        changes["evaluation.behaviour.sampling.max_new_tokens"] = 8
    for number, task in enumerate(recipe.evaluation.tasks or ()):
        changes |= tiny_task(task, f"evaluation.tasks.{number}", folder)
    if recipe.replay is not None:
        changes |= {"replay.path": write_rows(folder / "old.jsonl", CHATS), "replay.held_out": 0.25}
    if isinstance(recipe.student, CheckpointConfig):
        own = recipe.teacher.kind == "self" or recipe.data.kind == "preferences"  # with the teacher's tokenizer
        changes |= {
            "student.model": teacher if own else student,
            "data.sequence_tokens": 96,
        }  # in which whole turns have room
    elif isinstance(recipe.student, FromConfigConfig):
        changes |= {"student.changes.hidden_size": NARROW, "student.changes.intermediate_size": NARROW}
    elif depth_for(recipe) < PUBLISHED_DEPTH:
        changes |= {"student.keep": 2}
    return changes


def over_passages(folder: Path) -> dict[str, Any]:
    """What else a recipe needs that answers from documents; what a random model says, its checks would drop."""
    (folder / "documents").mkdir()
    for number in range(24):
        (folder / "documents" / f"{number}.txt").write_text(f"House {number} is {number}{number} feet high.", "utf-8")
    questions = [
        {"question": f"How high is house {number}?", "answers": f"{number}{number}", "passages": f"{number}.txt"}
        for number in range(24)
    ]
    return {
        "data.documents": folder / "documents",
        "data.path": write_rows(folder / "rows.jsonl", questions),
        "data.passages": 2,
        "data.mixture.removed": 2.0,  # whose answers are known, so that no check drops them
        "data.sequence_tokens": 512,
        "evaluation.questions": 1,
        "synthesis.answers.sampling.max_new_tokens": 8,
        "synthesis.citing": "none",
        "synthesis.precision": 0.0,
        "synthesis.recall": 0.0,
        "synthesis.filters": [],
    }


QUESTIONS: dict[str, list[dict[str, Any]]] = {
    "minimal_pairs": [{"sentence_good": f"the fox ran {n}", "sentence_bad": f"the fox run {n}"} for n in range(4)],
    "multiple_choice": [{"goal": f"say {n}", "sol1": "fox", "sol2": "girl"} for n in range(4)],
    "answers": [{"question": f"say {n}", "answer": f"so #### {n}"} for n in range(4)],
}


def tiny_task(task: Any, key: str, folder: Path) -> dict[str, Any]:
    """A few questions in the place of a task's files, and short answers."""
    changes: dict[str, Any] = {f"{key}.path": write_rows(folder / f"{task.kind}.jsonl", QUESTIONS[task.kind])}
    if task.kind == "multiple_choice":
        (folder / "right.lst").write_text("0\n1\n1\n0\n", encoding="utf-8")
        changes[f"{key}.answers_path"] = folder / "right.lst"
    return changes | ({f"{key}.max_new_tokens": 4} if task.kind == "answers" else {})


def in_context(folder: Path, teacher: Path) -> dict[str, Any]:
    """What else a recipe needs whose teacher reads a prompt that its student, the same model, does not."""
    (folder / "prompt.txt").write_text("sing of the sea", encoding="utf-8")
    general = write_rows(folder / "general.jsonl", [{"prompt": f"say {n}", "completion": f"{n}"} for n in range(20)])
    return {
        "student.model": teacher,
        "source.sampling.max_new_tokens": 16,
        "data.teacher_context.styles.0.system_path": folder / "prompt.txt",
        "data.teacher_context.replay.path": general,
    }


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - OF_RETRIEVERS - OF_STORIES))
def test_every_recipe_goes_the_whole_way(name, tiny_teacher, texts_file, tmp_path, student_folder):
    recipe = load_recipe(Recipe, RECIPES[name])
    with FAULT_SERVER.FaultServer(answer=FAULT_SERVER.in_words, share=0.1, faults=("500", "drop")) as server:
        changes = tiny(recipe, tiny_teacher(recipe), texts_file, tmp_path, student=student_folder, server=server.url)
        said = stillhouse("distill", RECIPES[name], *(f"{key}={value}" for key, value in changes.items()))
    assert said.code == 0, said.err
    run = tmp_path / "run"
    assert {path.name for path in (run / "student").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert (run / "report.html").stat().st_size > 0
    steps = [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student" and "loss" in line]
    assert len(steps) >= 2
    # Chance decides who answers, so that a small step may have nothing for an objective that is about one side alone.
    assert all(step.keys() >= {one.name for one in recipe.objectives if one.answers == "all"} for step in steps)
    assert set().union(*steps) >= {chosen.name for chosen in recipe.objectives}


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after `stillhouse distill` on each line that shows it, in a comment or a block of a page."""
    for command in re.findall(r"^#? *stillhouse distill (recipes/.+)$", text.replace("\\\n", " "), re.MULTILINE):
        yield shlex.split(command)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_opens_with_what_it_is_and_the_command_that_runs_it(name):
    opening, _, rest = RECIPES[name].read_text(encoding="utf-8").partition("\n\n")
    assert all(line.startswith("#") for line in opening.splitlines())
    path, *changes = next(commands_in(opening))
    assert path == f"recipes/{name}.yaml"
    assert {"teacher.model=PATH_OR_HUB_ID", "student.model=PATH_OR_HUB_ID"} & set(changes)
    assert rest.startswith(f"run: runs/{name}\n")


SAYS_COMMANDS = [path for path in [*RECIPES.values(), *PAGES] if list(commands_in(path.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("path", SAYS_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_shown_is_understood(path):
    for recipe, *words in commands_in(path.read_text(encoding="utf-8")):
        changes = [word for word in words if "=" in word]  # that flags are known: tests/docs
        values = read_recipe(ROOT / recipe, changes)
        kind = RetrievalRecipe if is_of_retrieval(values) else StoryRecipe if is_of_stories(values) else Recipe
        load_recipe(kind, ROOT / recipe, changes)


def test_the_front_page_and_the_table_have_every_recipe():
    front, table = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "recipes/README.md"))
    assert set(re.findall(r"\[(\w+)\]\(recipes/\1\.yaml\)", front)) == RECIPES.keys()
    assert set(re.findall(r"^\| \[(\w+)\.yaml\]\(\1\.yaml\) \|", table, re.MULTILINE)) == RECIPES.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_recipe_that_is_not_there(page):
    named = set(re.findall(r"recipes/(\w+)\.yaml", page.read_text(encoding="utf-8")))
    assert named <= RECIPES.keys()


def says_no_other(shown: Any, whole: Any) -> bool:
    """Whether all that is shown is so in the whole, which may have more keys."""
    if isinstance(shown, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and says_no_other(value, whole[key]) for key, value in shown.items())
    return bool(shown == whole)


def recipes_shown() -> Iterator[tuple[str, Any]]:
    """The name and content of each recipe in `docs/` that fills the folder of one in `recipes/`."""
    for page in (ROOT / "docs").rglob("*.md"):
        for block in re.findall(
            r"^```yaml\n(run: .+?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            values = from_yaml(block)
            name = Path(values["run"]).name
            if name in RECIPES:
                yield name, values


def test_what_a_page_shows_of_a_recipe_is_what_the_file_says():
    shown = list(recipes_shown())
    assert len(shown) > 3
    for name, values in shown:
        assert says_no_other(values, from_yaml(RECIPES[name].read_text(encoding="utf-8"))), name
