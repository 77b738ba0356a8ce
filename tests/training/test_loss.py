"""The laws of the loss: which positions count, for how much, and what is divided by what."""

import math

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.batch import Batch
from stillhouse.core.signals import Wanted
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.data.text import Row, to_examples
from stillhouse.kernels.terms import Term
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import CATALOGUE, objective
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss

from .cases import FORWARD_KL, NEXT_TOKEN, ToldTeacher, gradients_of, mean_loss

ON_TOKENS = [name for name, entry in CATALOGUE.items() if "target_values" not in entry.reads]
BOTH = (Term("forward_kl", weight=0.9, temperature=2.0), Term("next_token", weight=0.1))


@pytest.fixture
def student(build_model):
    return build_model(seed=1)


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(seed=2))


@pytest.fixture
def examples(build_example):
    """Prompts of several lengths, and weights that are not all 1."""
    first, second = build_example(1, 12, prompt=4), build_example(2, 9)
    weights = tuple(weight * (0.5 if place % 3 else 1.0) for place, weight in enumerate(second.weights))
    return [first, Example(second.ids, weights), build_example(3, 15, prompt=1)]


@pytest.fixture
def batch(examples):
    return to_batch([examples[:2], examples[2:]], row_tokens=30)


def _judged_logits(model, batch):
    """By a scalar loop over documents, each alone: pairs of logits and the token that follows."""
    for row in range(len(batch.ids)):
        for document in range(int(batch.documents[row].max()) + 1):
            where = batch.documents[row] == document
            ids, weights = batch.ids[row, where], batch.weights[row, where]
            logits = model(ids[None]).logits[0].detach().double()
            for place in range(1, len(ids)):
                if weights[place] > 0:
                    yield logits[place - 1], int(ids[place]), float(weights[place])


# Temperature


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@torch.no_grad()
def test_soft_targets_are_multiplied_by_the_square_of_the_temperature_in_value(student, teacher, batch, temperature):
    expected = weight_sum = 0.0
    pairs = zip(_judged_logits(student, batch), _judged_logits(teacher.model, batch), strict=True)
    for (ours, _, weight), (theirs, _, _) in pairs:
        p, q = (theirs / temperature).softmax(-1), (ours / temperature).softmax(-1)
        expected += weight * temperature**2 * float((p * (p / q).log()).sum())
        weight_sum += weight
    terms = [Term("forward_kl", temperature=temperature)]
    found = mean_loss(student, batch, teacher=teacher, terms=terms)
    assert float(found) == pytest.approx(expected / weight_sum, rel=1e-5)


def test_soft_targets_are_multiplied_by_the_square_of_the_temperature_in_gradient(student, teacher, batch):
    def gradient(temperature):
        terms = [Term("forward_kl", temperature=temperature)]
        gradients = gradients_of(student, mean_loss(student, batch, teacher=teacher, terms=terms))
        return torch.cat([gradient.flatten() for gradient in gradients.values()])

    hot, hotter = gradient(50.0), gradient(100.0)
    assert float((hot - hotter).norm() / hotter.norm()) < 0.05  # without the square, the half of it or double


def test_temperature_never_touches_hard_targets(student, teacher, batch):
    _, sums = distillation_loss(student, batch, teacher=teacher, terms=BOTH, vocab_size=300)
    _, alone = distillation_loss(student, batch, teacher=None, terms=[NEXT_TOKEN], vocab_size=300)
    assert_close(sums[1], alone[0])
    with pytest.raises(ValueError, match="no temperature"):
        mean_loss(student, batch, terms=[Term("next_token", temperature=2.0)])


# What a mean is over


@pytest.mark.parametrize("name", ON_TOKENS)
def test_documents_given_twice_leave_loss_and_gradient_as_they_were(student, teacher, examples, name):
    terms = [Term(name)]
    once = to_batch([examples[:2], examples[2:]], row_tokens=30)
    along_rows = to_batch([[*examples[:2], *examples[:2]], [*examples[2:], *examples[2:]]], row_tokens=50)
    more_rows = to_batch([[example] for example in [*examples, *examples]])
    loss = mean_loss(student, once, teacher=teacher, terms=terms)
    gradients = gradients_of(student, loss)
    for twice in (along_rows, more_rows):
        again = mean_loss(student, twice, teacher=teacher, terms=terms)
        assert_close(again, loss, rtol=1e-5, atol=1e-6)
        for parameter, gradient in gradients_of(student, again).items():
            assert_close(gradient, gradients[parameter], rtol=1e-3, atol=1e-5, msg=parameter)


@torch.no_grad()
def test_tokens_that_are_banned_on_both_sides_leave_the_loss_as_it_was(build_model, examples):
    batch, models = to_batch([[example] for example in examples]), []
    for seed in (1, 2):
        small, large = build_model("phi", seed=seed), build_model("phi", vocab=600)
        large.model = small.model
        large.lm_head.weight[:300], large.lm_head.bias[:300] = small.lm_head.weight, small.lm_head.bias
        large.lm_head.bias[300:] = -torch.inf
        models.append((small, large))
    (student, wide_student), (teacher, wide_teacher) = models
    narrow = mean_loss(student, batch, teacher=LocalTeacher(teacher), terms=BOTH)
    wide = mean_loss(wide_student, batch, teacher=LocalTeacher(wide_teacher), terms=BOTH, vocab_size=600)
    assert_close(wide, narrow)


# Where nothing is judged


def _unjudged(batch):
    return ~batch.predicts


@pytest.mark.parametrize("name", ON_TOKENS)
def test_what_is_said_where_nothing_is_judged_leaves_the_loss_bit_for_bit(student, teacher, batch, name):
    terms, said = [Term(name)], teacher.signals(batch, Wanted(logits=True)).logits.dense()
    loss = mean_loss(student, batch, teacher=ToldTeacher(said), terms=terms)
    said = torch.where(_unjudged(batch)[..., None], 100 * torch.randn_like(said), said)
    student.base_model.register_forward_hook(lambda *call: _scrambled(call[2], batch))
    assert torch.equal(mean_loss(student, batch, teacher=ToldTeacher(said), terms=terms), loss)


def _scrambled(output, batch):
    """The body's output with other hidden states where nothing is judged."""
    hidden = output.last_hidden_state
    if hidden.shape[:2] == batch.ids.shape:
        output.last_hidden_state = torch.where(_unjudged(batch)[..., None], torch.randn_like(hidden), hidden)
    return output


@pytest.mark.parametrize("name", ON_TOKENS)
def test_where_nothing_is_judged_the_gradient_is_exactly_zero(student, teacher, batch, name):
    kept = []
    student.base_model.register_forward_hook(lambda *call: kept.append(call[2].last_hidden_state))
    loss = mean_loss(student, batch, teacher=teacher, terms=[Term(name)])
    (gradient,) = torch.autograd.grad(loss, kept[-1])
    assert (gradient[_unjudged(batch)] == 0).all()
    assert (gradient[batch.predicts].norm(dim=-1) > 0).all()


def test_padding_and_the_tokens_in_it_leave_the_loss_as_it_was(student, teacher, examples):
    rows = [examples[:2], examples[2:]]
    loss = mean_loss(student, to_batch(rows), teacher=teacher, terms=BOTH)
    wide = to_batch(rows, row_tokens=64).tensors()
    assert_close(mean_loss(student, Batch(**wide), teacher=teacher, terms=BOTH), loss)
    padding = wide["documents"] < 0
    wide["ids"] = torch.where(padding, torch.randint(300, padding.shape), wide["ids"])
    assert_close(mean_loss(student, Batch(**wide), teacher=teacher, terms=BOTH), loss)


# The shift by one


@torch.no_grad()
def test_the_loss_is_minus_the_log_likelihood_by_a_scalar_loop(student, batch):
    pairs = list(_judged_logits(student, batch))
    expected = -sum(weight * float(logits.log_softmax(-1)[token]) for logits, token, weight in pairs)
    sums, _ = distillation_loss(student, batch, teacher=None, terms=[NEXT_TOKEN], vocab_size=300)
    assert float(sums) == pytest.approx(expected, rel=1e-5)
    assert float(batch.total_weight) == pytest.approx(sum(weight for _, _, weight in pairs))


def test_a_teacher_that_is_sure_of_the_next_token_is_the_next_token(student, batch):
    """Sure at t of token t + 1: a shift by one, either way, would ask for another token."""
    following = batch.ids.roll(-1, dims=1)
    sure = torch.nn.functional.one_hot(following, 300) * 200.0
    told = mean_loss(student, batch, teacher=ToldTeacher(sure), terms=[FORWARD_KL])
    hard = mean_loss(student, batch, terms=[NEXT_TOKEN])
    assert_close(told, hard)
    expected = gradients_of(student, hard)
    for name, gradient in gradients_of(student, told).items():
        assert_close(gradient, expected[name], msg=name)


# Precision


def test_a_bfloat16_loss_is_near_the_float64_loss_of_the_same_factors(build_model, batch):
    student, teacher = (build_model(seed=seed).bfloat16() for seed in (1, 2))
    loss, sums = distillation_loss(student, batch, teacher=LocalTeacher(teacher), terms=BOTH, vocab_size=300)
    with torch.no_grad():
        ours, theirs = (factored_logits(model, batch).at(batch.predicts) for model in (student, teacher))
        ours, theirs = (factors.hidden.double() @ factors.weight.double().T for factors in (ours, theirs))
        soft = (BOTH[0].objective(ours, theirs, None) * batch.target_weights).sum()
        hard = (BOTH[1].objective(ours, None, batch.targets) * batch.target_weights).sum()
    assert sums.tolist() == pytest.approx([float(soft), float(hard)], rel=3e-3)
    assert float(loss.detach()) == pytest.approx(0.9 * float(soft) + 0.1 * float(hard), rel=3e-3)
    assert loss.dtype == torch.float32


# At the teacher


@pytest.mark.parametrize("name", [name for name in CATALOGUE if objective(name).reads_teacher])
def test_at_the_teacher_every_divergence_is_zero_and_hard_targets_are_not(build_model, batch, name):
    student, teacher = build_model(seed=1), LocalTeacher(build_model(seed=1))
    terms = [Term(name, temperature=2.0 if objective(name).takes_temperature else 1.0), NEXT_TOKEN]
    _, (divergence, hard) = distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=300)
    assert abs(float(divergence)) < 1e-4
    expected = -sum(w * float(logits.log_softmax(-1)[token]) for logits, token, w in _judged_logits(student, batch))
    assert float(hard) == pytest.approx(expected, rel=1e-5)
    assert float(hard) > 10


def test_at_the_teacher_the_loss_and_its_gradient_are_exactly_zero(build_model, batch):
    """Nothing is added to a logarithm to keep it finite."""
    student, teacher = build_model(seed=1), LocalTeacher(build_model(seed=1))
    loss = mean_loss(student, batch, teacher=teacher, terms=[FORWARD_KL])
    assert float(loss.detach()) == 0
    assert all((gradient == 0).all() for gradient in gradients_of(student, loss).values())


# Rows that pad a vocabulary


def _padded(model, rows):
    """The same model with a head and a table of more rows, filled with large numbers."""
    torch.manual_seed(rows)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.get_input_embeddings().weight.data[300:] = 10 * torch.randn(rows - 300, 32)
    model.get_output_embeddings().weight.data[300:] = 10 * torch.randn(rows - 300, 32)
    return model


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_rows_that_pad_the_vocabulary_of_either_side_change_nothing(build_model, batch, family):
    models = [build_model(family, seed=seed) for seed in (1, 2)]
    loss = mean_loss(models[0], batch, teacher=LocalTeacher(models[1]), terms=BOTH)
    expected = gradients_of(models[0], loss)
    student, teacher = _padded(build_model(family, seed=1), 320), _padded(build_model(family, seed=2), 384)
    padded = mean_loss(student, batch, teacher=LocalTeacher(teacher), terms=BOTH)
    assert_close(padded, loss)
    for name, gradient in gradients_of(student, padded).items():
        if gradient.shape[0] == 320:
            assert (gradient[300:] == 0).all()
        assert_close(gradient[: len(expected[name])], expected[name], msg=name)


# The end of a text


def test_the_end_of_a_text_is_learnt_once_though_it_also_pads(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [Row("the small fox"), Row("a girl found a key", "the old man"), Row("cut off", finished=False)]
    batch = to_batch([to_examples(rows, tokenizer, max_tokens=64)], row_tokens=100)
    assert batch.targets.tolist().count(tokenizer.eos_token_id) == 2
    ends = [i for i in range(99) if batch.weights[0, i] > 0 and batch.documents[0, i] != batch.documents[0, i + 1]]
    assert [int(batch.ids[0, end]) == tokenizer.eos_token_id for end in ends] == [True, True, False]


# The teacher


def test_a_teacher_is_in_evaluation_mode_whatever_it_came_in(build_model, batch):
    teacher = LocalTeacher(build_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5).train())
    first, second = (
        teacher.signals(batch, Wanted(logits=True)).logits,
        teacher.signals(batch, Wanted(logits=True)).logits,
    )
    assert torch.equal(first.hidden, second.hidden)
    assert not any(module.training for module in teacher.model.modules())


def test_no_gradient_flows_to_a_teacher(student, teacher, batch):
    before = {name: weight.clone() for name, weight in teacher.model.state_dict().items()}
    mean_loss(student, batch, teacher=teacher, terms=BOTH).backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in teacher.model.state_dict().items())


def test_a_term_of_weight_zero_is_shown_and_teaches_nothing(student, teacher, batch):
    silent = (Term("forward_kl", weight=0.0), NEXT_TOKEN)
    plain = mean_loss(student, batch, terms=[NEXT_TOKEN])
    expected = gradients_of(student, plain)
    loss = mean_loss(student, batch, teacher=teacher, terms=silent)
    assert torch.equal(loss, plain)
    for name, gradient in gradients_of(student, loss).items():
        assert torch.equal(gradient, expected[name])
    _, sums = distillation_loss(student, batch, teacher=teacher, terms=silent, vocab_size=300)
    assert float(sums[0]) > 1 and math.isfinite(float(sums[0]))
