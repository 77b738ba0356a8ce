"""What a recipe can say about when an answer is right."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.plugins import check_function_name, load_function, refuse_plugins
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.rewards import reference_of
from stillhouse.synthesis.unit_tests import all_pass, code_of

Check = Callable[[Sequence[Record]], list[bool]]
"""For each answer whether it is right."""

Read = Literal["auto", "marked", "last_number", "text"]
"""Where the result of an answer stands."""

NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:/\d+)?")
MARKED = re.compile(r"####[ \t]*([^\n]+)")


def result_of(text: str, *, read: Read = "auto") -> str | None:
    """What an answer comes to, in a form that can be compared; None where it says nothing of the kind.

    `auto` takes what is marked (the last `\\boxed{18}`, or `#### 18` as in GSM8K), or else the last number, or else all of
    the text; the others take only what they name.
    """
    marked = _marked(text)
    if marked is not None and read in ("auto", "marked"):
        return normalised(marked)
    numbers = [number for number in map(_number, NUMBER.findall(text)) if number is not None]
    if numbers and read in ("auto", "last_number"):
        return str(numbers[-1])
    return (normalised(text) or None) if read in ("auto", "text") else None


def normalised(text: str) -> str:
    """A number as a fraction in lowest terms, whatever units of money or per cent stand beside it; else small letters, single
    spaces, and no full stop at the end.
    """
    plain = " ".join(text.strip().strip("$*`").lower().split()).rstrip(".").strip()
    number = _number(re.sub(r"^[$€£]\s*|\s*(?:\\?%|dollars?|euros?)$", "", plain))
    return plain if number is None else str(number)


def _number(text: str) -> Fraction | None:
    if not NUMBER.fullmatch(text):  # a Fraction would read 1e999999999, too
        return None
    try:
        return Fraction(text.replace(",", "").removesuffix("."))
    except (ValueError, ZeroDivisionError):
        return None


def _marked(text: str) -> str | None:
    """What stands in the last `\\boxed{}`, or else behind the last `####`, which is a heading elsewhere."""
    start = text.rfind("\\boxed{")
    if start >= 0:
        return _in_braces(text[start + len("\\boxed{") :])
    found = MARKED.findall(text)
    return str(found[-1]) if found else None


def _in_braces(text: str) -> str | None:
    """All up to the brace that closes what is open; None where none does."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:place]
    return None


class ExactCheckConfig(Config):
    """The answer comes to the same as a reference answer: a number, or a text after normalisation."""

    kind: Literal["exact"] = "exact"
    read: Read = "auto"
    """Where the result stands: `marked` behind `####` or in `\\boxed{}`, the `last_number`, the whole `text`, or `auto`: what
    is marked, or else the last number where the reference is a number, or else the text."""
    reference: str = "reference"
    """Under which key of a record's lineage the reference answer stands."""

    def build(self) -> Check:
        """The check. It raises a DataError at a record without a reference."""

        def check(records: Sequence[Record]) -> list[bool]:
            return [self._is_right(record) for record in records]

        return check

    def _is_right(self, record: Record) -> bool:
        reference = reference_of(record, self.reference, needs="check of kind exact")
        read: Read = "text" if self.read == "text" else "auto"
        wanted, is_number = result_of(reference, read=read), _marked(reference) is not None
        is_number = is_number or _number(normalised(reference)) is not None
        if self.read == "auto" and not is_number:  # of "the year 1066" all is wanted, not 1066
            wanted = normalised(reference)
            marked = _marked(record.answer)
            return wanted == normalised(record.answer if marked is None else marked)
        return wanted is not None and result_of(record.answer, read=self.read) == wanted


class RegexCheckConfig(Config):
    """The answer matches a regular expression."""

    kind: Literal["regex"] = "regex"
    pattern: str
    """As Python's `re` has it."""
    match: Literal["anywhere", "whole"] = "anywhere"
    """Whether some part of the answer is to match, or all of it."""

    @field_validator("pattern")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}. Mend it.") from None
        return value

    def build(self) -> Check:
        """The check."""
        pattern = re.compile(self.pattern)
        matches = pattern.search if self.match == "anywhere" else pattern.fullmatch
        return lambda records: [matches(record.answer) is not None for record in records]


class UnitTestCheckConfig(Config):
    """The program in the answer passes tests that came with the question, as in MBPP. It runs what a model wrote."""

    kind: Literal["unit_tests"] = "unit_tests"
    tests: str = "tests"
    """Under which key of a record's lineage the tests stand: lines of Python such as `assert add(1, 2) == 3`, one text or a
    list."""
    seconds: PositiveFloat = 5.0
    """For a program and its tests together."""
    memory_mb: PositiveInt = 1024

    def build(self) -> Check:
        """The check.

        Raises:
            StillhouseError: if code may not run.
        """
        refuse_plugins("choose.check.kind", self.kind, does="runs programs that a model wrote")

        def check(records: Sequence[Record]) -> list[bool]:
            programs = [(code_of(record.answer), self._tests_of(record)) for record in records]
            return all_pass(programs, seconds=self.seconds, memory_mb=self.memory_mb)

        return check

    def _tests_of(self, record: Record) -> list[str]:
        found = record.lineage.get(self.tests)
        tests = [found] if isinstance(found, str) else list(found or ())
        if not tests or not all(isinstance(test, str) for test in tests):
            raise DataError(
                f"the check of kind unit_tests needs tests, but the question {record.question[:60]!r} has {found!r} under "
                f"{self.tests!r}. Give every question a text or a list of texts there, or name another key."
            )
        return tests


class FunctionCheckConfig(Config):
    """A function of the user's own: from a record (`question`, `answer`, `messages`, `lineage`) to true or false."""

    kind: Literal["function"] = "function"
    function: str
    """As `module:function`. It only runs with `--allow-plugins`."""

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        return check_function_name(value, key="function")

    def build(self) -> Check:
        """The check.

        Raises:
            StillhouseError: if code may not run, or there is no such function.
        """
        function = load_function(self.function, key="choose.check.function")

        def judged(record: Record) -> bool:
            value = function(record)
            if not isinstance(value, bool):
                raise ModelError(f"{self.function} gave {value!r} for an answer. It should give True or False.")
            return value

        return lambda records: [judged(record) for record in records]


CheckConfig = Annotated[
    ExactCheckConfig | RegexCheckConfig | UnitTestCheckConfig | FunctionCheckConfig, Field(discriminator="kind")
]
"""A recipe's checker."""
