"""A step in which memory runs out is done in halves, with the same gradient; one that is no number is stopped at or skipped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.core.memory import ran_out_of_memory
from stillhouse.data.packing import PackedRows
from stillhouse.kernels.terms import Term
from stillhouse.teachers import LocalTeacher
from stillhouse.training.rescue import pieces
from stillhouse.training.trainer import Schedule, train

from .cases import NEXT_TOKEN, step_gradients

ROW = 16
BOTH = [Term("forward_kl", weight=0.9, temperature=2.0), Term("next_token", weight=0.1)]


@pytest.fixture
def examples(build_example):
    """A document a row, of unequal weight."""
    return [build_example(seed, ROW, prompt=1 + seed % 7) for seed in range(16)]


class SmallMemory:
    """A student that has room for so many rows, forward or backward; at first, for so many batches, for any."""

    def __init__(self, student, rows, *, in_backward=False, first=0):
        self.rows, self.in_backward, self.first, self.tried = rows, in_backward, first, []
        student.register_forward_hook(self._forward, with_kwargs=True)
        next(student.parameters()).register_hook(self._backward)

    def _is_full(self):
        return self.tried[-1] > self.rows and len(self.tried) > self.first

    def _forward(self, _model, _args, named, _output):
        if not torch.is_grad_enabled():  # a trial
            return
        self.tried.append(len(named["input_ids"]))
        if self._is_full() and not self.in_backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _backward(self, _gradient):
        if self._is_full():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")


class Told(list):
    def __call__(self, event, says, /, **details):
        self.append((event, says, details))


def _train(student, examples, folder, *, teacher=None, terms=(NEXT_TOKEN,), **options):
    schedule = {"rows_per_step": 4, "rows_per_micro_batch": 4, "learning_rate": 1e-2, **options.pop("schedule", {})}
    return train(
        student,
        PackedRows(examples, row_tokens=ROW),
        terms=terms,
        teacher=teacher,
        vocab_size=300,
        schedule=Schedule(**schedule),
        checkpoints=folder,
        **options,
    )


def _weights(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def _assert_same(one, other):
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_step_in_halves_has_the_gradient_of_the_whole(build_model, examples, tmp_path, in_backward):
    teacher, told = LocalTeacher(build_model(seed=2, layers=2)), Told()
    named = {"row_tokens": ROW, "rows_per_step": 8, "terms": BOTH, "teacher": teacher}
    whole = step_gradients(build_model(layers=2), examples, tmp_path / "1", rows_per_micro_batch=4, **named)
    small = build_model(layers=2)
    # Of the first step's two micro-batches the second is the first that there is no room for.
    memory = SmallMemory(small, 2, in_backward=in_backward, first=1)
    found = step_gradients(small, examples, tmp_path / "2", rows_per_micro_batch=4, tell=told, **named)
    assert 4 in memory.tried and memory.tried[-6:] == [2] * 6
    assert [event for event, _, _ in told] == ["halved"]
    assert told[0][2] == {"step": 1, "rows_at_once": 2}
    assert "memory ran out in step 1 with 4 rows at once: from here on 2 are run at once" in told[0][1]
    for one, other in zip(whole, found, strict=True):
        for name in one:
            assert_close(one[name], other[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_halved_run_is_bit_for_bit_the_run_that_was_told_so_and_a_checkpoint_remembers(
    build_model, examples, tmp_path
):
    def student():
        return build_model("gpt2", layers=1, resid_pdrop=0.2)

    told_so = student()
    _train(told_so, examples, tmp_path / "1", schedule={"rows_per_micro_batch": 2})
    small, told, lines = student(), Told(), []
    SmallMemory(small, 2)
    schedule = {"save_every_steps": 2}
    _train(small, examples, tmp_path / "2", tell=told, log_line=lines.append, schedule=schedule)
    assert len(told) == 1
    assert len(lines) == 4
    _assert_same(_weights(told_so), _weights(small))
    for file in (tmp_path / "2" / "checkpoint-4").iterdir():
        file.unlink()  # half a checkpoint: the one before it serves
    again, told_again = student(), Told()
    memory = SmallMemory(again, 2)
    _train(again, examples, tmp_path / "2", tell=told_again, schedule=schedule)
    assert told_again == [] and set(memory.tried) == {2}
    _assert_same(_weights(told_so), _weights(again))


def test_one_row_that_is_too_much_is_said(build_model, examples, tmp_path):
    student = build_model(layers=1)
    SmallMemory(student, 0)
    with pytest.raises(ModelError, match=r"memory ran out in step 1 with 1 rows at once.*Lower data.sequence_tokens"):
        _train(student, examples, tmp_path)


def test_what_is_no_want_of_memory_is_raised(build_model, examples, tmp_path):
    student = build_model(layers=1)

    def fail(*_args):
        if torch.is_grad_enabled():
            raise RuntimeError("shapes do not match")

    student.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        _train(student, examples, tmp_path)


@given(prompts=st.integers(1, 9), together=st.integers(1, 4), at_once=st.integers(1, 5))
def test_pieces_make_up_the_batch_and_part_nothing_that_belongs_together(prompts, together, at_once):
    rows = prompts * together
    batch = {"ids": torch.arange(rows)[:, None], "labels": torch.arange(prompts)}
    found = list(pieces(batch, at_once * together))
    assert torch.cat([piece["ids"] for piece in found]).equal(batch["ids"])
    assert torch.cat([piece["labels"] for piece in found]).equal(batch["labels"])
    for piece in found:
        assert len(piece["ids"]) == together * len(piece["labels"]) <= at_once * together
        assert piece["ids"][0, 0] == together * piece["labels"][0]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_known_by_everybodys_words(error, is_memory):
    assert ran_out_of_memory(error) is is_memory


# Steps that are no number


class Poisoned:
    """A student of which these steps' gradients are this, by way of one weight."""

    def __init__(self, student, steps, value):
        self.steps, self.value, self.calls, self.after = steps, value, 0, []
        self.student = student
        student.model.norm.weight.register_hook(self._poison)

    def _poison(self, gradient):
        self.calls += 1
        self.after.append(_weights(self.student))  # as the step before left them
        if self.calls not in self.steps:
            return gradient
        gradient = gradient.clone()
        gradient[3] = self.value
        return gradient


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_no_number_is_skipped_and_leaves_the_student_as_it_was(build_model, examples, tmp_path, value):
    student, told, lines = build_model(layers=1), Told(), []
    poison = Poisoned(student, {2}, value)
    _train(
        student,
        examples,
        tmp_path,
        tell=told,
        log_line=lines.append,
        schedule={"odd_steps": "skip", "skip_at_most": 1},
    )
    assert [line["step"] for line in lines] == [1, 3, 4]
    _assert_same(poison.after[1], poison.after[2])  # before and after the second step
    assert not torch.equal(poison.after[2]["lm_head.weight"], poison.after[3]["lm_head.weight"])
    assert all(weight.isfinite().all() for weight in student.state_dict().values())
    ((event, says, details),) = told
    assert (event, details["step"]) == ("skipped", 2)
    assert "step 2 was skipped" in says and "gradient_norm nan" in says
    assert load_file(details["file"])["0.ids"].shape == (4, ROW)


def test_more_odd_steps_than_may_be_skipped_stop_the_run_also_after_a_kill(build_model, examples, tmp_path):
    schedule = {"odd_steps": "skip", "skip_at_most": 2, "save_every_steps": 2}

    def train_on(steps):
        student = build_model(layers=1)
        Poisoned(student, steps, float("nan"))
        _train(student, examples, tmp_path, schedule=schedule)

    with pytest.raises(ModelError, match=r"step 4 went astray .* after 2 that were skipped"):
        train_on({1, 2, 4})
    with pytest.raises(ModelError, match=r"step 3 went astray .* after 2 that were skipped"):
        train_on({1})  # the first step after checkpoint 2, which remembers
