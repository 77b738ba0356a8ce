"""Two sides that share no text: one to learn from, and one that nobody trains on."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeVar, runtime_checkable

from stillhouse.core.errors import DataError
from stillhouse.data.tables import DOCUMENT_END

DOCUMENTS_HINT = f"; in a .txt file, {DOCUMENT_END} separates them"


@runtime_checkable
class HasText(Hashable, Protocol):
    """A row that is known again by its text."""

    @property
    def text(self) -> str:
        """What must not stand on both sides."""


AnyRow = TypeVar("AnyRow", bound=HasText)


def split_held_out(
    rows: Sequence[AnyRow],
    *,
    share: float,
    spread_over: Callable[[AnyRow], Any] | None = None,
    hint: str = DOCUMENTS_HINT,
) -> tuple[list[AnyRow], list[AnyRow]]:
    """Rows to train on, and rows held out: this share of the texts, evenly spread over the file, or over what `spread_over`
    says of each, such as its class. Rows with the same text go to the same side, so that nothing is judged that was learnt;
    a row that comes again is left out. The `hint` ends what is said where there are too few.

    Raises:
        DataError: if either side is left empty.
    """
    in_order = rows if spread_over is None else sorted(rows, key=spread_over)
    texts = list(dict.fromkeys(row.text for row in in_order))
    part = Fraction(str(share))  # exactly as it was written: no binary number is 0.1
    judged = {text for number, text in enumerate(texts) if int((number + 1) * part) > int(number * part)}
    unique = list(dict.fromkeys(rows))
    train = [row for row in unique if row.text not in judged]
    held_out = [row for row in unique if row.text in judged]
    if not held_out or not train:
        raise DataError(
            f"{len(texts)} different texts are too few to hold {share:.0%} of them out. Give at least "
            f"{math.ceil(1 / part)}{hint}."
        )
    return train, held_out


def without_texts(rows: Iterable[AnyRow], texts: Iterable[str], *, key: str) -> list[AnyRow]:
    """Each row once, save those whose text is among `texts`, which the recipe names under `key`.

    Raises:
        DataError: if none is left.
    """
    held_out = set(texts)
    left = [row for row in dict.fromkeys(rows) if row.text not in held_out]
    if not left:
        raise DataError(f"every text of data.path is in {key} too, so none is left to train on. Give others.")
    return left
