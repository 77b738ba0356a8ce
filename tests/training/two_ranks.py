"""One process of data-parallel steps, with the environment that torchrun gives."""

import os
from functools import partial
from unittest.mock import patch

import torch
from apart import FULL
from retrieval.cases import ALONE, IDS, ROWS
from retrieval.models import load_cross_encoder, save_bi_encoder, save_cross_encoder, word_tokenizer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

from stillhouse.data.asked import Asked
from stillhouse.data.examples import Example
from stillhouse.data.labelled import LabelledRows
from stillhouse.data.packing import PackedRows
from stillhouse.data.paired import PairedRows
from stillhouse.data.preferences import AnswerPair, PreferenceRows, Weighed
from stillhouse.data.rewards import RewardPair, RewardRows, ScoredAnswer
from stillhouse.kernels.policy import PolicyTerm
from stillhouse.kernels.preference import PreferenceTerm
from stillhouse.kernels.spans import SpanTerm
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import Sampling
from stillhouse.models.recompute import recomputing
from stillhouse.objectives import AdaptiveRamp
from stillhouse.retrieval.embed import load_sentence_model
from stillhouse.students.config import LoraConfig
from stillhouse.students.lora import add_adapter
from stillhouse.students.projections import Projections
from stillhouse.teachers import LocalTeacher
from stillhouse.training import rankings
from stillhouse.training.features import FeatureTerm, projection_widths
from stillhouse.training.mixing import DocumentRows, MixedRows
from stillhouse.training.replay import ReplayRows
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.sharding import is_sharded, whole_tensors
from stillhouse.training.terms import Scheduled
from stillhouse.training.trainer import DistillationTrainer, Schedule, _arguments, train
from stillhouse.training.watch import Watch
from stillhouse.training.zero import is_shared

ROWS_PER_STEP = 4
STATES = FeatureTerm("hidden_mse", weight=0.1, pairs=((1, 1), (2, 2)))
TERMS = [
    Term("forward_kl", weight=0.9, temperature=2.0),
    Term("next_token", weight=0.1),
    Term("reverse_kl", weight=0.5, where="tokens"),
    Scheduled(Term("taid"), {"t": AdaptiveRamp(0.5, 1.0, rate=1.0, momentum=0.5)}),
    STATES,
    FeatureTerm("gram_mse", pairs=((2, 2),)),
]
"""Of every unit, with projections, and with a number that follows what all ranks have seen."""


SPAN_TERMS = [SpanTerm("span_forward_kl", weight=0.7, temperature=2.0), Term("next_token", weight=0.3)]
DRAWN_TERMS = [PolicyTerm("sampled_reverse_kl"), PolicyTerm("minillm", 2.0), Term("forward_kl", 0.5)]
PAIR_TERMS = [PreferenceTerm("dpo"), PreferenceTerm("reward_mse", 0.1), Term("next_token", 0.1), Term("forward_kl")]
CLASS_TERMS = [Term("forward_kl"), Term("hard_label", 0.3)]
JUDGED = {"classes": ("classifier", 3), "rewards": ("judge", 2)}
"""What learns of documents that are judged as wholes, and among how many answers."""


class KeepGradients(TrainerCallback):
    """Keeps the gradient that each optimiser step is given."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        learning = [pair for pair in model.named_parameters() if pair[1].requires_grad]
        if is_shared(model):
            from deepspeed.utils import safe_get_full_grad

            self.steps.append({name: safe_get_full_grad(parameter).clone() for name, parameter in learning})
            return
        found = whole_tensors({name: parameter.grad for name, parameter in learning}, keeps=True)
        self.steps.append({name: gradient.clone() for name, gradient in found.items()})


@torch.no_grad()
def likeliest(student, *, step, steps):
    """What one of several processes finds when it alone looks at the student."""
    ids = torch.arange(5 + step)[None]  # as long in each step as in no other
    return {"likeliest": float(student(input_ids=ids).logits[0, -1].argmax())}


def load(folder, kind):
    """A model that learns, or teaches, this kind of rows."""
    return (AutoModelForSequenceClassification if kind in JUDGED else AutoModelForCausalLM).from_pretrained(folder)


def pairs_of(examples):
    """Each two documents as two answers, with what is known of them."""
    random = torch.Generator().manual_seed(0)
    pairs = [AnswerPair(*two) for two in zip(examples[::2], examples[1::2], strict=True)]
    known = Weighed(*(-9 * torch.rand(len(pairs), 2, generator=random) for _ in range(2)))
    return PreferenceRows(pairs).with_weighed(known)


def learning(kind, folder, student, teacher):
    """The rows of this kind over the examples in `folder`, the terms, and what else a trainer is given."""
    examples = [Example(*example) for example in torch.load(folder / "examples.pt")]
    if kind == "pairs":
        return pairs_of(examples[:10]), PAIR_TERMS, {}
    ids = [one.ids[: 5 + number % 3] for number, one in enumerate(examples)]
    if kind == "classes":
        states = FeatureTerm("hidden_mse", 0.1, pairs=((1, 1),))
        return LabelledRows(ids[:5], torch.tensor([0, 2, 1, 1, 0]), pad_id=0), [*CLASS_TERMS, states], {}
    if kind == "rewards":
        sides = [ScoredAnswer(one, None, len(one)) for one in ids]
        pairs = [RewardPair(*two, prompt="") for two in zip(sides[:10:2], sides[1:10:2], strict=True)]
        return RewardRows(pairs, pad_id=0), CLASS_TERMS, {}
    if kind == "plain":
        return PackedRows(examples, row_tokens=24), [Term("next_token")], {}
    if kind == "spans":
        pairs, common = torch.load(folder / "spans.pt", weights_only=False)
        return PairedRows(pairs, row_tokens=64), SPAN_TERMS, {"common": common}
    widths = {f"{side}_width": model.config.hidden_size for side, model in (("student", student), ("teacher", teacher))}
    maps = Projections(projection_widths([STATES], **widths), seed=0)
    if kind == "texts":
        return PackedRows(examples, row_tokens=24), TERMS, {"projections": maps}
    asked = [Asked(one.ids[:prompt], (one,)) for one, prompt in zip(examples[:7], (3, 2, 5, 1, 3, 7, 2), strict=True)]
    settings = {"sampling": Sampling(max_new_tokens=6), "seed": 7, "stop_ids": {1}, "vocab_size": 300, "max_tokens": 20}
    if kind == "written":
        watch = Watch()
        rows = AskedRows(asked, student, student_share=1.0, tell=watch.hear, batch_size=3, **settings)
        return rows, DRAWN_TERMS, {"watch": watch}
    if kind == "mixed":
        rows = AskedRows(asked[:3], student, student_share=0.5, **settings)
        others = [Asked(one.ids[:1], (one, two)) for one, two in zip(examples[7:10], examples[10:13], strict=True)]
        mixed = MixedRows(rows, DocumentRows(others, in_context=False), share=0.4)
        corpus = {"replay_terms": [Term("next_token", 0.6)], "projections": maps}
        return mixed, [Term("forward_kl"), STATES], corpus
    keeping = {"capacity": 3, "fresh_share": 0.5, "share_step": 0.1, "tolerance_nats": -1.0, "check_every_steps": 1}
    held_out = PackedRows(examples[7:], row_tokens=24)
    said_before = [Term("forward_kl"), Term("reverse_kl", 0.5, answers="student")]
    if kind == "replayed":
        rows = ReplayRows(asked, student, student_share=0.6, held_out=held_out, **settings, **keeping)
        return rows, said_before, {}
    assert kind == "replayed among others"
    rows = ReplayRows(asked[:3], student, student_share=0.9, held_out=held_out, **settings, **keeping)
    return MixedRows(rows, PackedRows(examples[7:], row_tokens=24), share=0.4), said_before, {}


def steps(
    folder,
    *,
    num_ranks,
    rows_per_micro_batch,
    kind="texts",
    student="student",
    held="whole",
    recomputes=False,
    precision="float32",
    compiler=None,
):
    """The gradients and the log lines of two epochs of these rows, and what they remember; the student hardly moves."""
    names, size = ((student, "teacher"), 300)
    if kind in JUDGED:
        name, size = JUDGED[kind]
        names = (name, f"{name}'s teacher")
    student, teacher = (load(folder / name, kind) for name in names)
    schedule = Schedule(
        epochs=2.0,
        learning_rate=1e-30,
        max_gradient_norm=1e30,
        rows_per_step=ROWS_PER_STEP // num_ranks,
        rows_per_micro_batch=rows_per_micro_batch,
    )
    rows, terms, options = learning(kind, folder, student, teacher)
    keeper, lines = KeepGradients(), []
    trainer = DistillationTrainer(
        model=student,
        args=_arguments(schedule, folder / f"of-{num_ranks}-{kind}-{held}"),
        train_dataset=rows,
        callbacks=[keeper],
        terms=terms,
        teacher=LocalTeacher(teacher),
        vocab_size=size,
        log_line=lines.append,
        inspect=None if kind in JUDGED else likeliest,
        held=held,
        teacher_held="whole" if held == "whole" else "sharded",
        precision=precision,
        compiler=compiler,
        **options,
    )
    with recomputing(student, wanted=recomputes):
        trainer.train()
    return keeper.steps, lines, rows.state()


ADAPTER = LoraConfig(rank=2, alpha=4.0)
ALL_OVER = LoraConfig(rank=2, alpha=4.0, dora=True, targets=("embed_tokens", "q_proj", "down_proj"))
"""An adapter that looks its base weights up, and one of embeddings, which are the head, too."""


class Stopped(Exception):
    """A kill, as all ranks would meet it."""


class StoppingRows(PackedRows):
    """Rows that a process is stopped at before its third step, unless it has come so far before."""

    stops_at = 3

    def at_step(self, batches, *, step, progress=0.0):
        if step == self.stops_at:
            raise Stopped
        return super().at_step(batches, step=step, progress=progress)


class OddRows(PackedRows):
    """Rows of which the second step learns nothing that is a number."""

    def at_step(self, batches, *, step, progress=0.0):
        if step != 2:
            return batches
        return [{**batch, "weights": batch["weights"] * float("nan")} for batch in batches]


def learnt(folder, checkpoints, *, num_ranks, stops_at=0, held="whole", rows_type=StoppingRows, adapter=None):
    """The student, or the one that learns an adapter, after four steps, saved every two; None where it was stopped before the
    third."""
    student = AutoModelForCausalLM.from_pretrained(folder / "student")
    if adapter is not None:
        student = add_adapter(student, adapter, seed=0)
    examples = [Example(*example) for example in torch.load(folder / "examples.pt")]
    rows = rows_type(examples, row_tokens=24)
    rows.stops_at = stops_at
    schedule = Schedule(
        epochs=2.0,
        learning_rate=1e-2,
        rows_per_step=ROWS_PER_STEP // num_ranks,
        rows_per_micro_batch=1,
        save_every_steps=2,
        odd_steps="skip",
    )
    teacher = LocalTeacher(AutoModelForCausalLM.from_pretrained(folder / "teacher"))
    options = {"terms": TERMS[:4], "teacher": teacher, "vocab_size": 300, "schedule": schedule, "held": held}
    try:
        trained = train(student, rows, checkpoints=checkpoints, **options)
    except Stopped:
        return None
    if is_sharded(trained):
        return {}  # another has the whole
    return {name: weight.detach().clone() for name, weight in trained.named_parameters()}


RANKING_TERMS = [
    ("margin_mse", 0.3),
    ("listwise_kl", 1.0),
    ("score_mse", 0.01),
    ("info_nce", 0.5),
    ("embedding_mse", 0.1),
]


def ranked(folder, checkpoints, *, kind, at_once=4, stops_at=0):
    """What a student that ranks, or imitates, is after two epochs of seven rows, the gradients of its steps, and its log; None
    where it was stopped before so many."""
    gradients, lines = [], []
    clipped = rankings._Kept._clip_grad_norm

    def keep(self, model):
        if len(gradients) + 1 == stops_at:
            raise Stopped
        norm = clipped(self, model)
        maps = getattr(self.loss, "projections", torch.nn.Module())
        learning = [*self.model.named_parameters(), *maps.named_parameters(prefix="projections")]
        gradients.append({name: one.grad.clone() for name, one in learning if one.grad is not None})
        return norm

    student, learn = _ranking(folder, kind)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # drawn by each process for itself
    schedule = Schedule(
        epochs=2,
        learning_rate=1e-2,
        max_gradient_norm=1e30,
        rows_per_step=4,
        rows_per_micro_batch=at_once,
        save_every_steps=2,
    )
    with patch.object(rankings._Kept, "_clip_grad_norm", keep):
        try:
            learn(schedule=schedule, checkpoints=checkpoints, log_line=lines.append)
        except Stopped:
            return None
    return {name: one.detach().clone() for name, one in student.named_parameters()}, gradients, lines


def save_rankers(folder):
    """What retrievers and rerankers begin as."""
    save_bi_encoder(folder, layers=1)
    save_cross_encoder(folder, layers=1)


def _ranking(folder, kind):
    """A student, and what trains it."""
    random, rows = torch.Generator().manual_seed(9), [*ROWS, ROWS[0]]
    if kind == "imitator":
        modules = [StaticEmbedding(word_tokenizer().backend_tokenizer, embedding_dim=8) for _ in range(2)]
        for seed, module in enumerate(modules):
            torch.nn.init.normal_(module.embedding.weight, generator=torch.Generator().manual_seed(seed))
        router = Router.for_query_document(query_modules=[modules[0]], document_modules=[modules[1]])
        student = SentenceTransformer(modules=[router], device="cpu")
        texts = [row.question.text for row in rows]
        loss = rankings.ImitationLoss(student, torch.randn(7, 8, generator=random), similarity="dot")
        return student, partial(rankings.train_imitator, student, texts, loss=loss)
    terms = [rankings.RankingTerm(*term) for term in RANKING_TERMS]
    if kind == "reranker":
        student = load_cross_encoder(folder / "cross")
        loss = rankings.RerankerLoss(student, terms[:1], rankings.targets_of(rows, same_text=ALONE))
    else:
        student = load_sentence_model(str(folder / "model"))
        targets = rankings.targets_of(
            rows,
            same_text=ALONE,
            query_embeddings=torch.randn(7, 24, generator=random),
            embeddings_by_id={name: torch.randn(24, generator=random) for name in IDS},
        )
        loss = rankings.RetrieverLoss(student, terms, targets, similarity="cosine", dimensions=(8,))
    return student, partial(rankings.train_ranker, student, rows, texts=IDS, loss=loss)


RANKED = {"retriever": 4, "reranker": 4} | ({"retriever, one at a time": 2, "imitator": 4} if FULL else {})
"""Rows that one process sees at once; of the seven, three are left for the last step of an epoch."""


SHARED = {"num_ranks": 2, "rows_per_micro_batch": 1}
FEW = [("classes", "whole", 1)]
if FULL:
    FEW += [("rewards", "whole", 1), ("mixed", "whole", 2), ("replayed among others", "whole", 1)]
    FEW += [("classes", "sharded", 1), ("mixed", "sharded", 1)]
"""Rows of which an epoch's last are too few for both, and how many a process runs at once."""


def by_torch(where):
    """What two processes find with whole copies, and with torch's FSDP2."""
    found = {
        (kind, "whole"): steps(where, **SHARED, kind=kind, recomputes=kind == "pairs")
        for kind in ("texts", "pairs", "replayed")
    }
    for kind, held, at_once in FEW:
        found["few", kind, held] = steps(where, num_ranks=2, rows_per_micro_batch=at_once, kind=kind, held=held)
    for kind in ("texts", "spans", *(["written"] if FULL else [])):
        found[kind, "sharded"] = steps(where, **SHARED, kind=kind, held="sharded", recomputes=kind != "spans")
    found["pairs", "sharded"] = steps(where, **SHARED, kind="pairs", student="untied", held="sharded")
    if FULL:
        found["plain", "sharded"] = steps(where, **SHARED, kind="plain", held="sharded", compiler="eager")
        found["texts", "in bfloat16"] = steps(where, **SHARED, held="sharded", precision="bfloat16")
    found["adapted"] = learnt(where, where / "begun-by-one-adapted", num_ranks=2, held="sharded", adapter=ADAPTER)
    for name, at_once in RANKED.items():
        kind = name.partition(",")[0]
        found[name] = ranked(where, where / f"{name} of two", kind=kind, at_once=at_once)
    assert ranked(where, where / "ranked by two", kind="retriever", stops_at=3) is None
    found["ranked, begun by one"] = ranked(where, where / "ranked by one", kind="retriever")
    return found | going_on(where, ("whole", "sharded"))


def by_deepspeed(where):
    """What two processes find with DeepSpeed's ZeRO."""
    found = {("texts", "zero2"): steps(where, **SHARED, held="zero2")}
    for kind in ("texts", "spans", "written"):
        found[kind, "zero3"] = steps(where, **SHARED, kind=kind, held="zero3", recomputes=kind == "written")
    found["pairs", "zero3"] = steps(where, **SHARED, kind="pairs", student="untied", held="zero3")
    found["texts", "in bfloat16"] = steps(where, **SHARED, held="zero3", precision="bfloat16")
    found["all over", "zero3"] = learnt(where, where / "all over", num_ranks=2, held="zero3", adapter=ALL_OVER)
    for held in ("zero2", "zero3"):
        for kind in ("classes", "mixed", "replayed", "replayed among others"):
            found[kind, held] = steps(where, **SHARED, kind=kind, held=held)
        found["odd", held] = learnt(where, where / f"odd-{held}", num_ranks=2, held=held, rows_type=OddRows)
        adapted = {"num_ranks": 2, "held": held, "adapter": ADAPTER}
        found["adapted", held] = learnt(where, where / f"begun-by-one-adapted-{held}", **adapted)
        assert learnt(where, where / f"begun-by-two-adapted-{held}", **adapted, stops_at=3) is None
    return found | going_on(where, ("zero2", "zero3"))


def going_on(where, ways):
    """What is begun by two, and what one has begun is ended by them."""
    found = {}
    for held in ways:
        assert learnt(where, where / f"begun-by-two-{held}", num_ranks=2, stops_at=3, held=held) is None
        found[f"begun by one, {held}"] = learnt(where, where / f"begun-by-one-{held}", num_ranks=2, held=held)
    return found


def be_a_rank(environment, folder, by):
    """The whole life of one process."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    torch.save({"torch": by_torch, "deepspeed": by_deepspeed}[by](folder), folder / f"rank-{environment['RANK']}.pt")
