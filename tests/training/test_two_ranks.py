"""Two processes that share a step give the gradient of one."""

import socket

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from apart import AT_LENGTH, processes
from torch.testing import assert_close
from torch.utils.data import BatchSampler
from transformers import AutoModelForCausalLM

from stillhouse.core.batch import as_batch
from stillhouse.data.paired import PairedRows
from stillhouse.data.rowset import DealtRows
from stillhouse.models.token_bytes import common_outcomes
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss
from stillhouse.training.order import ByLength, Dealt
from stillhouse.training.terms import counts_apart, scheduled

from .test_paired_loss import TEXTS, other_tokenizer, pairs_of  # noqa: F401
from .two_ranks import ADAPTER, FEW, JUDGED, RANKED, be_a_rank, learning, learnt, load, ranked, save_rankers, steps


@pytest.fixture(scope="module")
def folder(build_model, build_encoder, build_example, tokenizer, other_tokenizer, tmp_path_factory):  # noqa: F811
    """A student, a teacher, and documents of which a step's rows weigh differently."""
    tmp_path = tmp_path_factory.mktemp("two")
    build_model(layers=2, seed=1, hidden_size=16, intermediate_size=24).save_pretrained(tmp_path / "student")
    build_model("mistral", layers=2, seed=1, hidden_size=16, intermediate_size=24).save_pretrained(tmp_path / "untied")
    build_model(layers=2, seed=2).save_pretrained(tmp_path / "teacher")
    for name, task in (("classifier", "sequence_classification"), ("judge", "reward")):
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        build_encoder("bert", task, layers=1, **still).save_pretrained(tmp_path / name)
        build_encoder("bert", task, layers=1, seed=5).save_pretrained(tmp_path / f"{name}'s teacher")
    prompts = (
        1,
        9,
        5,
        1,
        3,
        8,
        2,
        7,
        1,
        9,
        5,
        1,
        3,
        8,
    )  # 7 rows, so that every other step has fewer rows than ranks share
    examples = [build_example(seed, 11, prompt=prompt) for seed, prompt in enumerate(prompts)]  # two to a row
    torch.save([(e.ids, e.weights, e.num_bytes) for e in examples], tmp_path / "examples.pt")
    texts = [TEXTS[first] + TEXTS[second] for first, second in ((3, 2), (1, 2), (0, 4), (3, 0), (1, 0), (3, 4), (1, 4))]
    pairs = pairs_of(tokenizer, other_tokenizer, texts)
    assert len(PairedRows(pairs, row_tokens=64)) == 7
    torch.save((pairs, common_outcomes(tokenizer, other_tokenizer)), tmp_path / "spans.pt")
    save_rankers(tmp_path)
    return tmp_path


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def of_two(folder):
    """What each of two processes found, of texts, of pairs and of rankings: to start them is what takes time."""
    learnt(folder, folder / "begun-by-one-adapted", num_ranks=1, stops_at=3, adapter=ADAPTER)
    assert ranked(folder, folder / "ranked by one", kind="retriever", stops_at=3) is None
    return found_by_two(folder, "torch", ("whole", "sharded"))


def found_by_two(folder, by, ways):
    for held in ways:
        assert learnt(folder, folder / f"begun-by-one-{held}", num_ranks=1, stops_at=3) is None
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "ACCELERATE_USE_CPU": "true",  # as `accelerate launch --cpu` sets it
    }
    environments = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    ranks = [processes().Process(target=be_a_rank, args=(one, folder, by)) for one in environments]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(480)
        assert rank.exitcode == 0  # 1 behind a traceback, None where it hangs
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_the_same(alone, of_two):
    """Gradients and log lines of each step, and what is remembered."""
    (gradients, lines, state), (first, first_lines, first_state), (second, second_lines, second_state) = alone, *of_two
    assert len(gradients) == len(first) == len(second) == 4
    for one, mine, other in zip(gradients, first, second, strict=True):
        for name, gradient in one.items():
            assert torch.equal(mine[name], other[name])
            assert_close(mine[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert second_lines == [] and len(first_lines) == len(lines) == 4
    for together, line in zip(first_lines, lines, strict=True):
        assert together == pytest.approx(line, rel=1e-4)
    assert first_state == second_state
    assert first_state.get("kept") == state.get("kept")


@pytest.mark.parametrize("held", ["whole", "sharded"])
def test_two_processes_that_share_a_step_give_the_gradient_and_the_log_of_one(folder, of_two, held):
    alone = steps(folder, num_ranks=1, rows_per_micro_batch=4)
    assert_the_same(alone, [rank["texts", held] for rank in of_two])
    assert {name.partition(".")[0] for name in alone[0][0]} == {"module", "projections"}
    shares = [line["taid_t"] for line in of_two[0]["texts", held][1]]
    assert shares[0] < shares[1] < shares[2] < shares[3] < 1 and shares[2] > 0.5 + 0.5 * 2 / 4  # ahead of the linear


@AT_LENGTH
def test_two_processes_that_share_a_student_and_compile_its_layers_give_the_gradient_of_one_that_does_not(
    folder, of_two
):
    alone = steps(folder, num_ranks=1, rows_per_micro_batch=4, kind="plain")
    assert_the_same(alone, [rank["plain", "sharded"] for rank in of_two])


@AT_LENGTH
def test_in_bfloat16_processes_that_share_the_student_are_near_float32(folder, of_two):
    alone, _, _ = steps(folder, num_ranks=1, rows_per_micro_batch=4)
    for one, other in zip(alone, of_two[0]["texts", "in bfloat16"][0], strict=True):
        exact, near = (torch.cat([gradient.flatten() for gradient in step.values()]) for step in (one, other))
        assert near.dtype == torch.float32
        assert 1e-4 < (near - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(("held", "student"), [("whole", "student"), ("sharded", "untied")])
def test_two_processes_that_share_pairs_of_answers_give_the_gradient_and_the_log_of_one(folder, of_two, held, student):
    alone = steps(folder, num_ranks=1, rows_per_micro_batch=4, kind="pairs", student=student)
    assert_the_same(alone, [rank["pairs", held] for rank in of_two])


@pytest.mark.parametrize(
    ("kind", "held"), [("spans", "sharded"), pytest.param("written", "sharded", marks=AT_LENGTH), ("replayed", "whole")]
)
def test_across_tokenizers_and_on_what_the_student_writes_two_processes_do_what_one_does(folder, of_two, kind, held):
    alone = steps(folder, num_ranks=1, rows_per_micro_batch=4, kind=kind)
    assert_the_same(alone, [rank[kind, held] for rank in of_two])
    if kind == "replayed":
        assert sum(line.get("replayed", 0) for line in alone[1]) > 1 and len(alone[2]["kept"]) == 3
    if kind == "written":
        assert all(line["answer_tokens"] > 1 for line in alone[1])


@pytest.mark.parametrize(("kind", "held"), [(kind, held) for kind, held, _ in FEW])
def test_where_an_epochs_last_rows_are_too_few_for_both_two_processes_do_what_one_does(folder, of_two, kind, held):
    alone = steps(folder, num_ranks=1, rows_per_micro_batch=4, kind=kind)
    assert_the_same(alone, [rank["few", kind, held] for rank in of_two])


@pytest.mark.parametrize("kind", ["texts", "spans", "pairs", "classes", "rewards", "mixed"])
@pytest.mark.parametrize(("at_once", "ranks"), [(1, 2), (2, 2), (4, 3)])
def test_rows_that_are_dealt_to_processes_count_once_and_who_has_none_learns_nothing(folder, kind, at_once, ranks):
    name, size = JUDGED.get(kind, ("student", 300))
    student = load(folder / name, kind)
    teacher = load(folder / (f"{name}'s teacher" if kind in JUDGED else "teacher"), kind)
    rows, terms, options = learning(kind, folder, student, teacher)
    replay_terms = options.pop("replay_terms", ())
    order = rows.order(rows_per_step=4, seed=0) if kind == "mixed" else ByLength(rows.lengths, rows_per_step=4, seed=0)
    dealt, batches = DealtRows(rows), BatchSampler(Dealt(order, rows_together=at_once * ranks), at_once, False)
    shares = [[dealt.collate([dealt[row] for row in rows_]) for rows_ in share] for share in shards(batches, ranks)]
    assert len({len(share) for share in shares}) == 1
    made = [as_batch(batch) for share in shares for batch in rows.at_step(share, step=1)]
    (whole,) = rows.at_step([rows.collate([rows[row] for row in order])], step=1)
    counts = torch.stack([counts_apart(batch, apart=True) for batch in made]).sum(0)
    assert_close(counts, counts_apart(as_batch(whole), apart=True))
    (nothing,) = rows.at_step([rows.nothing()], step=1)
    loss, sums = distillation_loss(
        student,
        as_batch(nothing),
        teacher=LocalTeacher(teacher),
        terms=[scheduled([term])[0].term for term in terms],
        vocab_size=size,
        replay_terms=replay_terms,
        **options,
    )
    loss.backward()
    assert float(loss.detach()) == 0 and not sums.any()
    maps = options.get("projections", torch.nn.Module())
    assert all(not one.grad.any() for one in [*student.parameters(), *maps.parameters()])


def shards(batches, ranks):
    return [list(BatchSamplerShard(batches, num_processes=ranks, process_index=rank)) for rank in range(ranks)]


@pytest.mark.parametrize("name", RANKED)
def test_two_processes_that_share_questions_see_the_passages_of_both(folder, of_two, name):
    kind, at_once = name.partition(",")[0], RANKED[name]
    _, gradients, lines = ranked(folder, folder / f"{name} alone", kind=kind, at_once=at_once)
    (_, mine, first_lines), (_, others, second_lines) = (rank[name] for rank in of_two)
    assert len(gradients) == len(mine) == len(first_lines) == 4 and not second_lines
    for one, two, other in zip(gradients, mine, others, strict=True):
        assert one.keys() == two.keys() == other.keys()
        for part, gradient in one.items():
            assert torch.equal(two[part], other[part])
            assert_close(two[part], gradient, rtol=1e-3, atol=1e-5, msg=part)
    for together, line in zip(first_lines, lines, strict=True):
        assert together == pytest.approx(line, rel=1e-4)
    assert any("projections" in part for part in gradients[0]) == (kind == "retriever")


def test_a_retriever_that_two_processes_have_begun_one_ends_and_the_other_way_round(folder, of_two):
    alone, _, _ = ranked(folder, folder / "ranked alone", kind="retriever")
    ended_by_one, _, lines = ranked(folder, folder / "ranked by two", kind="retriever")
    assert [line["step"] for line in lines] == [3, 4]
    for name, weight in alone.items():
        if name.endswith("key.bias"):  # no softmax feels it: its gradient is rounding
            continue
        for other in (ended_by_one, of_two[0]["ranked, begun by one"][0], of_two[1]["ranked, begun by one"][0]):
            assert_close(other[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_what_two_processes_have_begun_one_ends_and_the_other_way_round(folder, of_two):
    assert_they_go_on(folder, of_two, ("whole", "sharded"))


def test_an_adapter_on_weights_that_two_processes_share_is_that_of_one(folder, of_two):
    alone = learnt(folder, folder / "adapted-alone", num_ranks=1, adapter=ADAPTER)
    first, second = (rank["adapted"] for rank in of_two)
    kept_by_two = learnt(folder, folder / "begun-by-one-adapted", num_ranks=1, adapter=ADAPTER)
    assert second == {} and alone.keys() == first.keys()
    assert max(weight.abs().max() for name, weight in alone.items() if ".lora_B." in name) > 1e-2
    for name, weight in alone.items():
        assert_close(first[name], weight, rtol=1e-3, atol=1e-4, msg=name)
        assert torch.equal(kept_by_two[name], first[name])


def assert_they_go_on(folder, of_two, ways):
    alone = learnt(folder, folder / "alone", num_ranks=1)
    start = AutoModelForCausalLM.from_pretrained(folder / "student")
    assert any((alone[name] - weight).abs().max() > 1e-2 for name, weight in start.named_parameters())
    for held in ways:
        ended_by_one = learnt(folder, folder / f"begun-by-two-{held}", num_ranks=1)
        first, second = (rank[f"begun by one, {held}"] for rank in of_two)
        for name, weight in alone.items():
            assert not second or torch.equal(first[name], second[name])  # else the first alone has the whole
            for other in (ended_by_one, first):
                assert_close(other[name], weight, rtol=1e-3, atol=1e-4, msg=name)
