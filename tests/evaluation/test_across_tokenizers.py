"""A teacher that counts other tokens: what may be compared with it, and that it is what it would be alone."""

import pytest
from tokenizers import Tokenizer, models
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from stillhouse.core.results import EvaluationResult, HeldOut
from stillhouse.data.examples import Example
from stillhouse.evaluation import Contestant, OwnTokens, evaluate

ROLES = ("teacher", "student_before", "control_hard_labels", "student")


@pytest.fixture(scope="module")
def same_text(build_example):
    """Six documents in the student's tokens, and in half as many of the teacher's; one is cut in two pieces."""
    ours = [build_example(seed, 12 + seed, vocab=300) for seed in range(6)]
    ours[1] = Example(ours[1].ids, ours[1].weights, ours[1].num_bytes, part_of=ours[0].key)
    theirs = [build_example(90 + seed, 7 + seed, vocab=200) for seed in range(6)]
    return ours, [
        Example(other.ids, other.weights, own.num_bytes, part_of=own.document)
        for own, other in zip(ours, theirs, strict=True)
    ]


@pytest.fixture(scope="module")
def contestants(build_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models = {
        role: build_model(seed=number, vocab=200 if role == "teacher" else 300, layers=2)
        for number, role in enumerate(ROLES)
    }
    return [Contestant(role, role, model, folder) for role, model in models.items()]


@pytest.fixture(scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for module in ("cost", "compare"):
            patch.setattr(f"stillhouse.evaluation.{module}.REPEATS", 1)
        patch.setattr("stillhouse.evaluation.cost.DECODE_TOKENS", 4)
        yield


def naming(size, sign):
    """A tokenizer of so many tokens, whose names are a letter and their number."""
    vocab = {f"{sign}{number}": number for number in range(size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocab)))


@pytest.fixture(scope="module")
def result(contestants, same_text, quick):
    ours, theirs = same_text
    return evaluate(
        contestants, ours, naming(300, "s"), num_samples=1, teacher_reads=OwnTokens(theirs, naming(200, "t"))
    )


def metrics(result, role):
    return result.model(role).metrics


def test_each_side_is_what_it_is_alone_in_its_own_tokens(result, contestants, same_text, quick):
    ours, theirs = same_text
    as_teacher = [
        Contestant(role, role, contestants[0].model, contestants[0].folder) for role in ("teacher", "student")
    ]
    alone = evaluate(as_teacher, theirs, naming(200, "t"), num_samples=0)
    assert metrics(result, "teacher")["bits_per_byte"] == metrics(alone, "teacher")["bits_per_byte"]
    as_student = [
        Contestant(role, role, contestants[3].model, contestants[3].folder) for role in ("teacher", "student")
    ]
    alone = evaluate(as_student, ours, naming(300, "s"), num_samples=0)
    for name in ("bits_per_byte", "perplexity", "accuracy"):
        assert metrics(result, "student")[name] == metrics(alone, "student")[name]


def test_only_bits_per_byte_are_told_of_and_compared_with_the_teacher(result):
    assert set(metrics(result, "teacher")) == {"bits_per_byte"}
    for role in ROLES[1:]:
        assert set(metrics(result, role)) == {"bits_per_byte", "perplexity", "accuracy"}
    compared = {other: {row.metric for row in result.comparisons if row.other == other} for other in ROLES[:3]}
    assert compared["teacher"] == {"bits_per_byte"}
    assert compared["student_before"] == compared["control_hard_labels"] == {"bits_per_byte", "accuracy"}
    assert result.retentions == []


def test_both_counts_of_tokens_are_kept(result, same_text):
    ours, theirs = ([sum(weight > 0 for weight in example.weights) for example in side] for side in same_text)
    assert result.held_out == HeldOut(5, sum(ours), sum(example.num_bytes for example in same_text[0]))
    assert result.teacher_tokens == sum(theirs)
    assert EvaluationResult.from_dict(result.to_dict()) == result


def test_a_speed_is_that_of_the_same_text(result, same_text):
    rates = {role: result.model(role).cost.decode_tokens_per_second for role in ROLES}
    tokens = result.teacher_tokens / result.held_out.tokens
    # One repeat: the ratio of medians is the median ratio.
    wanted = rates["student"].value / rates["teacher"].value * tokens
    assert_close(result.speed("student").ratio.value, wanted)


def test_each_model_goes_on_from_its_own_tokens(result, same_text):
    (sample,) = result.samples
    ours, theirs = same_text
    assert sample.prompt == f"s{ours[0].ids[0]}"
    assert {role: text[0] for role, text in sample.continuations.items()} == {
        role: "t" if role == "teacher" else "s" for role in ROLES
    }
    assert theirs[0].ids[0] != ours[0].ids[0]
