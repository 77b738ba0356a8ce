"""Objectives on features in training: which layers and tokens count, what they are divided by, and what is trained."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from stillhouse.core.batch import Batch, LabelledBatch, TaggedBatch, one_document_a_row
from stillhouse.core.errors import ModelError
from stillhouse.core.signals import Wanted
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.kernels.terms import Term
from stillhouse.models.signals import read_signals
from stillhouse.objectives import FEATURES, Ramp, objective
from stillhouse.students.projections import Projections
from stillhouse.teachers import LocalTeacher
from stillhouse.training.features import FeatureTerm, projection_widths
from stillhouse.training.loss import distillation_loss
from stillhouse.training.terms import UNITS, Scheduled, unit_counts
from stillhouse.training.trainer import Schedule, train

from .cases import NEXT_TOKEN, step_gradients

ON_LAYERS = [name for name, entry in FEATURES.items() if entry.reads_layers]
SMALL = {"vocab_size": 90, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
HEADS = {"multi_head_relation_kl": {"relation_heads": 4}}


def _term(name, pairs=((1, 1), (2, 4)), weight=1.0):
    return FeatureTerm(name, weight, pairs, HEADS.get(name, {}))


def _loss(student, batch, teacher, *terms, **named):
    return distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=300, **named)


@pytest.fixture
def student(build_model):
    return build_model(seed=1, layers=2)


@pytest.fixture
def teacher(build_model):
    return LocalTeacher(build_model(seed=2))


@pytest.fixture
def examples(build_example):
    return [build_example(1, 12, prompt=4), build_example(2, 9), build_example(3, 15, prompt=1), build_example(4, 7)]


@pytest.fixture
def batch(examples):
    return to_batch([examples[:2], examples[2:]], row_tokens=30)


@pytest.mark.parametrize("name", ON_LAYERS)
def test_at_the_teacher_a_feature_is_matched_layer_by_layer(build_model, batch, name):
    same = build_model(seed=1)
    loss, (total,) = _loss(same, batch, LocalTeacher(build_model(seed=1)), _term(name, ((1, 1), (4, 4))))
    assert abs(float(total)) < 1e-5
    assert float(loss.detach()) == pytest.approx(float(total), abs=1e-9)


@pytest.mark.parametrize("name", ON_LAYERS)
def test_a_change_in_one_layer_shows_in_its_own_entry_of_the_map_alone(build_model, batch, name):
    """P13: layer k of a map is the output of the k-th block, and attention of layer k is inside it."""
    changed, teacher = build_model(seed=1), LocalTeacher(build_model(seed=1))
    with torch.no_grad():
        for parameter in changed.model.layers[2].parameters():  # the third block
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    found = {}
    for layer in (1, 2, 3):
        pairs = ((layer - 1, layer - 1), (layer, layer)) if name == "flow_mse" else ((layer, layer),)
        found[layer] = abs(float(_loss(changed, batch, teacher, _term(name, pairs))[1]))
    assert found[1] < 1e-6
    assert found[2] < 1e-6
    assert found[3] > 1e-4


@pytest.mark.parametrize("name", ON_LAYERS)
def test_a_feature_is_summed_over_documents_as_if_each_stood_alone(student, teacher, examples, batch, name):
    _, (together,) = _loss(student, batch, teacher, _term(name))
    alone = [_loss(student, to_batch([[example]]), teacher, _term(name))[1] for example in examples]
    assert_close(together, torch.stack(alone).sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ON_LAYERS)
def test_tokens_in_padding_change_nothing(student, teacher, examples, name):
    rows = [[examples[0]], [examples[1]]]
    narrow, wide = to_batch(rows), to_batch(rows, row_tokens=40)
    wide.ids[wide.documents < 0] = 7
    expected, found = (_loss(student, batch, teacher, _term(name))[0] for batch in (narrow, wide))
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_hidden_states_are_compared_by_a_scalar_loop(student, teacher, batch):
    _, (total,) = _loss(student, batch, teacher, _term("hidden_mse"))
    expected = 0.0
    for row in range(2):
        for document in range(2):
            ids = batch.ids[row, batch.documents[row] == document][None]
            ours, theirs = (model(ids, output_hidden_states=True).hidden_states for model in (student, teacher.model))
            for pair in ((1, 1), (2, 4)):
                expected += float((ours[pair[0]] - theirs[pair[1]]).square().mean(-1).sum().detach()) / 2
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_each_term_is_divided_by_the_count_of_its_own_unit(student, teacher, batch):
    terms = [Term("forward_kl", 0.9), Term("reverse_kl", 0.1, where="tokens"), _term("hidden_mse"), _term("gram_mse")]
    counts = unit_counts(batch)
    assert counts.tolist()[:4] == [float(batch.total_weight), 43.0, 4.0, 0.0]  # no spans: one tokenizer
    loss, sums = _loss(student, batch, teacher, *terms, counts=counts)
    units = ["target", "token", "token", "document"]
    expected = sum(t.weight * s / counts[UNITS.index(u)] for t, s, u in zip(terms, sums, units, strict=True))
    assert_close(loss.double(), expected)


def test_logits_can_be_compared_at_every_token_prompts_included(student, teacher, batch):
    _, (everywhere,) = _loss(student, batch, teacher, Term("forward_kl", where="tokens"))
    ours, theirs = (read_signals(model, batch, Wanted(logits=True)).logits for model in (student, teacher.model))
    values = objective("forward_kl").function(ours.at(batch.real).dense(), theirs.at(batch.real).dense())
    assert_close(everywhere, values.sum().detach())


@pytest.mark.parametrize("name", [None, *ON_LAYERS])
def test_micro_batches_of_unequal_size_give_the_gradient_of_one_batch(build_model, teacher, examples, tmp_path, name):
    terms = [NEXT_TOKEN, Term("forward_kl", where="tokens") if name is None else _term(name, weight=0.5)]
    named = {"row_tokens": 24, "rows_per_step": 2, "teacher": teacher, "terms": terms}
    steps = {
        size: step_gradients(build_model(layers=2), examples, tmp_path / str(size), rows_per_micro_batch=size, **named)
        for size in (1, 2)
    }
    for one, other in zip(steps[1], steps[2], strict=True):
        for name, gradient in one.items():
            assert_close(gradient, other[name], rtol=1e-4, atol=1e-6, msg=name)


# Widths that differ


@pytest.fixture
def narrow(build_model):
    return build_model(seed=3, layers=2, hidden_size=16, intermediate_size=24)


def test_states_of_other_widths_meet_through_projections_that_are_trained(narrow, teacher, batch):
    term = _term("hidden_mse")
    projections = Projections(projection_widths([term], student_width=16, teacher_width=32), seed=0)
    assert projections.widths == {"hidden_mse.1-1": (16, 32), "hidden_mse.2-4": (16, 32)}
    _loss(narrow, batch, teacher, term, projections=projections)[0].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in projections.parameters())
    assert narrow.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["gram_mse", "linear_cka", "multi_head_relation_kl"])
def test_what_has_no_width_needs_no_projection(narrow, teacher, batch, name):
    assert projection_widths([_term(name)], student_width=16, teacher_width=32) == {}
    assert float(_loss(narrow, batch, teacher, _term(name))[1]) > 0


def _train(student, teacher, examples, folder, terms, **named):
    schedule = Schedule(rows_per_step=1, rows_per_micro_batch=1, learning_rate=1e-2, epochs=2, save_every_steps=2)
    rows = PackedRows(examples, row_tokens=24)
    return train(
        student, rows, terms=terms, teacher=teacher, vocab_size=300, schedule=schedule, checkpoints=folder, **named
    )


def test_projections_are_trained_saved_beside_the_student_and_never_inside(narrow, teacher, examples, tmp_path):
    """P16."""
    term = _term("hidden_mse")
    projections = Projections(projection_widths([term], student_width=16, teacher_width=32), seed=0)
    before = [parameter.clone() for parameter in projections.parameters()]
    student = _train(narrow, teacher, examples, tmp_path, [term], projections=projections)
    moved = zip(before, projections.parameters(), strict=True)
    assert all(not torch.equal(start, end) for start, end in moved)
    student.save_pretrained(tmp_path / "student")
    assert set(load_file(tmp_path / "student" / "model.safetensors")) <= set(narrow.state_dict())
    checkpoint = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    loaded, found = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not found["unexpected_keys"]
    assert not found["missing_keys"]
    kept = Projections.load(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), projections.parameters(), strict=True))
    assert torch.equal(loaded.get_input_embeddings().weight, student.get_input_embeddings().weight)


def test_a_run_with_projections_resumes_bit_for_bit(build_model, teacher, examples, tmp_path):
    term = _term("hidden_mse")

    def parts():
        widths = projection_widths([term], student_width=16, teacher_width=32)
        return build_model(seed=3, layers=2, hidden_size=16, intermediate_size=24), Projections(widths, seed=0)

    def kill(line):
        if line["step"] == 3:
            raise KeyboardInterrupt

    whole, projections = parts()
    _train(whole, teacher, examples, tmp_path / "whole", [term], projections=projections)
    broken, again = parts()
    with pytest.raises(KeyboardInterrupt):
        _train(broken, teacher, examples, tmp_path / "killed", [term], projections=again, log_line=kill)
    resumed, again = parts()
    _train(resumed, teacher, examples, tmp_path / "killed", [term], projections=again)
    for ours, theirs in ((whole, resumed), (projections, again)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


# Schedules


def test_a_ramp_is_followed_by_the_share_of_training_that_is_done(build_model, teacher, examples, tmp_path):
    lines = []
    ramped = Scheduled(Term("forward_kl"), {"weight": Ramp(1.0, 0.0)})
    _train(build_model(layers=2), teacher, examples, tmp_path, [ramped], log_line=lines.append)
    weights = [line["loss"] / line["forward_kl"] for line in lines]
    steps = len(lines)
    assert weights == pytest.approx([1 - step / steps for step in range(steps)], rel=1e-3)


def test_every_number_of_a_term_can_follow_a_ramp():
    plan = Scheduled(Term("taid", 1.0, 2.0, {"t": 0.4}), {"temperature": Ramp(4.0, 1.0), "t": Ramp(0.4, 1.0)})
    assert plan.at(0.0) == replace(plan.term, temperature=4.0, parameters={"t": 0.4})
    assert plan.at(1.0) == replace(plan.term, temperature=1.0, parameters={"t": 1.0})
    feature = Scheduled(_term("hidden_mse"), {"weight": Ramp(0.0, 2.0)})
    assert feature.at(0.5).weight == 1.0


# Encoders


def _rows(*lengths, kind, **more):
    torch.manual_seed(0)
    shape = (len(lengths), max(lengths))
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    positions = torch.arange(shape[1]).expand(shape)
    weights = more.pop("weights", torch.zeros(shape))
    return kind(torch.randint(5, 90, shape), positions, torch.where(real, 0, -1), weights, **more)


def test_the_triple_loss_of_a_masked_language_model_is_the_arithmetic_of_the_original():
    """A hand-written port: KL over all real tokens at a temperature, cross-entropy over hidden ones, cosine of last states."""
    torch.manual_seed(1)
    student = BertForMaskedLM(BertConfig(**SMALL, initializer_range=0.3)).eval()
    teacher = BertForMaskedLM(BertConfig(**{**SMALL, "num_hidden_layers": 4}, initializer_range=0.3)).eval()
    weights = torch.zeros(2, 9)
    weights[0, [2, 5]] = weights[1, 3] = 1.0
    labels = torch.randint(5, 90, (2, 9))
    batch = _rows(9, 6, kind=TaggedBatch, labels=labels, weights=weights)
    terms = [
        Term("forward_kl", 5.0, 2.0, where="tokens"),
        Term("masked_token", 2.0),
        FeatureTerm("hidden_cosine", 1.0, ((2, 4),)),
    ]
    told = LocalTeacher(teacher)
    loss, _ = distillation_loss(student, batch, teacher=told, terms=terms, vocab_size=90, counts=unit_counts(batch))
    named = {"input_ids": batch.ids, "attention_mask": batch.real.long(), "output_hidden_states": True}
    ours, theirs = student(**named), teacher(**named)
    real, hidden = batch.real, weights > 0
    soft = torch.nn.KLDivLoss(reduction="batchmean")(
        (ours.logits[real] / 2.0).log_softmax(-1), (theirs.logits[real] / 2.0).softmax(-1)
    )
    hard = torch.nn.CrossEntropyLoss()(ours.logits[hidden], labels[hidden])
    states = [output.hidden_states[-1][real] for output in (ours, theirs)]
    cosine = torch.nn.CosineEmbeddingLoss()(*states, torch.ones(len(states[0])))
    assert_close(loss, 5.0 * 2.0**2 * soft + 2.0 * hard + 1.0 * cosine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "labels"), [("hard_label", torch.tensor([0, 3])), ("squared_error", torch.tensor([0.5, 2.0]))]
)
def test_documents_judged_as_a_whole_count_once_each(name, labels):
    torch.manual_seed(1)
    classes = 1 if name == "squared_error" else 5
    student = BertForSequenceClassification(BertConfig(**SMALL, num_labels=classes, initializer_range=0.3)).eval()
    batch = _rows(9, 6, kind=LabelledBatch, labels=labels, label_weights=torch.tensor([1.0, 2.0]))
    terms = [Term(name), Term("logit_mse", 0.5)]
    teacher = LocalTeacher(
        BertForSequenceClassification(BertConfig(**SMALL, num_labels=classes, initializer_range=0.3))
    )
    loss, (hard, soft) = distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=classes)
    logits, said = (m(batch.ids, attention_mask=batch.real.long()).logits for m in (student, teacher.model))
    if name == "squared_error":
        values = (logits[:, 0] - labels).square()
    else:
        values = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert_close(hard, (values * torch.tensor([1.0, 2.0])).sum().detach())
    assert_close(soft, ((logits - said).square().mean(-1) * torch.tensor([1.0, 2.0])).sum().detach())
    loss.backward()
    assert student.classifier.weight.grad.abs().sum() > 0


def test_a_document_judged_as_a_whole_has_no_answer_at_each_token():
    student = BertForSequenceClassification(BertConfig(**SMALL, num_labels=5)).eval()
    batch = _rows(9, 6, kind=LabelledBatch, labels=torch.tensor([0, 3]), label_weights=torch.ones(2))
    terms = [Term("forward_kl", where="tokens")]
    with pytest.raises(ModelError, match="each document has one answer as a whole"):
        distillation_loss(student, batch, teacher=LocalTeacher(student), terms=terms, vocab_size=5)


@pytest.mark.parametrize("name", ["next_token", "masked_token", "hard_label", "squared_error", "decoupled_kd"])
def test_what_reads_labels_cannot_count_where_there_are_none(name):
    with pytest.raises(ValueError, match=f"{name} reads labels, which not every token has"):
        Term(name, where="tokens")


@pytest.mark.parametrize("name", ["embedding_mse", "embedding_cosine"])
def test_embeddings_are_compared_once_a_sentence_whatever_their_widths(name):
    torch.manual_seed(1)
    student = BertModel(BertConfig(**SMALL, initializer_range=0.3), add_pooling_layer=False).eval()
    wide = {**SMALL, "hidden_size": 32}
    teacher = LocalTeacher(BertModel(BertConfig(**wide, initializer_range=0.3), add_pooling_layer=False))
    term = FeatureTerm(name, 1.0, ((2, 2),))
    projections = Projections(projection_widths([term], student_width=24, teacher_width=32), seed=0)
    batch = _rows(9, 6, kind=Batch)
    named = {"teacher": teacher, "terms": [term], "vocab_size": 90, "pooling": "mean", "projections": projections}
    loss, (total,) = distillation_loss(student, batch, **named)
    ours = projections(f"{name}.2-2", read_signals(student, batch, Wanted(pooling="mean")).embeddings)
    theirs = read_signals(teacher.model, batch, Wanted(pooling="mean")).embeddings
    assert_close(total, objective(name).function(ours, theirs).sum().detach())
    loss.backward()
    assert student.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_attention_that_nobody_can_listen_to_is_refused_by_name(build_model, batch):
    student = build_model("bloom", layers=2)
    with pytest.raises(ModelError, match="attention cannot be listened to"):
        _loss(student, batch, LocalTeacher(build_model("bloom")), _term("attention_kl"))


def test_documents_that_are_alone_already_stay_where_they_are(examples):
    alone = to_batch([[example] for example in examples])
    assert one_document_a_row(alone) is alone
