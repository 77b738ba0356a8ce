"""Pairs of answers in the trainer: what TRL computes, log 2 at the start, and the same however a step is cut."""

import math
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import as_batch
from stillhouse.core.errors import ModelError
from stillhouse.data.examples import Example
from stillhouse.data.preferences import AnswerPair, PreferenceRows, Weighed
from stillhouse.kernels.preference import PreferenceTerm
from stillhouse.kernels.terms import Term
from stillhouse.labelling import load_weighed, save_weighed, weigh
from stillhouse.models.adapters import adapter_off
from stillhouse.objectives import PREFERENCES
from stillhouse.students.config import LoraConfig
from stillhouse.students.lora import add_adapter
from stillhouse.training.loss import distillation_loss
from stillhouse.training.trainer import Schedule, latest_checkpoint, train

from .cases import gradients_of, step_gradients

VOCAB, SPOKEN = 40, 37
SHAPES = [(4, 3, 6), (2, 7, 1), (5, 2, 2), (3, 9, 4), (6, 1, 5), (2, 3, 3), (4, 4, 8), (3, 2, 6)]
"""Tokens of a prompt, of the chosen answer, and of the rejected one."""
TERMS = [
    PreferenceTerm("dpo", 0.8, {"beta": 0.3}),
    PreferenceTerm("reward_mse", 0.5, {"beta": 0.2}),
    PreferenceTerm("reward_kl", 0.4),
    Term("next_token", 0.1),
]


def make_pairs(shapes=SHAPES):
    found = []
    for seed, (prompt, *lengths) in enumerate(shapes):
        random = torch.Generator().manual_seed(seed)
        asked = torch.randint(2, SPOKEN, (prompt,), generator=random).tolist()
        sides = []
        for length in lengths:
            answer = torch.randint(2, SPOKEN, (length - 1,), generator=random).tolist()
            sides.append(Example((*asked, *answer, 1), (0.0,) * prompt + (1.0,) * length, length))
        found.append(AnswerPair(*sides, scores=(float(seed + 2), float(seed % 3))))
    return found


@pytest.fixture
def build(build_model):
    return partial(build_model, vocab=VOCAB, layers=2)


@pytest.fixture
def weighed(build):
    """By another student before training than any that learns here, a teacher, and what that was before."""
    reference, teacher, before = (weigh(build(seed=seed), make_pairs(), vocab_size=SPOKEN) for seed in (3, 4, 5))
    return Weighed(reference, teacher - before)


def loss_of(student, rows, terms, numbers=None):
    batch = as_batch(rows.collate(list(range(len(rows))) if numbers is None else numbers))
    return distillation_loss(student, batch, teacher=None, terms=terms, vocab_size=SPOKEN)


def by_definition(student, side):
    """The log-probability of an answer, from the logits of one document alone."""
    logprobs = student(torch.tensor([side.ids])).logits[0, :, :SPOKEN].log_softmax(-1)
    places = [place for place, weight in enumerate(side.weights) if weight]
    return sum(logprobs[place - 1, side.ids[place]] for place in places)


def test_an_answer_weighs_what_its_tokens_alone_say_in_whatever_company_it_is_read(build):
    student, pairs = build(attention_dropout=0.5).train(), make_pairs()
    found = weigh(student, pairs, vocab_size=SPOKEN)
    assert student.training
    student.eval()
    with torch.no_grad():
        wanted = torch.tensor([[by_definition(student, side) for side in pair.sides] for pair in pairs])
    assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert_close(weigh(student, pairs[3:4], vocab_size=SPOKEN), found[3:4], atol=1e-5, rtol=1e-5)


def test_the_loss_is_log_2_a_pair_before_the_first_step(build):
    student, pairs = build(), make_pairs()
    rows = PreferenceRows(pairs).with_weighed(Weighed(weigh(student, pairs, vocab_size=SPOKEN)))
    loss, (total,) = loss_of(student, rows, [PreferenceTerm("dpo")])
    assert_close(total / len(pairs), torch.tensor(math.log(2)), atol=1e-5, rtol=0)
    assert_close(loss.detach(), total)


def as_trl_runs_it(student, pairs, reference, *, beta):
    """The loss of TRL's own trainer, on a batch of its own form."""
    dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer", reason="TRL is only an oracle")
    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    width = max(len(side.ids) for side in sides)

    def padded(rows):
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])

    inputs = {
        "input_ids": padded([side.ids for side in sides]),
        "attention_mask": padded([[1] * len(side.ids) for side in sides]),
        "completion_mask": padded([[int(weight > 0) for weight in side.weights] for side in sides]),
        "ref_chosen_logps": reference[:, 0],
        "ref_rejected_logps": reference[:, 1],
    }

    def fused(input_ids, attention_mask, labels, use_cache, fused_lm_head):
        logits = student(input_ids, attention_mask=attention_mask).logits[:, :-1, :SPOKEN]
        logprobs, targets = logits.log_softmax(-1), labels[:, 1:]
        said = logprobs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        nothing = torch.zeros_like(said)
        said = torch.where(targets == -100, 0.0, said)
        return SimpleNamespace(log_probs=said, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())

    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda one: one, gather=lambda one: one)
    trainer = SimpleNamespace(
        model=student,
        accelerator=accelerator,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    return dpo_trainer.DPOTrainer._compute_loss(trainer, fused, inputs, False)


def test_dpo_has_the_value_and_the_gradient_of_trl(build, weighed):
    student, pairs = build(), make_pairs()
    rows = PreferenceRows(pairs).with_weighed(weighed)
    ours, _ = loss_of(student, rows, [PreferenceTerm("dpo", parameters={"beta": 0.3})])
    theirs = as_trl_runs_it(student, pairs, weighed.reference_logprobs, beta=0.3)
    assert_close(ours / len(pairs), theirs, rtol=1e-5, atol=1e-6)
    found, wanted = gradients_of(student, ours / len(pairs)), gradients_of(student, theirs)
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_pairs_one_by_one_have_the_loss_and_the_gradient_of_all_together(build, weighed):
    student, rows = build(), PreferenceRows(make_pairs()).with_weighed(weighed)
    together, sums = loss_of(student, rows, TERMS)
    whole = gradients_of(student, together)
    apart = [loss_of(student, rows, TERMS, [number]) for number in range(len(rows))]
    assert_close(sum(one.detach() for one, _ in apart), together.detach(), rtol=1e-5, atol=1e-5)
    assert_close(torch.stack([own for _, own in apart]).sum(0), sums, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients_of(student, sum(one for one, _ in apart)).items():
        assert_close(gradient, whole[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_step_is_divided_once_by_its_pairs_however_it_is_cut(build, weighed, tmp_path):
    student, pairs = build(), make_pairs()[:6]
    known = Weighed(weighed.reference_logprobs[:6], weighed.teacher_ratios[:6])
    loss, _ = loss_of(student, PreferenceRows(pairs).with_weighed(known), TERMS[:3])
    wanted = gradients_of(student, loss / 6)
    for rows_at_once in (1, 2, 6):
        found, *rest = step_gradients(
            build(),
            pairs,
            tmp_path / str(rows_at_once),
            row_tokens=0,
            rows_per_step=6,
            rows_per_micro_batch=rows_at_once,
            rows_of=lambda some, row_tokens: PreferenceRows(some).with_weighed(known),
            terms=TERMS[:3],
            vocab_size=SPOKEN,
        )
        assert not rest
        for name, gradient in wanted.items():
            assert_close(found[name], gradient, rtol=1e-3, atol=2e-5, msg=name)


def test_objectives_on_tokens_learn_the_chosen_answers_alone(build, weighed):
    student, pairs = build(), make_pairs()
    rows = PreferenceRows(pairs).with_weighed(weighed)
    loss, _ = loss_of(student, rows, [Term("next_token")])
    assert_close(loss, -sum(by_definition(student, pair.chosen) for pair in pairs), rtol=1e-5, atol=1e-5)


def test_without_the_reference_it_is_said_what_is_missing(build):
    with pytest.raises(ModelError, match="with_weighed"):
        loss_of(build(), PreferenceRows(make_pairs()), [PreferenceTerm("dpo")])


def test_numbers_that_were_written_down_are_read_back(weighed, tmp_path):
    save_weighed(weighed, tmp_path / "numbers.safetensors")
    again = load_weighed(tmp_path / "numbers.safetensors")
    assert torch.equal(again.reference_logprobs, weighed.reference_logprobs)
    assert torch.equal(again.teacher_ratios, weighed.teacher_ratios)


def learn(student, folder, weighed, *, terms=TERMS, **schedule):
    settings = {"epochs": 3.0, "rows_per_step": 4, "rows_per_micro_batch": 2, "learning_rate": 1e-2, **schedule}
    return train(
        student,
        PreferenceRows(make_pairs()).with_weighed(weighed),
        terms=terms,
        teacher=None,
        vocab_size=SPOKEN,
        schedule=Schedule(**settings),
        checkpoints=folder,
    )


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_student_comes_to_prefer_what_it_is_taught(name, build, weighed, tmp_path):
    student, rows = build(), PreferenceRows(make_pairs()).with_weighed(weighed)
    terms = [PreferenceTerm(name)]
    before = float(loss_of(student, rows, terms)[1])
    learn(student, tmp_path, weighed, terms=terms, epochs=8.0)
    assert float(loss_of(student, rows, terms)[1]) < 0.8 * before


class Killed(BaseException):
    pass


def test_a_run_that_goes_on_from_a_checkpoint_ends_as_one_that_was_never_stopped(build, weighed, tmp_path, monkeypatch):
    whole = learn(build(), tmp_path / "whole", weighed, save_every_steps=2)
    collate = PreferenceRows.collate

    def dies(rows, items, seen=[]):  # noqa: B006
        seen.append(items)
        if len(seen) > 10:
            raise Killed
        return collate(rows, items)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceRows, "collate", dies)
        with pytest.raises(Killed):
            learn(build(), tmp_path / "killed", weighed, save_every_steps=2)
    assert latest_checkpoint(tmp_path / "killed") is not None
    again = learn(build(), tmp_path / "killed", weighed, save_every_steps=2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_an_adapter_is_its_own_reference_with_no_second_copy(build):
    plain, pairs = build(), make_pairs()
    wanted = weigh(plain, pairs, vocab_size=SPOKEN)
    student = add_adapter(build(), LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)
    with adapter_off(student):
        assert_close(weigh(student, pairs, vocab_size=SPOKEN), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(weigh(student, pairs, vocab_size=SPOKEN), wanted, atol=1e-2)
