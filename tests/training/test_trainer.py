"""The laws of a training run: what a step is made of, what the seed decides, and where a run goes on after a kill."""

import json
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from stillhouse.core.errors import ModelError
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.kernels.terms import Term
from stillhouse.objectives import AdaptiveRamp, Pace
from stillhouse.teachers import LocalTeacher
from stillhouse.training.terms import Scheduled
from stillhouse.training.trainer import Schedule, latest_checkpoint, train

from .cases import FORWARD_KL, NEXT_TOKEN, gradients_of, mean_loss, step_gradients

TAID = Scheduled(Term("taid"), {"t": AdaptiveRamp(0.5, 1.0, rate=0.8, momentum=0.5)})
BOTH = [Term("forward_kl", weight=0.9, temperature=2.0), Term("next_token", weight=0.1)]
ROW = 24


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(seed=2, layers=2))


@pytest.fixture
def examples(build_example):
    """Documents of unequal weight, about two a row."""
    lengths = [
        (5, 1),
        (20, 12),
        (9, 2),
        (22, 1),
        (14, 13),
        (7, 1),
        (23, 1),
        (3, 1),
        (12, 6),
        (18, 3),
        (11, 1),
        (16, 2),
        (19, 5),
    ]
    return [build_example(seed, tokens, prompt=prompt) for seed, (tokens, prompt) in enumerate(lengths)]


def _train(student, examples, folder, *, teacher=None, terms=(NEXT_TOKEN,), log_line=None, **schedule):
    schedule = {"rows_per_step": 2, "rows_per_micro_batch": 2, "learning_rate": 1e-2, "epochs": 2.0, **schedule}
    return train(
        student,
        PackedRows(examples, row_tokens=ROW),
        terms=terms,
        teacher=teacher,
        vocab_size=300,
        schedule=Schedule(**schedule),
        checkpoints=folder,
        log_line=log_line,
    )


def _weights(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What a step is divided by


@pytest.mark.parametrize("rows_per_micro_batch", [1, 2, 4, 8])
def test_micro_batches_of_unequal_weight_give_the_gradient_of_one_batch(
    build_model, teacher, examples, tmp_path, rows_per_micro_batch
):
    named = {"row_tokens": ROW, "rows_per_step": 8, "rows_per_micro_batch": rows_per_micro_batch}
    student, rows = build_model(layers=2), PackedRows(examples, row_tokens=ROW)
    assert len(rows) == 8
    whole = to_batch([rows[index] for index in range(8)], row_tokens=ROW)
    assert len(set(whole.weights.sum(-1).tolist())) > 4  # rows are unequal
    expected = gradients_of(student, mean_loss(student, whole, teacher=teacher, terms=BOTH))
    (step,) = step_gradients(student, examples, tmp_path, terms=BOTH, teacher=teacher, **named)
    for name, gradient in step.items():
        assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_last_smaller_step_is_divided_by_its_own_weight(build_model, examples, tmp_path):
    named = {"row_tokens": ROW, "rows_per_step": 3}
    whole = step_gradients(build_model(layers=2), examples, tmp_path / "1", rows_per_micro_batch=3, **named)
    parts = step_gradients(build_model(layers=2), examples, tmp_path / "2", rows_per_micro_batch=1, **named)
    assert len(whole) == len(parts) == 3  # of 3, 3 and 2 rows
    for one, other in zip(whole, parts, strict=True):
        for name in one:
            assert_close(one[name], other[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_without_weight_is_an_error_and_no_nan(build_model, tmp_path):
    weightless = [Example((3, 4, 5), (0.0, 0.0, 0.0)) for _ in range(4)]
    with pytest.raises(ModelError, match="no token of this batch carries weight"):
        _train(build_model(), weightless, tmp_path)


# What training leaves alone


def test_training_leaves_the_teacher_bit_for_bit_and_moves_the_student(build_model, teacher, examples, tmp_path):
    student = build_model(layers=2, seed=1)
    theirs, ours = _weights(teacher.model), _weights(student)
    _train(student, examples, tmp_path, teacher=teacher, terms=BOTH)
    assert _same(_weights(teacher.model), theirs)
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert not teacher.model.training and not student.training
    assert not any(torch.equal(weight, ours[name]) for name, weight in student.named_parameters())


def test_a_trained_student_is_saved_with_the_weights_of_its_family_and_no_others(
    build_model, teacher, examples, tmp_path
):
    student = _train(build_model(layers=2), examples, tmp_path / "run", teacher=teacher, terms=BOTH)
    student.save_pretrained(tmp_path / "saved")
    again, found = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert _same(_weights(again), _weights(student))


def test_a_teacher_of_weight_zero_changes_nothing_bit_for_bit(build_model, teacher, examples, tmp_path):
    plain = _train(build_model(layers=2), examples, tmp_path / "plain")
    silent = [Term("forward_kl", weight=0.0), NEXT_TOKEN]
    taught = _train(build_model(layers=2), examples, tmp_path / "taught", teacher=teacher, terms=silent)
    assert _same(_weights(plain), _weights(taught))


def test_hard_labels_alone_never_ask_the_teacher(build_model, examples, tmp_path):
    class Deaf:
        vocab_size = 300

        def signals(self, batch):
            raise AssertionError("it was asked")

    _train(build_model(layers=1), examples, tmp_path, teacher=Deaf())


def test_learning_from_the_teacher_brings_the_student_nearer(build_model, teacher, examples, tmp_path):
    batch, student = to_batch([[example] for example in examples]), build_model(layers=2, seed=1)
    before = float(mean_loss(student, batch, teacher=teacher, terms=[FORWARD_KL]).detach())
    _train(student, examples, tmp_path, teacher=teacher, terms=[FORWARD_KL], epochs=8.0)
    assert float(mean_loss(student, batch, teacher=teacher, terms=[FORWARD_KL]).detach()) < 0.7 * before


# What the seed decides


def _ids_seen(student, examples, folder, **named):
    seen = []

    def see(_model, _args, named):
        if torch.is_grad_enabled():  # not in the trial of packing
            seen.append(named["input_ids"].tolist())

    student.register_forward_pre_hook(see, with_kwargs=True)
    _train(student, examples, folder, **named)
    return seen


def test_the_order_of_the_data_depends_on_the_seed_alone(build_model, teacher, examples, tmp_path):
    torch.manual_seed(1)
    first = _ids_seen(build_model(layers=1), examples, tmp_path / "1", seed=5)
    torch.manual_seed(2)
    second = _ids_seen(
        build_model("gpt2", layers=2, resid_pdrop=0.3),
        examples,
        tmp_path / "2",
        seed=5,
        teacher=teacher,
        terms=BOTH,
        learning_rate=1e-4,
        save_every_steps=3,
    )
    other = _ids_seen(build_model(layers=1), examples, tmp_path / "3", seed=6)
    assert first == second != other
    assert first[:4] != first[4:]  # and the second epoch has an order of its own


def test_every_document_is_seen_once_an_epoch(build_model, examples, tmp_path):
    seen = _ids_seen(build_model(layers=1), examples, tmp_path, epochs=3.0)
    tokens = sorted(token for ids in seen for row in ids for token in row if token != 0)
    assert tokens == sorted(token for example in examples for token in example.ids for _ in range(3))


def test_the_same_seed_trains_the_same_student_bit_for_bit(build_model, teacher, examples, tmp_path):
    def trained(name, seed):
        student = build_model("gpt2", layers=2, resid_pdrop=0.2)
        torch.manual_seed(int(name))  # whatever was drawn before
        return _weights(_train(student, examples, tmp_path / name, teacher=teacher, terms=BOTH, seed=seed))

    first, again, other = trained("1", 0), trained("2", 0), trained("3", 1)
    assert _same(first, again)
    assert not _same(first, other)


# Going on after a kill


@pytest.mark.parametrize(("family", "killed_after"), [("llama", 2), ("gpt2", 4), ("llama", 6)])
def test_a_run_that_goes_on_from_a_checkpoint_ends_bit_for_bit_as_if_never_stopped(
    build_model, teacher, examples, tmp_path, family, killed_after
):
    dropout = {"resid_pdrop": 0.2, "embd_pdrop": 0.2} if family == "gpt2" else {"attention_dropout": 0.2}
    lines, again = [], []
    whole = build_model(family, layers=2, **dropout)
    named = {"teacher": teacher, "terms": [*BOTH, TAID], "save_every_steps": 2}
    _train(whole, examples, tmp_path / "whole", log_line=lines.append, **named)
    assert len(lines) == 8
    kept = tmp_path / "whole" / f"checkpoint-{killed_after}"
    if not kept.exists():  # only the last two are kept: stop there and then
        _stopped_after(killed_after, build_model(family, layers=2, **dropout), examples, tmp_path / "killed", **named)
    else:
        shutil.copytree(kept, tmp_path / "killed" / kept.name)
    resumed = build_model(family, layers=2, seed=9, **dropout)
    _train(resumed, examples, tmp_path / "killed", log_line=again.append, **named)
    assert _same(_weights(whole), _weights(resumed))
    assert [line["step"] for line in again] == list(range(killed_after + 1, 9))
    assert again == lines[killed_after:]
    assert any(line["taid_t"] > 0.5 + 0.5 * line["step"] / 8 for line in again)  # ahead of where a linear one stood


class Killed(Exception):
    pass


def _stopped_after(step, student, examples, folder, **named):
    def kill(line):
        if line["step"] == step + 1:
            raise Killed

    with pytest.raises(Killed):
        _train(student, examples, folder, log_line=kill, **named)


def test_a_finished_run_is_not_trained_further(build_model, examples, tmp_path):
    student = build_model(layers=1)
    _train(student, examples, tmp_path, save_every_steps=4)
    weights, lines = _weights(student), []
    _train(student, examples, tmp_path, save_every_steps=4, log_line=lines.append)
    assert _same(_weights(student), weights)
    assert lines == []


def _checkpoint(folder, step, *, state='{"global_step": 1}'):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, path / "model.safetensors")
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


@pytest.mark.parametrize("state", [None, "", '{"global_st'])
def test_a_checkpoint_that_a_kill_left_unfinished_is_passed_over_and_removed(tmp_path, state):
    whole = _checkpoint(tmp_path, 9)
    unfinished = _checkpoint(tmp_path, 10, state=state)
    assert latest_checkpoint(tmp_path) == str(whole)
    assert not unfinished.exists()
    assert whole.exists()


def test_the_latest_checkpoint_is_the_one_of_most_steps_not_of_the_last_name(tmp_path):
    for step in (100, 50, 9):
        _checkpoint(tmp_path, step)
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_without_checkpoints_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_the_trainer_writes_its_state_last(build_model, examples, tmp_path):
    """What `latest_checkpoint` relies on."""
    _train(build_model(layers=1), examples, tmp_path, save_every_steps=4)
    checkpoint = tmp_path / "checkpoint-4"
    written = {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    assert max(written, key=written.__getitem__) == "trainer_state.json"
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} < written.keys()


# What is shown


def test_a_log_line_says_what_the_step_was(build_model, teacher, examples, tmp_path):
    lines, student = [], build_model(layers=2, seed=1)
    rows = PackedRows(examples, row_tokens=ROW)
    first = to_batch([rows[index] for index in range(len(rows))], row_tokens=ROW)
    expected = [
        float(mean_loss(student, first, teacher=teacher, terms=[Term(t.name, temperature=t.temperature)]).detach())
        for t in BOTH
    ]
    _train(student, examples, tmp_path, teacher=teacher, terms=BOTH, log_line=lines.append, rows_per_step=8, epochs=1.0)
    (line,) = lines
    assert [line["forward_kl"], line["next_token"]] == pytest.approx(expected, rel=1e-4)
    assert line["loss"] == pytest.approx(0.9 * expected[0] + 0.1 * expected[1], rel=1e-3)
    assert line["tokens"] == sum(sum(example.weights) for example in examples)
    assert line["step"] == 1 and line["gradient_norm"] > 0
    json.dumps(line)


def test_two_terms_of_one_name_are_both_shown(build_model, teacher, examples, tmp_path):
    lines, terms = [], [FORWARD_KL, Term("forward_kl", temperature=4.0), NEXT_TOKEN]
    _train(build_model(layers=1), examples, tmp_path, teacher=teacher, terms=terms, log_line=lines.append, epochs=0.5)
    assert {"forward_kl", "forward_kl_2", "next_token"} < lines[0].keys()
    assert lines[0]["forward_kl"] != lines[0]["forward_kl_2"]


@pytest.mark.parametrize("learning_rate", [1e-2, 1e8])
def test_weights_that_are_no_numbers_stop_the_run_and_are_not_saved(build_model, examples, tmp_path, learning_rate):
    student, lines = build_model(layers=1), []
    if learning_rate < 1:
        student.model.norm.weight.data[3] = torch.nan
    with pytest.raises(
        ModelError, match=r"step \d+ went astray \(next_token .*Lower training.learning_rate"
    ) as refusal:
        _train(
            student,
            examples,
            tmp_path,
            learning_rate=learning_rate,
            save_every_steps=1,
            log_line=lines.append,
            epochs=9.0,
        )
    assert all(math.isfinite(line["loss"]) for line in lines)
    (odd,) = tmp_path.glob("odd_step_*_0.safetensors")
    assert str(odd) in str(refusal.value)
    learnt = {example.ids for example in examples}
    read = load_file(odd)["0.ids"]
    assert any(tuple(row[: len(ids)].tolist()) == ids for row in read for ids in learnt)
    saved = latest_checkpoint(tmp_path)
    if saved is not None:
        weights = AutoModelForCausalLM.from_pretrained(saved).state_dict()
        assert all(weight.isfinite().all() for weight in weights.values())


def test_what_moves_is_shown_as_the_step_had_it(build_model, teacher, examples, tmp_path):
    lines, ramp = [], TAID.ramps["t"]
    _train(build_model(layers=1), examples, tmp_path, teacher=teacher, terms=[TAID, NEXT_TOKEN], log_line=lines.append)
    pace = Pace(0.5)
    for line in lines:
        assert line["taid_t"] == pace.number
        assert line.keys() == {
            "step",
            "tokens",
            "taid",
            "taid_t",
            "next_token",
            "loss",
            "learning_rate",
            "gradient_norm",
        }
        pace = ramp.after(pace, value=line["taid"], progress=line["step"] / len(lines))
    assert pace.number == 1


# What may be asked for


@given(step=st.integers(1, 64), micro=st.integers(1, 64))
def test_micro_batches_must_fill_a_step(step, micro):
    if step % micro:
        with pytest.raises(ValueError, match="which does not divide rows_per_step"):
            Schedule(rows_per_step=step, rows_per_micro_batch=micro)
    else:
        Schedule(rows_per_step=step, rows_per_micro_batch=micro)


@pytest.mark.parametrize(("step", "micro"), [(1, 1), (4, 4), (6, 2), (8, 8), (32, 8), (7, 1)])
def test_a_step_is_shared_out_evenly_where_nobody_says_how(step, micro):
    assert Schedule(rows_per_step=step).rows_per_micro_batch == micro


def test_a_single_step_already_learns(build_model, examples, tmp_path):
    student = build_model(layers=1)
    before, lines = _weights(student), []
    _train(student, examples[:1], tmp_path, log_line=lines.append, epochs=1.0)
    assert [line["step"] for line in lines] == [1]
    assert not _same(before, _weights(student))


def test_the_learning_rate_rises_and_falls_to_nothing(build_model, examples, tmp_path):
    lines = []
    _train(
        build_model(layers=1),
        examples,
        tmp_path,
        log_line=lines.append,
        epochs=5.0,
        learning_rate=1e-3,
        warmup_share=0.25,
    )
    rates = [line["learning_rate"] for line in lines]
    assert len(rates) == 20
    highest = rates.index(max(rates))
    assert max(rates) == pytest.approx(1e-3)
    assert rates[:highest] == sorted(rates[:highest]) and rates[highest:] == sorted(rates[highest:], reverse=True)
    assert highest == 5 and rates[-1] < 2e-5
