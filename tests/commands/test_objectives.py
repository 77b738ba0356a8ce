"""`stillhouse objectives`: all of the catalogue, to be read in a terminal."""

import pytest

from stillhouse.commands.objectives import READS
from stillhouse.objectives import CATALOGUE, FEATURES, POLICIES, PREFERENCES, names

from .conftest import stillhouse

EVERY = [*CATALOGUE.values(), *FEATURES.values(), *POLICIES.values(), *PREFERENCES.values()]


@pytest.fixture(autouse=True, params=[80, 60, 200])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def assert_fits(text: str, columns: int) -> None:
    for line in text.splitlines():
        assert len(line) <= min(columns, 100), line
        assert line == line.rstrip()


def test_the_list_has_every_objective_once_with_when_to_choose_it(columns):
    said = stillhouse("objectives")
    assert (said.code, said.err) == (0, "")
    assert_fits(said.out, columns)
    starts = [line.split()[0] for line in said.out.splitlines() if line.startswith("    ") and line[4] != " "]
    assert sorted(starts) == sorted(names())
    told = " ".join(said.out.split())
    assert all(entry.summary in told for entry in EVERY)


def test_the_list_says_what_each_reads_and_costs_once_for_all_that_read_the_same(columns):
    told = " ".join(stillhouse("objectives").out.split())
    headings = [words for words in READS.values() if f"reads {words}" in told]
    assert len(headings) == len(READS)
    assert told.count("reads hidden states; costs the states of both sides") == 1
    assert told.count("reads teacher's logits ") == 2  # alone, and with labels
    assert told.index("reads labels; costs nothing: no teacher") < told.index("reads hidden states")


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry.name)
def test_each_in_full_says_what_it_is_where_it_comes_from_and_all_its_keys(entry, columns):
    said = stillhouse("objectives", entry.name)
    assert (said.code, said.err) == (0, "")
    assert_fits(said.out, columns)
    told = " ".join(said.out.split())
    assert told.startswith(f"{entry.name}: {entry.summary}")
    assert entry.source.rstrip(".") in told
    assert "Raises" not in told
    keys = {line.split()[0]: line.split()[1] for line in said.out.partition("defaults:\n")[2].splitlines()}
    assert keys.pop("weight") == "1.0"
    assert {name: keys[name] for name in entry.parameters} == {n: str(v) for n, v in entry.parameters.items()}
    own = keys.keys() - entry.parameters.keys()
    assert own == keys_of_a_recipe(entry)


def keys_of_a_recipe(entry):
    if entry.name in {**POLICIES, **PREFERENCES}:
        return set()
    if entry.name in FEATURES:
        return {"layers"} if entry.reads_layers else set()
    where = set() if entry.reads_labels else {"where"}  # "tokens" is refused of an objective that reads labels
    own = where | {"answers", "average"}
    return own | {"temperature"} if entry.takes_temperature else own


def test_an_unknown_name_is_refused_in_one_line_with_the_nearest():
    said = stillhouse("objectives", "foward_kl")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("stillhouse: There is no objective 'foward_kl'. Did you mean 'forward_kl'? Known: ")
    assert said.err.count("\n") == 1
    assert all(name in stillhouse("objectives", "nonsense").err for name in names())
