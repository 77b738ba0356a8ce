"""The suite `similarity`: what a model says next, what it is like inside, and what it writes, beside its teacher."""

from pydantic import PositiveInt
from transformers import PreTrainedTokenizerBase

from stillhouse.core.batch import Batch
from stillhouse.core.config import Config
from stillhouse.core.likeness import CURVES, LayerLikeness, OutputLikeness, SimilarityFound
from stillhouse.core.measures import Scored
from stillhouse.core.progress import working
from stillhouse.core.results import Role
from stillhouse.data.packing import to_batch
from stillhouse.evaluation.asking import answers_of
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.intervals import Statistic
from stillhouse.evaluation.language import say
from stillhouse.evaluation.layers import compared_states
from stillhouse.evaluation.nearness import Nearness, nearness
from stillhouse.evaluation.outputs import embedded_by_model, embedded_by_states, output_likeness
from stillhouse.evaluation.paired import scored
from stillhouse.models.generate import Sampling
from stillhouse.models.load import display_name, vocabulary_fingerprint


class SimilarityConfig(Config):
    """How alike a student is to its teacher."""

    sentence_model: str | None = None
    """A sentence embedding model (hub id or folder) by which answers are compared. Without one it is the mean of the teacher's
    own last states, which nobody trained to tell meanings apart."""
    prompts: PositiveInt = 16
    """Held-out prompts that every model answers for it."""
    max_new_tokens: PositiveInt = 48
    """Tokens of each answer."""


def similarity(bench: Bench, settings: SimilarityConfig | None) -> SimilarityFound:
    """Everything of the suite. Models with other tokenizers are compared on whole documents, and on what they write."""
    wanted = settings or SimilarityConfig()
    shares = shares_tokens(bench.tokenizer, bench.teacher_tokenizer)
    near = near_teacher(bench) if bench.task == "causal_lm" and shares else {}
    documents = 1 + max((int(found.document.max()) for found in near.values()), default=-1)
    spoken = bench.task == "causal_lm"
    return SimilarityFound(
        documents=documents or len(bench.examples) or sum(len(batch.ids) for batch in bench.batches),
        tokens=max((len(found.document) for found in near.values()), default=0),
        divergences=_divergences(near, documents),
        layers=_layers(bench, by_document=not shares),
        outputs=_outputs(bench, wanted) if spoken and bench.questions else (),
        prompts=min(wanted.prompts, len(bench.questions)) if spoken else 0,
        embedded_by=_embedder(wanted) if spoken else "",
        compared_by="tokens" if shares else "documents",
    )


def shares_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two models cut text into the same tokens."""
    return one is other or vocabulary_fingerprint(one) == vocabulary_fingerprint(other)


def near_teacher(bench: Bench) -> dict[Role, Nearness]:
    """Every model, the teacher itself among them, beside the teacher on the held-out documents."""
    models, size, told = bench.models, len(bench.tokenizer), bench.teacher_reads or bench.examples
    says = say(models["teacher"], told, vocab_size=size)
    with working(bench.progress, "comparing token by token", len(bench.examples) * len(models), "documents"):
        return {
            role: nearness(
                model, told if role == "teacher" else bench.examples, says, vocab_size=size, progress=bench.progress
            )
            for role, model in models.items()
        }


def _divergences(near: dict[Role, Nearness], documents: int) -> list[Scored]:
    statistics: dict[Role, dict[str, Statistic]] = {role: found.statistics([*CURVES]) for role, found in near.items()}
    found = scored(statistics, num_examples=documents, kept=()) if near else []
    return [Scored(one.role, one.metrics) for one in found]


def _layers(bench: Bench, *, by_document: bool) -> list[LayerLikeness]:
    ours = [to_batch([[example]]) for example in bench.examples] or list(bench.batches)
    told = None if bench.teacher_reads is None else [to_batch([[example]]) for example in bench.teacher_reads]
    read: dict[Role, list[Batch]] = {role: told if told and role == "teacher" else ours for role in bench.models}
    with working(bench.progress, "comparing layers", len(bench.models) - 1, "models"):
        found = compared_states(bench.models, read, by_document=by_document)
        bench.progress.advance(len(found))
    return found


def _outputs(bench: Bench, wanted: SimilarityConfig) -> list[OutputLikeness]:
    questions = bench.questions[: wanted.prompts]
    sampling = Sampling(temperature=0.0, max_new_tokens=wanted.max_new_tokens)
    written: dict[Role, list[str]] = {}
    for one in bench.contestants:
        tokenizer = bench.reads_with(one.role)
        replies = answers_of(one, tokenizer, questions, sampling=sampling, folder=bench.folder, progress=bench.progress)
        written[one.role] = [reply.text for reply in replies]
    if wanted.sentence_model is not None:
        embed_texts = embedded_by_model(wanted.sentence_model)
    else:
        embed_texts = embedded_by_states(bench.models["teacher"], bench.teacher_tokenizer)
    return output_likeness(written, embed_texts)


def _embedder(wanted: SimilarityConfig) -> str:
    if wanted.sentence_model is None:
        return "the mean of the teacher's own last states"
    return display_name(wanted.sentence_model)
