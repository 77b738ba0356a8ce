"""Answers that decline to answer."""

from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from stillhouse.core.files import fingerprint
from stillhouse.data.refusals import refusal_in
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, answers, each, quoted
from stillhouse.synthesis.records import Record


class RefusalsConfig(FilterSettings):
    """Drops answers that decline to answer, told by how their first sentence begins."""

    name: Literal["refusals"] = "refusals"
    openings: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """More beginnings of first sentences, as plain text, such as those of another language; small and capital letters alike."""
    keep: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the refusals that is kept, so that a student learns to refuse too: always the same ones. 1 keeps all."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        kept = f" {self.keep:.0%} of them are kept." if self.keep else ""
        said = f"Drops answers whose first sentence begins like a refusal.{kept}"
        return NamedFilter("refusals", said, each(self._reason))

    def _reason(self, record: Record) -> str:
        for answer in answers(record):
            shown = refusal_in(answer.text, self.openings)
            if shown and not _is_in_share(record, self.keep):
                return f"answer refuses (it begins like {quoted(shown)})"
        return ""


def _is_in_share(record: Record, share: float) -> bool:
    number = int(fingerprint([list(map(dict, record.messages))]), 16)
    return number < share * 2**64
