"""What the teacher alone has read: both sides end in the same answers, and nothing is cut or counted wrong."""

from dataclasses import replace
from fractions import Fraction

import pytest

from stillhouse.core.batch import Batch, ContextBatch, as_batch
from stillhouse.core.config import Config, parse_recipe
from stillhouse.core.errors import DataError, RecipeError
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import conversation
from stillhouse.data.config import DataConfig
from stillhouse.data.context import ContextReader, Style, in_context, views_of
from stillhouse.data.prepare import prepare

from .chat_families import FAMILIES, has, tokenizer_of

ANIMALS, PLACES = ("fox", "girl", "robot", "bird"), ("hill", "sea", "garden")
PAIRS = [(animal, place) for animal in ANIMALS for place in PLACES]
LONG = 4096


def chat(*texts, system=""):
    """A conversation of these texts, user and assistant by turns."""
    said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return conversation([*([{"role": "system", "content": system}] if system else []), *said])


def rows(pairs=PAIRS, **columns):
    return [
        {
            "messages": [
                {"role": "user", "content": f"where did the {animal} run to?"},
                {"role": "assistant", "content": f"to the {place}"},
                {"role": "user", "content": "and then?"},
                {"role": "assistant", "content": f"the {animal} sang in the {place}"},
            ],
            **columns,
        }
        for animal, place in pairs
    ]


GENERAL = [{"prompt": f"say {number}", "completion": f"it is {number}"} for number in range(20)]


def chat_of(number):
    said = [{"role": "user", "content": f"say {number}"}, {"role": "assistant", "content": f"it is {number}"}]
    return {"messages": said}


class _Recipe(Config):
    data: DataConfig


@pytest.fixture
def prepared(tokenizer, write):
    """Rows of a recipe's data, with changes to its context."""

    def make(styles, *, data=None, general=GENERAL, **changes):
        wanted = {"styles": styles, **changes}
        if "replay" in wanted:
            wanted["replay"] = {"path": str(write("general.jsonl", general)), **wanted["replay"]}
        path = write("rows.jsonl", rows(notes=["a note", "and another"]))
        values = {
            "kind": "chat",
            "path": str(path),
            "held_out": 0.25,
            "sequence_tokens": 400,
            "teacher_context": wanted,
        }
        config = parse_recipe(_Recipe, {"data": {**values, **(data or {})}}).data
        return prepare(config, tokenizer)

    return make


def learnt(example):
    return [(token, weight) for token, weight in zip(example.ids[1:], example.weights[1:], strict=True) if weight]


EXAMPLES = ({"role": "user", "content": "an example?"}, {"role": "assistant", "content": "never learnt"})
STYLES = {
    "system": Style("", system="You are a kind fox."),
    "examples": Style("", examples=EXAMPLES),
    "before the question": Style("", before_question="Some notes."),
    "all": Style("", "You are a kind fox.", EXAMPLES, "Some notes."),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("weight", ["assistant", "last"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if has(name)])
def test_both_sides_end_in_the_same_answers_for_every_family(name, weight, style):
    if not FAMILIES[name].system and STYLES[style].system:
        pytest.skip("its template has no system prompts")
    tokenizer, shown = tokenizer_of(name), STYLES[style]
    chats = [chat("hello", "the small fox", "and?", "it ran over\n\nthe hill"), chat("one two", "a red house")]
    reader = ContextReader(ChatReader(tokenizer, weight=weight), [shown], max_tokens=LONG)
    found = list(reader.asked(chats, rows="one", seed=0))
    assert len(found) == 2 and not reader.left_out
    for one in found:
        (views,) = views_of([one])
        assert learnt(views.student) == learnt(views.teacher) and learnt(views.student)
        assert views.teacher.num_bytes == views.student.num_bytes
        written = tokenizer.decode(list(views.teacher.ids))
        parts = [shown.system, shown.before_question, *(message["content"] for message in shown.examples)]
        assert all(part in written for part in parts)
        assert "never learnt" not in tokenizer.decode([token for token, _ in learnt(views.teacher)])
        assert one.told.prompt == views.teacher.ids[: len(one.told.prompt)]
        # Behind either prompt comes the same answer.
        assert views.teacher.ids[len(one.told.prompt) :] == views.student.ids[len(one.prompt) :]


def test_a_template_without_system_prompts_refuses_one_and_says_whose_it_is():
    if not has("mistral_7b"):
        pytest.skip("its template is not here")
    reader = ContextReader(ChatReader(tokenizer_of("mistral_7b")), [STYLES["system"]], max_tokens=LONG)
    with pytest.raises(DataError, match="with data.teacher_context"):
        list(reader.asked([chat("hello", "the fox")], rows="one", seed=0))


@pytest.mark.parametrize("name", [name for name in ("smollm2", "qwen2_5") if has(name)])
def test_the_student_reads_the_templates_own_system_prompt_and_the_teacher_the_context_in_its_place(name):
    tokenizer = tokenizer_of(name)
    reader = ContextReader(ChatReader(tokenizer), [STYLES["system"]], max_tokens=LONG)
    (views,) = views_of(reader.asked([chat("hello", "the fox")], rows="one", seed=0))
    plain = ChatReader(tokenizer).example(chat("hello", "the fox"))
    own = tokenizer.decode(list(plain.ids)).partition("user")[0]
    assert views.student == plain and "system" in own
    taught = tokenizer.decode(list(views.teacher.ids))
    assert own not in taught and taught.count("You are a kind fox.") == 1


def test_a_context_comes_before_the_question_of_the_first_turn_that_is_learnt():
    one = chat("first", "a", "second", "b", system="Own.")
    shown = {weight: in_context(one, STYLES["all"], weight=weight).messages for weight in ("assistant", "last")}
    for weight, number in (("assistant", 3), ("last", 5)):
        messages = shown[weight]
        assert messages[0] == {"role": "system", "content": "You are a kind fox.\n\nOwn."}
        assert [message["content"].startswith("Some notes.\n\n") for message in messages].index(True) == number
        assert sum(message["content"].startswith("Some notes.") for message in messages) == 1
        assert messages[1:3] == list(EXAMPLES)
    assert in_context(one, STYLES["all"], weight="last").weights == (0, 0, 0, 0, 1, 0, 1)
    with pytest.raises(DataError, match="no question"):
        in_context(conversation([{"role": "assistant", "content": "hi"}]), STYLES["all"], weight="last")


def test_without_any_context_the_rows_are_those_of_plain_conversations(prepared, tokenizer, write):
    for size in (24, 400):  # of which the first cuts every conversation into pieces
        plain = parse_recipe(
            _Recipe,
            {
                "data": {
                    "kind": "chat",
                    "path": str(write("p.jsonl", rows())),
                    "held_out": 0.25,
                    "sequence_tokens": size,
                }
            },
        ).data
        expected, found = prepare(plain, tokenizer), prepared([{}], data={"sequence_tokens": size})
        for ours, theirs in ((found.train, expected.train), (found.held_out, expected.held_out)):
            assert ours.rows == theirs.rows and list(ours.examples) == list(theirs.examples)
            assert list(ours.lengths) == list(theirs.lengths)
            batches = ours.batches(3), theirs.batches(3)
            for one, other in zip(*batches, strict=True):
                assert isinstance(one, ContextBatch) and type(other) is Batch
                for name, tensor in other.tensors().items():
                    assert (one.tensors()[name] == tensor).all() and (one.teacher.tensors()[name] == tensor).all()


def test_a_batch_holds_the_same_answers_in_the_same_order_on_both_sides(prepared):
    found = prepared(
        [{"system": "Be kind."}, {"before_question": "A note."}], rows="all", data={"sequence_tokens": 160}
    )
    for number in range(0, len(found.train), 4):
        batch = as_batch(
            found.train.collate([found.train[n] for n in range(number, min(number + 4, len(found.train)))])
        )
        assert (batch.targets == batch.teacher.targets).all()
        assert (batch.target_weights == batch.teacher.target_weights).all()
        assert batch.num_documents == batch.teacher.num_documents
        assert batch.teacher.ids.shape[1] <= 160


def test_what_does_not_fit_with_its_context_is_left_out_and_counted_and_never_cut(prepared, tokenizer):
    longest = max(len(view.teacher.ids) for view in views_of(prepared([{"system": "word " * 40}]).asked))
    found = prepared([{"system": "word " * 40}], data={"sequence_tokens": longest - 1})
    kept = list(views_of(found.asked))
    (said,) = [note for note in found.notes if "where the teacher has read its context" in note]
    train = int(said.split()[2])
    assert found.num_train_documents + found.num_held_out_documents - train == len(kept) + len(found.held_out.examples)
    assert all(len(view.teacher.ids) < longest for view in kept)
    assert all("word word" in tokenizer.decode(list(view.teacher.ids)) for view in kept)
    with pytest.raises(DataError, match="Raise data.sequence_tokens"):
        prepared([{"system": "word " * 40}], data={"sequence_tokens": 60})


def test_each_row_is_drawn_one_style_by_its_text_and_the_seed_or_shown_under_all():
    reader = ContextReader(ChatReader(tokenizer_of("chatml")), list(STYLES.values()), max_tokens=LONG)
    chats = [chat(f"question {number}", f"answer {number}") for number in range(80)]

    def drawn(some, seed=0):
        return [one.told.style for one in reader.asked(some, rows="one", seed=seed)]

    found = drawn(chats)
    assert drawn(chats[::-1]) == found[::-1] and drawn(chats[:7]) == found[:7]
    assert drawn(chats, seed=1) != found
    assert all(8 <= found.count(style) <= 32 for style in range(4))
    under_all = list(reader.asked(chats[:5], rows="all", seed=0))
    assert [one.told.style for one in under_all] == [0, 1, 2, 3] * 5


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_share_of_replayed_rows_is_exact_and_said(prepared, share):
    found = prepared([{"system": "Be kind."}], replay={"share": share})
    told = [one for one in found.asked if one.told.style is not None]
    replayed = [one for one in found.asked if one.told.style is None]
    part = Fraction(str(share))
    assert len(replayed) == round(len(told) * part / (1 - part))
    assert all(one.told.prompt == one.prompt and one.told.answered == one.answered for one in replayed)
    assert f"replayed without context: {len(replayed)} rows beside {len(told)} with one" in found.notes
    assert len(found.context.elsewhere) == 5
    learnt = {one.answered[0].ids for one in replayed}
    assert not learnt & {example.ids for example in found.context.elsewhere}


def test_a_replay_of_share_0_only_measures_and_one_that_is_too_large_is_refused(prepared):
    found = prepared([{"system": "Be kind."}], replay={"share": 0})
    assert all(one.told.style == 0 for one in found.asked) and found.context.elsewhere
    with pytest.raises(DataError, match=r"replay\.share is 0\.9"):
        prepared([{"system": "Be kind."}], replay={"share": 0.9})


def test_replay_leaves_out_what_is_learnt_or_judged_with_a_context(prepared):
    found = prepared(
        [{"system": "Be kind."}], replay={"share": 0.25}, general=[*rows(), *(chat_of(number) for number in range(20))]
    )
    own = {view.student.ids for view in [*views_of(found.asked), *found.context.views] if view.style is not None}
    assert not own & {example.ids for example in found.context.elsewhere}
    assert not own & {one.answered[0].ids for one in found.asked if one.told.style is None}


def test_files_and_columns_say_what_the_recipe_says_of_them(prepared, tokenizer, write):
    system = write("prompt.txt", "Be kind.\n")
    shots = write(
        "shots.jsonl", [{"prompt": "one?", "completion": "two."}, {"prompt": "three?", "completion": "four."}]
    )
    found = prepared([{"system_path": str(system), "examples_path": str(shots), "column": "notes"}])
    for view in views_of(found.asked):
        written = tokenizer.decode(list(view.teacher.ids))
        for part in (
            "Be kind.<|end|>",
            "one?<|end|>",
            "two.<|end|>",
            "four.<|end|>",
            "<|user|>a note\n\nand another\n\nwhere",
        ):
            assert part in written
    inline = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two."}]
    more = [{"role": "user", "content": "three?"}, {"role": "assistant", "content": "four."}]
    same = prepared([{"system": "Be kind.", "examples": [*inline, *more], "column": "notes"}])
    assert [*views_of(same.asked)] == [*views_of(found.asked)]


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ({"system_path": "nowhere.txt"}, "styles.0.system_path 'nowhere.txt' is no file"),
        ({"examples_path": "nowhere.jsonl"}, "styles.0.examples_path"),
        ({"column": "hints"}, "under 'hints', which data.teacher_context names"),
        ({"system": "\U0010fff0"}, "which mark turns here"),
    ],
)
def test_a_context_that_cannot_be_read_is_refused_by_its_key(prepared, style, words):
    with pytest.raises(DataError, match=words):
        prepared([style])


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ({"styles": []}, "styles"),
        ({"styles": [{"system": "a", "system_path": "b"}]}, "Give one"),
        ({"styles": [{"sytem": "a"}]}, "Did you mean 'system'"),
        ({"styles": [{}], "replay": {"path": "x", "share": 1.0}}, "share"),
    ],
)
def test_a_context_that_means_nothing_is_refused(context, words):
    with pytest.raises(RecipeError, match=words):
        parse_recipe(_Recipe, {"data": {"kind": "chat", "path": "x", "teacher_context": context}})


def test_another_answer_stands_behind_both_prompts():
    reader = ContextReader(ChatReader(tokenizer_of("chatml")), [STYLES["system"]], max_tokens=LONG)
    (asked,) = reader.asked([chat("hello", "the fox")], rows="one", seed=0)
    (view,) = views_of([asked.answer((5, 6, 7))])
    assert view.student.ids == (*asked.prompt, 5, 6, 7) and view.teacher.ids == (*asked.told.prompt, 5, 6, 7)
    assert learnt(view.student) == learnt(view.teacher) == [(5, 1.0), (6, 1.0), (7, 1.0)]
    assert replace(asked, told=None).answer((5,)).told is None
