"""Is a model as often right as it is sure: of the next token, of one of several answers, and of what its teacher says."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.measures import Bin, Reliability
from stillhouse.core.results import Role
from stillhouse.evaluation.intervals import Sampled, Statistic, Sums, bootstrapped, ratio
from stillhouse.evaluation.statistics import BINS, calibration_error, quotient, summed


@dataclass(frozen=True)
class Confident:
    """Choices, with how sure the model was of each and whether it was right."""

    document: NDArray[np.int64]
    """To which document, or question, each belongs."""
    confidence: Sums
    """The probability of what was chosen."""
    hits: Sums
    """1 where it was right."""
    brier: Sums
    """The squared distance of all probabilities from what is so: sum of p^2, less twice the right one's p, and 1."""

    @property
    def num_documents(self) -> int:
        """Documents that anything was chosen in, and those before them."""
        return int(self.document.max()) + 1

    def statistics(self) -> dict[str, Statistic]:
        """Calibration error and Brier score over any draw of the documents."""
        ones = np.ones_like(self.brier)
        return {
            "calibration_error": calibration_error(
                self.confidence, self.hits, self.document, num_documents=self.num_documents
            ),
            "brier": ratio(*(summed(part, self.document, self.num_documents) for part in (self.brier, ones))),
        }

    def bins(self) -> dict[int, Statistic]:
        """The accuracy of the answers in each bin of confidence that has any."""
        return {number: self._accuracy(self.bin_of == number) for number in np.unique(self.bin_of).tolist()}

    @property
    def bin_of(self) -> NDArray[np.int64]:
        """The bin of each answer, of equal width and closed above, as `calibration_error` has them."""
        return np.clip(np.ceil(self.confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)

    def _accuracy(self, chosen: NDArray[np.bool_]) -> Statistic:
        parts = (self.hits * chosen, chosen.astype(np.float64))
        right, count = (summed(part, self.document, self.num_documents) for part in parts)
        return lambda draws: quotient(draws @ right, draws @ count)


def reliability(role: Role, of: str, found: Confident) -> Reliability:
    """One model's, with the intervals of documents drawn again and again."""
    whole = bootstrapped(found.statistics(), set_sizes=[found.num_documents])
    by_bin = bootstrapped(found.bins(), set_sizes=[found.num_documents])
    error, brier = (whole[name].interval() for name in ("calibration_error", "brier"))
    return Reliability(role, of, error, brier, [_bin(found, number, accuracy) for number, accuracy in by_bin.items()])


def _bin(found: Confident, number: int, accuracy: Sampled) -> Bin:
    inside = found.bin_of == number
    return Bin(int(inside.sum()), float(found.confidence[inside].mean()), accuracy.interval())


def of_choices(probabilities: NDArray[np.float64], right: NDArray[np.int64]) -> Confident:
    """One choice a question among several: [questions, choices], 0 where a question has fewer."""
    chosen, questions = probabilities.argmax(-1), np.arange(len(right))
    squares = (probabilities**2).sum(-1) - 2 * probabilities[questions, right] + 1
    return Confident(questions, probabilities[questions, chosen], (chosen == right).astype(np.float64), squares)
