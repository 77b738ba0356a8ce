"""Two processes that share a step give the gradient of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from .two_ranks import learnt, steps


@pytest.fixture(scope="module")
def folder(build_model, build_example, tmp_path_factory):
    """A student, a teacher, and documents of which a step's rows weigh differently."""
    tmp_path = tmp_path_factory.mktemp("two")
    build_model(layers=2, seed=1, hidden_size=16, intermediate_size=24).save_pretrained(tmp_path / "student")
    build_model(layers=2, seed=2).save_pretrained(tmp_path / "teacher")
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
    return tmp_path


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def of_two(folder):
    """What each of two processes found, of texts and of pairs: to start them is what takes time."""
    assert learnt(folder, folder / "begun-by-one", num_ranks=1, stops_at=3) is None
    shared = os.environ | {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "ACCELERATE_USE_CPU": "true",  # as `accelerate launch --cpu` sets it
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(folder)]
    ranks = [
        subprocess.Popen(command, env=shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_two_processes_that_share_a_step_give_the_gradient_and_the_log_of_one(folder, of_two):
    alone, lines = steps(folder, num_ranks=1, rows_per_micro_batch=4)
    (first, first_lines), (second, second_lines) = (rank[False] for rank in of_two)
    assert len(alone) == len(first) == len(second) == 4
    for one, mine, other in zip(alone, first, second, strict=True):
        for name, gradient in one.items():
            assert torch.equal(mine[name], other[name])
            assert_close(mine[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert {name.partition(".")[0] for name in alone[0]} == {"module", "projections"}
    assert second_lines == []
    shares = [line["taid_t"] for line in first_lines]
    assert shares[0] < shares[1] < shares[2] < shares[3] < 1 and shares[2] > 0.5 + 0.5 * 2 / 4  # ahead of the linear
    for together, line in zip(first_lines, lines, strict=True):
        assert together == pytest.approx(line, rel=1e-4)


def test_two_processes_that_share_pairs_of_answers_give_the_gradient_and_the_log_of_one(folder, of_two):
    alone, lines = steps(folder, num_ranks=1, rows_per_micro_batch=4, in_pairs=True)
    (first, first_lines), (second, _) = (rank[True] for rank in of_two)
    assert len(alone) == len(first) == len(second) == 4
    for one, mine, other in zip(alone, first, second, strict=True):
        for name, gradient in one.items():
            assert torch.equal(mine[name], other[name])
            assert_close(mine[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    for together, line in zip(first_lines, lines, strict=True):
        assert together == pytest.approx(line, rel=1e-4)


def test_what_two_processes_have_begun_one_ends_and_the_other_way_round(folder, of_two):
    alone = learnt(folder, folder / "alone", num_ranks=1)
    ended_by_one = learnt(folder, folder / "begun-by-two", num_ranks=1)
    first, second = (rank["begun by one"] for rank in of_two)
    start = AutoModelForCausalLM.from_pretrained(folder / "student")
    assert any((alone[name] - weight).abs().max() > 1e-2 for name, weight in start.named_parameters())
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name])
        for other in (ended_by_one, first):
            assert_close(other[name], weight, rtol=1e-3, atol=1e-4, msg=name)
