"""How a retriever learns: weighted objectives over one forward pass, as a loss of sentence-transformers' own trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from jaxtyping import Bool, Float, Int
from sentence_transformers import CrossEncoderTrainer, SentenceTransformerTrainer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_callback import PrinterCallback

from stillhouse.core.errors import ModelError
from stillhouse.core.progress import SILENT, Progress
from stillhouse.retrieval.embed import Similarity
from stillhouse.retrieval.mining import TrainingRow
from stillhouse.students.projections import FILE_NAME, Projections
from stillhouse.training.ranking_terms import RankingTerm
from stillhouse.training.rescue import OddSteps, Tell, tell_nobody
from stillhouse.training.shares import OwnRows, Together, add_gradients, of_all, own_share, total
from stillhouse.training.trainer import LogLine, Schedule, _Steps, latest_checkpoint, rate_share


@dataclass(frozen=True)
class RankingTargets:
    """What is known of each row before the student is asked. Rows and texts go by number."""

    teacher_scores: Float[Tensor, "rows candidates"]
    passages: Int[Tensor, "rows candidates"]
    """Which passage each candidate is; those that say the same words have the same number."""
    answers: tuple[frozenset[int], ...]
    """Of each row's question, the passages that answer it."""
    query_embeddings: Float[Tensor, "rows teacher_width"] | None = None
    """The teacher's, where an objective reads embeddings."""
    passage_embeddings: Float[Tensor, "passages teacher_width"] | None = None
    """The teacher's, by the passage's number."""


def targets_of(
    rows: Sequence[TrainingRow],
    *,
    same_text: Mapping[str, Sequence[str]],
    query_embeddings: Tensor | None = None,
    embeddings_by_id: Mapping[str, Tensor] | None = None,
) -> RankingTargets:
    """The rows' targets, as tensors."""
    numbers: dict[str, int] = {}

    def number(passage: str) -> int:
        first = same_text.get(passage, (passage,))[0]
        return numbers.setdefault(first, len(numbers))

    passages = torch.tensor([[number(one) for one in row.passages] for row in rows])
    answers = tuple(frozenset(number(one) for one in row.question.relevant) for row in rows)
    embedded = None
    if embeddings_by_id is not None:
        embedded = torch.stack([embeddings_by_id[name] for name in numbers])
    scores = torch.tensor([row.scores for row in rows])
    return RankingTargets(scores, passages, answers, query_embeddings, embedded)


def columns_of(rows: Sequence[TrainingRow], texts: Mapping[str, str]) -> dict[str, list[Any]]:
    """What sentence-transformers reads: the question, each candidate's text, and the row's number as its label."""
    width = len(rows[0].passages)
    columns: dict[str, list[Any]] = {"query": [row.question.text for row in rows]}
    for place in range(width):
        columns[f"passage_{place}"] = [texts[row.passages[place]] for row in rows]
    columns["label"] = list(range(len(rows)))
    return columns


class _Parts(nn.Module):
    """A loss in parts: each objective's own mean, as it is, and times its weight."""

    def __init__(self, model: Any, terms: Sequence[RankingTerm]) -> None:
        super().__init__()
        self.model, self.terms = model, tuple(terms)
        self.means: dict[str, list[float]] = {term.name: [] for term in terms}
        self.tokens = 0

    def _weighted(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, value in values.items():
            self.means[name].append(float(value.detach()))
        return {term.name: term.weight * values[term.name] for term in self.terms}

    def means_so_far(self) -> dict[str, float]:
        """Each objective's mean since `take_means`."""
        return {name: sum(values) / len(values) for name, values in self.means.items() if values}

    def take_means(self) -> dict[str, float]:
        """Each objective's mean since this was last asked."""
        found = self.means_so_far()
        self.means = {name: [] for name in self.means}
        return found

    def take_tokens(self) -> int:
        """Tokens that were read since this was last asked, by this process."""
        found, self.tokens = self.tokens, 0
        return found

    def _count(self, features: Sequence[Mapping[str, Any]], labels: Tensor) -> None:
        own = own_share(len(labels))
        if own.start < own.stop:
            self.tokens += sum(map(_num_tokens, features))


class RetrieverLoss(_Parts):
    """Objectives over the embeddings of questions and their candidates.

    With `dimensions`, each objective is averaged over embeddings of these widths and the whole one. A narrower embedding is the
    first numbers of the whole one, of length 1 again only where the similarity is the cosine: the objective stays what it is.
    """

    def __init__(
        self,
        model: Any,
        terms: Sequence[RankingTerm],
        targets: RankingTargets,
        *,
        similarity: Similarity,
        dimensions: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(model, terms)
        self.targets = targets
        whole = model.get_embedding_dimension()
        self.similarity, self.widths = similarity, (whole, *(width for width in dimensions if width != whole))
        if max(self.widths) > whole:
            raise ModelError(
                f"training.dimensions names {max(self.widths)}, but the student's embeddings have {whole}."
            )
        teacher = None if targets.query_embeddings is None else targets.query_embeddings.shape[1]
        maps = {str(width): (width, teacher) for width in self.widths} if teacher else {}
        self.projections = Projections(maps, seed=seed)

    def forward(
        self, sentence_features: Sequence[dict[str, Tensor]], labels: Int[Tensor, " queries"]
    ) -> dict[str, Tensor]:
        """Each objective's mean over the batch's questions, those of other processes too, times its weight."""
        self._count(sentence_features, labels)
        queries, *documents = embed_columns(self.model, sentence_features)
        asked, read = (of_all(own, len(labels)) for own in (queries, torch.stack(documents, dim=1)))
        return self._weighted(self.values(asked, read, labels.cpu()))

    def values(
        self,
        queries: Float[Tensor, "queries width"],
        documents: Float[Tensor, "queries candidates width"],
        rows: Int[Tensor, " queries"],
    ) -> dict[str, Tensor]:
        """Each objective's mean over questions and widths, of embeddings as the model puts them out."""
        found: dict[str, list[Tensor]] = {term.name: [] for term in self.terms}
        for width in self.widths:
            ours = queries[..., :width], documents[..., :width]
            compared = (_unit(ours[0]), _unit(ours[1])) if self.similarity == "cosine" else ours
            for term in self.terms:
                found[term.name].append(self._value(term, ours, compared, rows, str(width)).mean())
        return {name: torch.stack(values).mean() for name, values in found.items()}

    def _value(
        self, term: RankingTerm, raw: tuple[Tensor, Tensor], compared: tuple[Tensor, Tensor], rows: Tensor, width: str
    ) -> Tensor:
        queries, documents = compared
        if term.reads == "scores":
            scores = torch.einsum("qw,qcw->qc", queries, documents)
            return torch.as_tensor(term.function(scores, self.targets.teacher_scores[rows].to(scores.device)))
        if term.reads == "batch_scores":
            flat = documents.flatten(0, 1)  # the candidates of the first question, then of the second
            positives = torch.arange(len(queries)) * documents.shape[1]
            counted = self._counted(rows, positives)
            device = queries.device
            return torch.as_tensor(term.function(queries @ flat.T, positives.to(device), counted.to(device)))
        return self._embedding_distance(term, raw, rows, width)

    def _counted(self, rows: Tensor, positives: Tensor) -> Bool[Tensor, "queries docs"]:
        """Which of the batch's passages count against each question: its own positive, all that does not answer it, and of
        passages that say the same words only one."""
        numbers = self.targets.passages[rows].flatten().tolist()
        first = [numbers.index(number) == place for place, number in enumerate(numbers)]
        counted = torch.zeros(len(rows), len(numbers), dtype=torch.bool)
        for place, row in enumerate(rows.tolist()):
            answers = self.targets.answers[row]
            own = numbers[int(positives[place])]
            for other, number in enumerate(numbers):
                counted[place, other] = first[other] and number not in answers and number != own
            counted[place, positives[place]] = True
        return counted

    def _embedding_distance(self, term: RankingTerm, raw: tuple[Tensor, Tensor], rows: Tensor, width: str) -> Tensor:
        """Of each question, and of its candidates, from what the teacher makes of them; half of it is about questions."""
        queries, documents = (self.projections(width, one) for one in raw)
        teacher = self.targets
        assert teacher.query_embeddings is not None and teacher.passage_embeddings is not None, "no embeddings to match"
        theirs = teacher.query_embeddings[rows], teacher.passage_embeddings[teacher.passages[rows]]
        of_queries = term.function(queries, theirs[0].to(queries.device))
        of_documents = term.function(documents, theirs[1].to(queries.device)).mean(-1)
        return torch.as_tensor((of_queries + of_documents) / 2)


class ImitationLoss(_Parts):
    """How far a student's embeddings are from what they are to be: by angle, and where dot products are compared by length."""

    def __init__(self, model: Any, wanted: Float[Tensor, "texts width"], *, similarity: Similarity) -> None:
        super().__init__(model, [RankingTerm("embedding_cosine" if similarity == "cosine" else "embedding_mse")])
        self.wanted = wanted

    def forward(
        self, sentence_features: Sequence[dict[str, Tensor]], labels: Int[Tensor, " texts"]
    ) -> dict[str, Tensor]:
        """The mean over the batch's texts, those of other processes too."""
        self._count(sentence_features, labels)
        (own,) = embed_columns(self.model, sentence_features)
        found = of_all(own, len(labels))
        (term,) = self.terms
        return self._weighted({term.name: term.function(found, self.wanted[labels.cpu()].to(found.device)).mean()})


class RerankerLoss(_Parts):
    """Objectives over a cross-encoder's raw logits of a question with each of its candidates."""

    def __init__(self, model: Any, terms: Sequence[RankingTerm], targets: RankingTargets) -> None:
        super().__init__(model, terms)
        self.targets = targets

    def forward(
        self,
        inputs: Sequence[Sequence[str]],
        labels: Int[Tensor, " queries"],
        prompt: str | None = None,
        task: str | None = None,
    ) -> dict[str, Tensor]:
        """Each objective's mean over the batch's questions, those of other processes too, times its weight."""
        queries, *candidates = inputs
        pairs = [(query, texts[number]) for number, query in enumerate(queries) for texts in candidates]
        features = self.model.preprocess(pairs, prompt=prompt, task=task)
        self._count([features], labels)
        device = self.model.device
        features = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in features.items()}
        own = self.model(features)["scores"].view(len(queries), len(candidates))
        scores = of_all(own, len(labels))
        teacher = self.targets.teacher_scores[labels.cpu()].to(device)
        return self._weighted({term.name: term.function(scores, teacher).mean() for term in self.terms})


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)


def _num_tokens(features: Mapping[str, Any]) -> int:
    mask = features.get("attention_mask")
    return int(features["input_ids"].numel() if mask is None else mask.sum())


class _Kept:
    """What both trainers do otherwise than sentence-transformers' own: a cosine that starts above 0, one line a step, and
    checkpoints with the projections and without a model card."""

    loss: Any
    model: Any
    log_line: LogLine | None
    odd_steps: OddSteps

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Ours is written once, at the end."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The Trainer's own warm-up spends its first step at 0."""
        this: Any = self
        warmup = this.args.get_warmup_steps(num_training_steps)
        scheduler = LambdaLR(
            optimizer or this.optimizer, lambda step: rate_share(step, warmup=warmup, total=num_training_steps)
        )
        this.lr_scheduler = scheduler
        return scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also one line of numbers of our own."""
        this: Any = self
        if "loss" not in logs:
            super().log(logs, start_time)  # type: ignore[misc]
            return
        means = this.loss.take_means()
        if self.odd_steps.skipped_now:  # which has no numbers
            return
        super().log(logs, start_time)  # type: ignore[misc]
        tokens = total(this.loss.take_tokens(), device=this.args.device)
        if self.log_line is not None and this.is_world_process_zero():
            line = {"step": this.state.global_step, "tokens": tokens, **means}
            rates = {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "gradient_norm": logs["grad_norm"]}
            self.log_line({**line, **rates})

    def get_train_dataloader(self) -> Any:
        """The micro-batches of one process, in each of several: a rank makes its own share of them alone."""
        this: Any = self
        if this.args.world_size == 1:
            return super().get_train_dataloader()  # type: ignore[misc]
        loader = this._build_dataloader(this.train_dataset, this.args.train_batch_size, dataset_kind="train")
        settings = this.accelerator.dataloader_config
        return prepare_data_loader(
            loader,
            num_processes=1,
            process_index=0,
            use_seedable_sampler=settings.use_seedable_sampler,
            data_seed=settings.data_seed,
        )

    def _wrap_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        this: Any = self
        if this.args.world_size == 1:
            return super()._wrap_model(model, *args, **kwargs)  # type: ignore[misc]
        return model if isinstance(model, Together) else Together(model)

    def _clip_grad_norm(self, model: Any) -> Any:
        this: Any = self
        if this.args.world_size > 1:
            add_gradients(model)
        return super()._clip_grad_norm(model)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        assert output_dir is not None
        this: Any = self
        if not this.args.should_save:
            return
        self.model.save_pretrained(output_dir, create_model_card=False)
        projections = getattr(this.loss, "projections", None)
        if projections is not None and projections.maps:
            projections.save(Path(output_dir))

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        super()._load_from_checkpoint(checkpoint_path)  # type: ignore[misc]
        if (Path(checkpoint_path) / FILE_NAME).exists():
            this: Any = self
            this.loss.projections.load_state_dict(Projections.load(Path(checkpoint_path)).state_dict())


class _RetrieverTrainer(_Kept, SentenceTransformerTrainer):
    log_line: LogLine | None = None
    loss: Any


class _RerankerTrainer(_Kept, CrossEncoderTrainer):
    log_line: LogLine | None = None
    loss: Any


def train_ranker(
    student: Any,
    rows: Sequence[TrainingRow],
    *,
    texts: Mapping[str, str],
    loss: RetrieverLoss | RerankerLoss,
    schedule: Schedule,
    checkpoints: Path,
    log_line: LogLine | None = None,
    tell: Tell = tell_nobody,
    progress: Progress = SILENT,
    title: str = "the student learns",
) -> Any:
    """Train a bi-encoder or a cross-encoder in place, by sentence-transformers' trainer, and return it. Started again after a
    kill, it goes on from the last whole checkpoint and, on CPU, ends with the same weights bit for bit.

    In-batch negatives are those of a micro-batch: `rows_per_micro_batch` says how many questions see each other, also where
    several processes share it.
    """
    callback = _Steps(progress, title)
    return _trained(student, columns_of(rows, texts), loss, schedule, checkpoints, log_line, tell, callback)


def train_imitator(
    student: Any,
    texts: Sequence[str],
    *,
    loss: ImitationLoss,
    schedule: Schedule,
    checkpoints: Path,
    log_line: LogLine | None = None,
    tell: Tell = tell_nobody,
    progress: Progress = SILENT,
    title: str = "the student imitates",
) -> Any:
    """Train a student in place to embed each text as the loss wants it, and return it; resumed as `train_ranker`."""
    columns: dict[str, list[Any]] = {"query": list(texts), "label": list(range(len(texts)))}
    return _trained(student, columns, loss, schedule, checkpoints, log_line, tell, _Steps(progress, title))


def _trained(
    student: Any,
    columns: dict[str, list[Any]],
    loss: _Parts,
    schedule: Schedule,
    checkpoints: Path,
    log_line: LogLine | None,
    tell: Tell,
    callback: _Steps,
) -> Any:
    from datasets import Dataset

    reranks = isinstance(loss, RerankerLoss)
    kind: Any = CrossEncoderTrainingArguments if reranks else SentenceTransformerTrainingArguments
    trainer_class: Any = _RerankerTrainer if reranks else _RetrieverTrainer
    args = kind(**_arguments(schedule, checkpoints), **({} if reranks else _columns(student, columns)))
    # Of several processes, sentence-transformers would leave out an epoch's last rows if they do not fill a batch.
    args.dataloader_drop_last = False
    trainer: Any = trainer_class(
        model=student,
        args=args,
        train_dataset=Dataset.from_dict(columns),
        loss=loss,
        callbacks=[callback],
    )
    if args.world_size > 1:
        trainer.data_collator = OwnRows(trainer.data_collator)
        torch.manual_seed(
            schedule.seed + args.process_index
        )  # what is dropped out of one's rows is not what is of another's
    trainer.log_line = log_line
    skip_at_most = schedule.skip_at_most if schedule.odd_steps == "skip" else 0
    trainer.odd_steps = OddSteps(loss.means_so_far, skip_at_most=skip_at_most, tell=tell)
    trainer.add_callback(trainer.odd_steps)
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=latest_checkpoint(checkpoints))
    finally:
        callback.progress.finish()
    return student.eval()


def _columns(student: Any, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own prompts, and which encoder reads what where it has two."""
    roles = {name: "query" if name == "query" else "document" for name in columns if name != "label"}
    prompts = {name: student.prompts.get(role) for name, role in roles.items()}
    said: dict[str, Any] = {"prompts": {name: prompt for name, prompt in prompts.items() if prompt}}
    if any(type(module).__name__ == "Router" for module in student.children()):
        said["router_mapping"] = roles
    return said


def _arguments(schedule: Schedule, checkpoints: Path) -> dict[str, Any]:
    return {
        "output_dir": str(checkpoints),
        "num_train_epochs": schedule.epochs,
        "learning_rate": schedule.learning_rate,
        "per_device_train_batch_size": schedule.rows_per_micro_batch,
        "gradient_accumulation_steps": schedule.rows_per_step // schedule.rows_per_micro_batch,
        "warmup_steps": schedule.warmup_share,
        "weight_decay": schedule.weight_decay,
        "max_grad_norm": schedule.max_gradient_norm,
        "save_steps": schedule.save_every_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "seed": schedule.seed,
        "data_seed": schedule.seed,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
    }
