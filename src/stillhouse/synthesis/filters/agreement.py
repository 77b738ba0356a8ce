"""How far several answers to one question agree: where a model is not sure, they scatter."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from stillhouse.core.rouge import rouge_l_of_texts, words_of
from stillhouse.synthesis.checkers import result_of
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, asked_as
from stillhouse.synthesis.records import Record


class AgreementConfig(FilterSettings):
    """Drops answers that the other answers to their question do not bear out. Needs `answers.samples` of 2 or more.

    Source: Wang et al., 2022 (self-consistency), arXiv:2203.11171.
    """

    name: Literal["agreement"] = "agreement"
    by: Literal["result", "text", "rouge_l"]
    """What is compared: the `result`, such as a number (what is boxed or stands behind `####`, or else the last number); all of
    the `text`, but for capitals and punctuation; or how alike the texts are (`rouge_l`), for open answers."""
    least: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of all answers to the question, this one among them, that come to the same; for `rouge_l` the mean over the
    others."""
    samples: Annotated[int, Field(ge=2)] = 2
    """Answers without which nothing can be said, so that the record goes."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        said = {
            "result": f"Drops answers whose result fewer than {self.least:.0%} of the question's answers come to.",
            "text": f"Drops answers whose words fewer than {self.least:.0%} of the question's answers have.",
            "rouge_l": f"Drops answers whose mean ROUGE-L to the question's other answers is below {self.least:g}.",
        }
        return NamedFilter("agreement", said[self.by], self._reasons)

    def _reasons(self, records: Sequence[Record]) -> list[str]:
        """The other answers stand beside a record, or are records of their own."""
        together: dict[str, list[Record]] = {}
        for record in records:
            together.setdefault(asked_as(record), []).append(record)
        reasons = []
        for record in records:
            beside = together[asked_as(record)] if asked_as(record) else []
            others = record.others or [other for other in beside if other is not record]
            reasons.append(self._reason(record.answer, [other.answer for other in others]) if record.answer else "")
        return reasons

    def _reason(self, answer: str, others: Sequence[str]) -> str:
        if 1 + len(others) < self.samples:
            return f"too few answers to compare ({1 + len(others)}, {self.samples} wanted)"
        if self.by == "rouge_l":
            mean = sum(rouge_l_of_texts(answer, other) for other in others) / len(others)
            return f"answers disagree (ROUGE-L {mean:.2f}, {self.least:g} wanted)" if mean < self.least else ""
        found = [_result(one, self.by) for one in (answer, *others)]
        if found[0] is None:
            return "answer without a result (no number, and nothing marked)"
        alike = found.count(found[0])
        return (
            f"answers disagree ({alike} of {len(found)}, {self.least:.0%} wanted)"
            if alike < self.least * len(found)
            else ""
        )


def _result(answer: str, by: Literal["result", "text", "rouge_l"]) -> str | None:
    """What has to be the same; None where there is nothing of the kind."""
    if by == "text":
        return " ".join(words_of(answer))
    return result_of(answer, read="marked") or result_of(answer, read="last_number")
