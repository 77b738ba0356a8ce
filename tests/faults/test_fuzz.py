"""Whatever is read, a value or an error of ours comes out: never another."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from apart import FULL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from stillhouse.cli import _in_the_users_words
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.core.config import load_recipe, parse_recipe, to_yaml
from stillhouse.core.errors import RecipeError
from stillhouse.core.label_store import damaged
from stillhouse.core.run import RunFolder
from stillhouse.data.chat_forms import read_conversations
from stillhouse.data.config import DataConfig
from stillhouse.data.preference_forms import read_preferences
from stillhouse.data.prepare import prepare
from stillhouse.data.tables import read_records, split_lines
from stillhouse.data.text import read_rows
from stillhouse.teachers import StoredTeacher

from .harness import shared, tally
from .test_bad_input import read_all

EXAMPLES = 10_000 if FULL else 60
SEEDS = st.integers(0, 2**32)
OPTIONS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def survives(call: Any, kind: str) -> Any:
    """What comes out; None where it is refused."""
    try:
        outcome = call()
    except Exception as error:
        if _in_the_users_words(error) is None:
            tally(kind, tracebacks=1)
            raise
        outcome = None
    tally(kind, survived=1)
    return outcome


ODD = [
    *(None, True, False, 0, -1, 1, 2**31, 2**64, 10**400, 0.0, -0.5, 1e-320, 1e308, float("inf"), float("nan")),
    *("", " ", "a", "\0", "null", "~", "NaN", "1e5", "../../etc/passwd", "<script>", "$(ls)", "{0}", "{a", "%s"),
    *([], [[]], [None], {}, {"": None}, {"kind": None}, {"kind": []}, {"name": {}}, {"start": 0, "end": 1}),
    *("text", "chat", "rag", "local", "remote", "self", "sparse", "jsd", "both", "adaptive", "\ud800", "x" * 2000),
]


def odd_value(chance: random.Random, depth: int = 2) -> Any:
    """Any value that JSON has, the odder the likelier."""
    match chance.randrange(6) if depth else 0:
        case 4:
            return [odd_value(chance, depth - 1) for _ in range(chance.randrange(4))]
        case 5:
            return {chance.choice(KEYS): odd_value(chance, depth - 1) for _ in range(chance.randrange(3))}
        case 3:
            return chance.choice([chance.randrange(-9, 300), chance.uniform(-2, 2), chance.choice(KEYS)])
    return json.loads(json.dumps(chance.choice(ODD)))


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in plain values."""
    here = [path] if path else []
    if isinstance(values, dict):
        return here + [found for key, value in values.items() for found in places(value, (*path, key))]
    if isinstance(values, list):
        return here + [found for index, value in enumerate(values) for found in places(value, (*path, index))]
    return here


def recipes() -> list[dict[str, Any]]:
    """All that are shipped: together they have every section."""
    folder = Path(__file__).parents[2] / "recipes"
    return [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.yaml"))]


SHIPPED = recipes()
KEYS = sorted({str(key) for recipe in SHIPPED for path in places(recipe) for key in path if isinstance(key, str)})


def spoil(values: Any, chance: random.Random) -> None:
    """Change one of its places, take it out, or give it another's name."""
    found = places(values)
    if not found:
        return
    *parents, last = chance.choice(found)
    here = values
    for key in parents:
        here = here[key]
    match chance.randrange(5):
        case 0:
            del here[last]
        case 1 if isinstance(here, dict):
            here[chance.choice(KEYS)] = here.pop(last)
        case 2 if isinstance(here, dict):
            here[chance.choice(KEYS)] = odd_value(chance)
        case _:
            here[last] = odd_value(chance)


@OPTIONS
@given(SEEDS)
def test_a_spoilt_recipe_is_read_or_refused(seed):
    chance = random.Random(seed)
    values = json.loads(json.dumps(chance.choice(SHIPPED)))
    for _ in range(chance.randint(1, 3)):
        spoil(values, chance)
    data = values.get("data")
    kind: Any = RetrievalRecipe if isinstance(data, dict) and data.get("kind") == "retrieval" else Recipe
    recipe = survives(lambda: parse_recipe(kind, values), "fuzz: recipes' values")
    if recipe is not None and seed % 8 == 0:
        assert parse_recipe(kind, yaml_values(to_yaml(recipe))) == recipe


def yaml_values(text: str) -> Any:
    from stillhouse.core.yaml_text import from_yaml

    return from_yaml(text)


PIECES = st.sampled_from(
    [
        *(
            "run: x\n",
            "teacher:",
            " {",
            "}",
            "[",
            "]",
            ": ",
            "- ",
            "&a ",
            "*a ",
            "<<: *a\n",
            "!!int ",
            "!!float ",
            "!x ",
        ),
        *(
            '"',
            "'",
            "|\n",
            ">-\n",
            "# ",
            "---\n",
            "...\n",
            "%YAML 1.1\n",
            "\t",
            "\r\n",
            "  ",
            "? ",
            ", ",
            "\ufeff",
            "\x85",
        ),
        *("objectives: [{name: jsd}]\n", "data: {kind: chat}\n", "2e-4", "0x1F", "0o7", ".inf", ".nan", "~", "\u2028"),
    ]
)


@OPTIONS
@given(text=st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join), override=st.text(max_size=12))
def test_whatever_text_a_recipe_has_it_is_read_or_refused(text, override, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    survives(lambda: load_recipe(Recipe, file, [f"{override}=1"]), "fuzz: recipes' text")


@OPTIONS
@given(key=st.sampled_from(KEYS), more=st.text(max_size=6), value=st.lists(PIECES, max_size=4).map("".join))
def test_whatever_override_comes_it_is_applied_or_refused(key, more, value):
    from stillhouse.core.config import with_overrides

    values = with_overrides(SHIPPED[0], [])
    survives(lambda: parse_recipe(Recipe, with_overrides(values, [f"{key}{more}={value}"])), "fuzz: overrides")


ROWS = [row for kind in shared.KINDS.values() for row in kind.rows[:2]]


def spoilt_rows(seed: int) -> bytes:
    """Rows of the kinds that there are, some places changed, some bytes too."""
    chance = random.Random(seed)
    rows = json.loads(json.dumps(chance.choices(ROWS, k=chance.randint(1, 6))))
    for row in rows:
        if chance.random() < 0.5:
            spoil(row, chance)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if chance.random() < 0.25:
        place = chance.randrange(len(content))
        content = content[:place] + chance.randbytes(chance.randrange(4)) + content[place + chance.randrange(4) :]
    return content


READERS = {
    "text": lambda file: read_rows(file),
    "records": lambda file: list(read_records(file)),
    "chat": lambda file: read_conversations(file),
    "preferences": lambda file: read_preferences(file, reads="chat", against="random", seed=0),
}


@OPTIONS
@given(seed=SEEDS, reader=st.sampled_from(sorted(READERS)), packed=st.booleans())
def test_whatever_rows_come_they_are_read_or_refused(seed, reader, packed, tmp_path):
    content = spoilt_rows(seed)
    file = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    file.write_bytes(gzip.compress(content, 1) if packed else content)
    survives(lambda: READERS[reader](file), "fuzz: rows")


TABLES = (".jsonl", ".csv", ".tsv", ".json")


@OPTIONS
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_bytes_come_they_are_read_or_refused(content, tmp_path):
    for name in ("x.jsonl", "x.csv", "x.tsv", "x.txt", "x.json", "x.jsonl.gz"):
        file = tmp_path / name
        file.write_bytes(content)
        survives(lambda file=file: list(read_records(file, formats=TABLES, splitter=split_lines)), "fuzz: bytes")


@settings(OPTIONS, max_examples=EXAMPLES // 10)
@given(seed=SEEDS, kind=st.sampled_from(sorted(shared.KINDS)))
def test_whatever_rows_come_they_are_prepared_or_refused(seed, kind, tokenizer, bert_tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(spoilt_rows(seed))
    wanted = shared.KINDS[kind]
    values = {**wanted.data, "path": str(tmp_path / "rows.jsonl"), "sequence_tokens": 32, "held_out": 0.25}
    config = TypeAdapter(DataConfig).validate_json(json.dumps(values))
    speaks = tokenizer if wanted.task in ("causal_lm", "reward") else bert_tokenizer
    survives(lambda: prepare(config, speaks), "fuzz: prepared rows")


def same_values(content: bytes, file: Path) -> bool:
    """Whether a manifest says the same, with other spaces between its values."""
    try:
        return file.suffix == ".json" and json.loads(content) == json.loads(file.read_bytes())
    except ValueError:
        return False


@settings(OPTIONS, max_examples=max(60, EXAMPLES // 5))
@given(seed=SEEDS)
def test_whatever_becomes_of_labels_they_are_read_as_they_were_or_refused(seed, undisturbed, tmp_path):
    chance, folder = random.Random(seed), tmp_path
    for file in (undisturbed.folder / "labels").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = chance.choice(sorted(folder.iterdir()))
    content = bytearray(file.read_bytes())
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) or 1)
        match chance.randrange(4):
            case 0:
                content[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del content[place:]
            case 2:
                del content[place : place + chance.randint(1, 9)]
            case 3:
                content[place:place] = chance.randbytes(chance.randint(1, 9))
    is_same = bytes(content) == file.read_bytes() or same_values(bytes(content), file)
    file.write_bytes(content)
    survives(lambda: read_all(folder), "fuzz: labels")
    survives(lambda: StoredTeacher(folder), "fuzz: labels")
    assert (damaged(folder) == []) == is_same, file.name


@settings(OPTIONS, max_examples=EXAMPLES)
@given(seed=SEEDS)
def test_whatever_becomes_of_a_record_it_is_read_as_it_was_or_refused(seed, tmp_path):
    chance, run = random.Random(seed), RunFolder(tmp_path / str(seed))
    before = run.stage("train", made_from="malt", work=lambda: {"steps": 3, "loss": 0.25, "names": ["a"]})
    file = run.path / "stages" / "train.json"
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content))
    content[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    file.write_bytes(content)
    after = survives(run.stages, "fuzz: records")
    assert after is None or before.items() <= after["train"].items()  # the name of the hash may be what was hit


def test_a_recipe_nested_without_end_is_refused():
    values: dict[str, Any] = {}
    for _ in range(100_000):
        values = {"run": values}
    with pytest.raises(RecipeError):
        parse_recipe(Recipe, values)
    while values:  # or its end would be as deep
        values = values["run"]
