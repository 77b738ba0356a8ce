"""Worlds: prompts are a pure function of the seed, texts have what they were asked to, and weak cells are found."""

import copy
import json
from collections import Counter
from itertools import pairwise

import pytest

from stillhouse.core.errors import DataError, RecipeError
from stillhouse.core.rouge import words_of
from stillhouse.core.word_forms import holds
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.filters.core import run_filters
from stillhouse.synthesis.filters.worlds import FeaturesConfig, LengthsConfig, RequiredWordsConfig, VocabularyConfig
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.worlds import (
    WORLDS,
    Cell,
    Weak,
    coverage_of,
    draw_wishes,
    instruction_of,
    load_world,
    opening_of,
    prompt_of,
    shared_out,
    summarised,
    weak_cells,
    world_texts,
)
from stillhouse.synthesis.worlds.cells import NO_FEATURE, Asked, Judged, binomial_tail
from stillhouse.synthesis.worlds.drawing import cells_of
from stillhouse.synthesis.worlds.instruct import asked_in
from stillhouse.teachers.writer import Reply

from .scripted import Killed, ask_of
from .scripted import prompt_of as said_to

STORIES = load_world("stories")
SAMPLING = Sampling(max_new_tokens=64)


def told(wish_or_lineage):
    """A text that has all that was asked for, in the world's words."""
    lineage = wish_or_lineage if isinstance(wish_or_lineage, dict) else wish_or_lineage.lineage
    words = " and ".join(word for _, word in lineage["words"])
    body = f'One day there was a {words}. "Hello there," it said, and they learned to play. '
    fewest = STORIES.lengths[lineage["length"]].words[0]
    return (body * (1 + fewest // len(words_of(body)))).strip()


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_that_is_shipped_fills_its_prompts(name):
    world = load_world(name)
    for wish in draw_wishes(world, 40, seed=3):
        prompt = prompt_of(world, wish)
        assert all(word in prompt + opening_of(world, wish) for _, word in wish.words) and "{" not in prompt
        assert all(world.features[feature].ask in prompt for feature in wish.features)
        assert world.lengths[wish.length].ask in prompt
        assert len(wish.features) <= world.most_features


def test_a_weak_teacher_goes_on_from_a_beginning_that_has_the_words():
    world = load_world("beginnings")
    assert world.parts == STORIES.parts and not world.features
    wishes = draw_wishes(world, 30, seed=1)
    openings = [opening_of(world, wish) for wish in wishes]
    assert len({text.split()[0] for text in openings}) > 3  # not all alike
    replies = iter([(" It was fun. They went ho", False), (" It was fun.", True), (" and so on and", False)] * 10)

    def ask(requests, title):
        assert all(request.prefix.endswith(opening) for request, opening in zip(requests, openings, strict=True))
        assert requests[0].prefix.startswith("<user>Write")
        said = (next(replies) for _ in requests)
        return [Reply(text=text, finished=done, tokens=5, prompt_tokens=9) for text, done in said]

    settings = {"sampling": SAMPLING, "render": lambda prompt: f"<user>{prompt}<assistant>", "ends": "sentence"}
    cut, whole, going_on = world_texts(ask, world, wishes, **settings)[:3]
    assert cut.text == f"{openings[0]} It was fun." and cut.finished and cut.lineage["cut"]
    assert whole.text == f"{openings[1]} It was fun." and "cut" not in whole.lineage
    assert going_on.finished and openings[2].startswith(going_on.text)  # only the beginning has a whole sentence
    for record in (cut, whole):
        assert not RequiredWordsConfig(world="beginnings").build()([record])[0]


def test_openings_are_for_a_server_a_part_of_the_prompt():
    world = load_world("beginnings")
    (wish,) = draw_wishes(world, 1, seed=1)
    asked = []

    def ask(requests, title):
        asked.extend(requests)
        return [Reply(text="Hello.", finished=True, tokens=1, prompt_tokens=1)]

    (record,) = world_texts(ask, world, [wish], sampling=SAMPLING)
    assert record.text == "Hello." and asked[0].messages[0]["content"].endswith(opening_of(world, wish))


def test_a_world_that_is_like_no_other_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nlike: storries\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="like is 'storries'"):
        load_world(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("name: mine\nlike: stories\nopenings: ['A {nuon}.']\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="openings has the slot {nuon}"):
        load_world(str(tmp_path / "mine.yaml"))


def test_the_stories_have_about_fifteen_hundred_basic_words_by_part_of_speech():
    sizes = {name: len(part.words) for name, part in STORIES.parts.items()}
    assert 1400 <= sum(sizes.values()) <= 1800 and min(sizes.values()) > 250
    assert {name for name, part in STORIES.parts.items() if part.draw} == {"noun", "verb", "adjective"}


def test_prompts_are_a_pure_function_of_the_seed_and_more_of_them_begin_alike():
    some = draw_wishes(STORIES, 20, seed=5)
    assert draw_wishes(STORIES, 50, seed=5)[:20] == some
    assert draw_wishes(STORIES, 20, seed=6) != some and draw_wishes(STORIES, 20, seed=5, round=1) != some
    assert len({wish.seed for wish in (*some, *draw_wishes(STORIES, 20, seed=5, round=1))}) == 40


@pytest.mark.parametrize(
    "cell", [Cell("feature", "moral"), Cell("feature", NO_FEATURE), Cell("length", "long"), Cell("noun", "dog")]
)
def test_a_wish_that_is_bound_to_a_cell_is_in_it_and_free_in_all_else(cell):
    free, bound = (draw_wishes(STORIES, 30, seed=1, cells=cells) for cells in ((), [cell] * 30))
    assert all(cell in wish.cells and wish.cell == cell.title for wish in bound)
    assert all(one.words == other.words or cell.axis == "noun" for one, other in zip(free, bound, strict=True))
    assert len({wish.words for wish in bound}) == 30
    if cell.axis == "feature":
        assert all(set(wish.features) == {cell.name} - {NO_FEATURE} for wish in bound)


def test_filters_keep_only_what_has_its_words_signs_and_length_in_the_worlds_words():
    wishes = draw_wishes(STORIES, 30, seed=2)
    good = [Record(text=told(wish), lineage=wish.lineage) for wish in wishes]
    kinds = (RequiredWordsConfig, FeaturesConfig, LengthsConfig, VocabularyConfig)
    filters = [kind().build() for kind in kinds]
    assert not [record.dropped for record in run_filters(good, filters) if record.dropped]
    wish = next(wish for wish in wishes if "dialogue" in wish.features)
    word = wish.words[0][1]
    bad = {
        "required_words": told(wish).replace(word, "cat"),
        "features": told(wish).replace('"', ""),
        "lengths": told(wish)[: len(told(wish)) // 20],
        "vocabulary": told(wish).replace("there", "entropy quantum"),
    }
    for (name, text), one in zip(bad.items(), filters, strict=True):
        (reason,) = one([Record(text=text, lineage=wish.lineage)])
        assert reason, name
    dropped = run_filters([Record(text=text, lineage=wish.lineage) for text in bad.values()], filters)
    assert [record.dropped.partition(":")[0] for record in dropped] == [
        "required_words",
        "features",
        "required_words",
        "vocabulary",
    ]


def test_every_kept_text_holds_its_words_whatever_the_teacher_says(tmp_path):
    wishes = draw_wishes(STORIES, 40, seed=4)
    says = {
        prompt_of(STORIES, wish): told(wish) if place % 3 else "Once there was a dog."
        for place, wish in enumerate(wishes)
    }
    ask, _ = ask_of(tmp_path, lambda request: says[said_to(request)])
    records = run_filters(world_texts(ask, STORIES, wishes, sampling=SAMPLING), [RequiredWordsConfig().build()])
    kept = [record for record in records if not record.dropped]
    assert 20 <= len(kept) < 40
    for record in kept:
        for kind, word in record.lineage["words"]:
            assert holds(words_of(record.text), word, STORIES.parts[kind].inflect)


def test_a_killed_teacher_goes_on_without_a_text_twice_or_lost(tmp_path):
    wishes = draw_wishes(STORIES, 12, seed=4)
    says = {prompt_of(STORIES, wish): told(wish) for wish in wishes}

    def texts(name, **options):
        ask, writer = ask_of(tmp_path, lambda request: says[said_to(request)], name=name, **options)
        return world_texts(ask, STORIES, wishes, sampling=SAMPLING), writer

    whole, _ = texts("whole")
    with pytest.raises(Killed):
        texts("killed", most=5)
    resumed, writer = texts("killed")
    assert resumed == whole and len(writer.asked) == 7
    lines = (tmp_path / "killed.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 12


def test_coverage_counts_what_was_asked_for_and_what_was_kept():
    records = [Record(text="x", lineage=wish.lineage) for wish in draw_wishes(STORIES, 60, seed=0)]
    records = [record.drop("no") if place % 2 else record for place, record in enumerate(records)]
    found = coverage_of(STORIES, records)
    assert found["words"]["noun"]["asked"] > found["words"]["noun"]["kept"] > 20
    lengths = {name: count for name, count in found["cells"]["asked"].items() if name.startswith("length")}
    assert sum(lengths.values()) == 60
    combos = found["feature_combinations"]
    assert combos["there_are"] == (1 + 6 + 15) * 3 and combos["kept"] <= combos["asked"] <= combos["there_are"]


def rows_of(lacking=None, number=240, seed=0):
    """What became of prompts by a teacher that leaves one in ten unfinished, and never has one feature."""
    wishes = draw_wishes(STORIES, number, seed=seed)
    return [
        Asked(frozenset(wish.cells), kept=lacking not in wish.features and place % 10 != 0)
        for place, wish in enumerate(wishes)
    ]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("feature", sorted(STORIES.features))
def test_a_teacher_that_lacks_one_feature_is_asked_for_exactly_that_feature(feature, seed):
    weak = weak_cells(rows_of(feature, seed=seed), [])
    assert [one.cell for one in weak] == [Cell("feature", feature)]
    cells = shared_out(weak, 30)
    assert all(feature in wish.features for wish in draw_wishes(STORIES, 30, seed=0, round=1, cells=cells))
    # Once it has written them, nothing is weak any more; while it does not, the same is asked for again.
    for kept in (True, False):
        wishes = draw_wishes(STORIES, 80, seed=0, round=1, cells=cells * 3)
        asked = [Asked(frozenset(wish.cells), kept, wish.cell) for wish in wishes]
        still = weak_cells([*rows_of(feature, seed=seed), *asked], [])
        assert [one.cell for one in still] == ([] if kept else [Cell("feature", feature)])


@pytest.mark.parametrize("seed", range(6))
def test_a_teacher_that_lacks_nothing_is_weak_nowhere(seed):
    assert not weak_cells(rows_of(seed=seed), [])


def test_what_the_student_predicts_badly_is_weak_and_what_it_shares_with_that_is_not():
    wishes = draw_wishes(STORIES, 200, seed=0)
    judged = [
        Judged(frozenset(wish.cells), 1.0 + 0.4 * ("twist" in wish.features) + 0.01 * (place % 7))
        for place, wish in enumerate(wishes)
    ]
    (weak,) = weak_cells([], judged)
    assert weak.cell == Cell("feature", "twist") and 0.3 < weak.weight < 0.5


def test_the_binomial_tail_is_a_distribution():
    tails = [binomial_tail(number, 9, 0.3) for number in range(10)]
    assert all(one < other for one, other in pairwise(tails)) and tails[-1] == pytest.approx(1)
    assert binomial_tail(0, 9, 0.3) == pytest.approx(0.7**9)


def test_prompts_are_shared_out_by_weight_and_taken_in_turns():
    weak = [Weak(Cell("feature", "a"), "", 0.6), Weak(Cell("feature", "b"), "", 0.2)]
    cells = shared_out(weak, 40)
    assert Counter(cells) == {weak[0].cell: 30, weak[1].cell: 10}
    assert shared_out(weak, 12) == cells[:12] and shared_out([], 5) == []


def test_instructions_ask_for_what_the_text_has(tmp_path):
    wishes = draw_wishes(STORIES, 40, seed=9)
    records = [Record(text=told(wish), lineage=wish.lineage) for wish in wishes]
    ask, writer = ask_of(tmp_path, lambda _request: '"They play."')
    found = summarised(ask, STORIES, records, share=0.5, seed=0)
    chosen = [record for record in found if record.lineage.get("instruct")]
    assert 10 < len(chosen) < 30 and len(writer.asked) == len(chosen)
    assert found == summarised(ask, STORIES, records, share=0.5, seed=0)
    headings = Counter()
    for record in chosen:
        instruction = instruction_of(record.lineage, record.text, called="story", seed=0)
        asked = asked_in(instruction)
        assert instruction.endswith("Story:\n") and asked
        assert asked.get("Sentence", "") in record.text and asked.get("Summary", "They play.") == "They play."
        assert (
            set(asked.get("Words", "").replace(",", "").split()) <= {w for _, w in record.lineage["words"]}
            or "Words" not in asked
        )
        headings.update(asked.keys())
    assert headings.keys() == {"Words", "Features", "Summary", "Sentence"}
    assert all(cells_of(record.lineage) for record in found)


BROKEN = {
    "an unknown key": ({"colour": "red"}, "colour"),
    "a slot that nobody fills": ({"prompt": "A {noun} {verb} {adjective} {length}{features} {place}"}, "{place}"),
    "a slot that is missing": ({"prompt": "A {noun} {verb} {length}{features}"}, "{adjective}"),
    "a brace that is open": ({"prompt": "A {noun"}, "cannot be read"),
    "more features than there are": ({"most_features": 9}, "most_features is 9"),
    "a sign that is no expression": (
        {"features": {"moral": {"ask": "a moral", "sign": "("}}, "most_features": 1},
        "regular expression",
    ),
    "nothing drawn": ({"parts": {"noun": {"words": "dog cat"}}}, "draw above 0"),
    "fewer words than are drawn": ({"parts": {"noun": {"words": "dog", "draw": 2}}}, "draw is 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_world_is_refused_with_its_key(case, tmp_path):
    changes, said = BROKEN[case]
    values = {**copy.deepcopy(STORIES.model_dump(mode="json")), **changes}
    (tmp_path / "world.yaml").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(RecipeError) as refused:
        load_world(str(tmp_path / "world.yaml"))
    assert said in str(refused.value) and "world.yaml" in str(refused.value)


def test_a_world_that_is_not_there_is_named():
    with pytest.raises(DataError, match="'storries'.*stories, beginnings, support"):
        load_world("storries")
