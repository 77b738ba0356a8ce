"""How like a reference a text is, by the libraries that everybody compares with, each over any draw of the examples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import StillhouseError
from stillhouse.core.lexical import best_of, exact_match, token_f1
from stillhouse.evaluation.intervals import Draws, Statistic, Sums, ratio
from stillhouse.evaluation.tasks.config import GenerationConfig

References = Sequence[Sequence[str]]
"""What would be right, for each example: one text or several."""

ROUGE = ("rouge1", "rouge2", "rougeL")


def text_statistics(
    task: GenerationConfig, texts: Sequence[str], references: References
) -> tuple[dict[str, Statistic], list[str]]:
    """The task's metrics, and how each was made, in the words of its library.

    Raises:
        StillhouseError: if a library is missing.
    """
    found: dict[str, Statistic] = {}
    notes: list[str] = []
    for name in task.metrics:
        match name:
            case "bleu":
                found["bleu"], signature = bleu(texts, references, tokenizer=task.bleu_tokenizer)
                notes.append(signature)
            case "chrf":
                found["chrf"], signature = chrf(texts, references)
                notes.append(signature)
            case "rouge":
                found |= rouge(texts, references)
                notes.append("ROUGE: rouge-score, F-measure, without stemming, the best of several references")
            case "exact_match":
                found[name] = mean([best_of(exact_match, *pair) for pair in zip(texts, references, strict=True)])
            case "f1":
                found[name] = mean([best_of(token_f1, *pair) for pair in zip(texts, references, strict=True)])
    return found, notes


def mean(values: Sequence[float] | Sums) -> Statistic:
    """The mean over examples."""
    return ratio(np.asarray(values, dtype=np.float64), np.ones(len(values)))


def bleu(texts: Sequence[str], references: References, *, tokenizer: str = "13a") -> tuple[Statistic, str]:
    """Corpus BLEU as a share, and its signature: sacrebleu's own, over any draw of the examples."""
    made: Any = _sacrebleu().BLEU(tokenize=tokenizer)
    statistic = _by_sacrebleu(made, texts, references)
    return statistic, f"BLEU {made.get_signature()}"  # which knows by now how many references there are


def chrf(texts: Sequence[str], references: References) -> tuple[Statistic, str]:
    """Corpus chrF2 as a share, and its signature: sacrebleu's own, over any draw of the examples."""
    made: Any = _sacrebleu().CHRF()
    statistic = _by_sacrebleu(made, texts, references)
    return statistic, f"chrF2 {made.get_signature()}"


def _by_sacrebleu(metric: Any, texts: Sequence[str], references: References) -> Statistic:
    # Sums over the examples, from which the library itself makes a score: what its own bootstrap does.
    sums: NDArray[np.int64] = np.array(metric._extract_corpus_statistics(list(texts), _streams(references)))

    def score(counts: Sums) -> float:
        return float(metric._compute_score_from_stats([round(float(count)) for count in counts]).score) / 100

    def statistic(draws: Draws) -> Sums:
        return np.array([score(counts) for counts in draws @ sums])

    return statistic


def _streams(references: References) -> list[list[str | None]]:
    """The first reference of each example, then the second of each, None where there is none: as sacrebleu reads them."""
    most = max(map(len, references))
    return [[own[number] if number < len(own) else None for own in references] for number in range(most)]


def rouge(texts: Sequence[str], references: References) -> dict[str, Statistic]:
    """ROUGE-1, -2 and -L: the mean F-measure over the examples. Its words are of a to z and 0 to 9: blind to other scripts."""
    scorer = _rouge_score()
    scores = [scorer.score_multi(list(own), text) for text, own in zip(texts, references, strict=True)]
    return {name.lower(): mean([score[name].fmeasure for score in scores]) for name in ROUGE}


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError:
        raise StillhouseError(_missing("bleu and chrf", "sacrebleu")) from None
    return metrics


def _rouge_score() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise StillhouseError(_missing("rouge", "rouge-score")) from None
    return rouge_scorer.RougeScorer(list(ROUGE))


def check_libraries(task: GenerationConfig) -> None:
    """Raises: StillhouseError if a library is missing that the task's metrics need."""
    needs: dict[str, Callable[[], Any]] = {"bleu": _sacrebleu, "chrf": _sacrebleu, "rouge": _rouge_score}
    for name in task.metrics:
        if name in needs:
            needs[name]()


def _missing(metrics: str, library: str) -> str:
    return (
        f"evaluation.tasks asks for {metrics}, which need {library}: pip install 'stillhouse[eval]', or choose other "
        "metrics."
    )
