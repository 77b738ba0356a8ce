"""How numbers are written, once for the terminal, the report and the model card.

Plain ASCII throughout, so that a log file can hold it; the report typesets it afterwards.
"""

import math
import re
import unicodedata
from collections.abc import Sequence

from stillhouse.core.measures import MEASURES
from stillhouse.core.results import METRICS, Interval, Metric

EMPTY = "n/a"
MOST_PLACES = 4


def describe(name: str) -> Metric:
    """The metric of this name; one that nothing is known of keeps its own name and says nothing else."""
    return METRICS.get(name) or MEASURES.get(name) or Metric(name.replace("_", " "), "", "higher", "")


MOST_SPELT_OUT = 1e12
"""From which on a number is written with an exponent: no table has room for all of its digits."""


def number(value: float, places: int = 0) -> str:
    """A number with thousands separated and a fixed count of decimals; `1.4e26` where it has too many digits."""
    if math.isnan(value):
        return EMPTY
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if abs(value) >= MOST_SPELT_OUT:
        return f"{value:.1e}".replace("e+", "e")
    rounded = round(value, places) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{rounded:,.{places}f}"


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits: 1.68, 16.8, 168, 1,684."""
    if not math.isfinite(value) or value == 0:
        return number(value)
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 9.999 is written 10.0
    return number(value, max(0, digits - 1 - exponent))


def short(value: float) -> str:
    """Up to four significant digits and no more than needed: `2.5`, `0.1`, `1.5e-4`, `20 k`."""
    if not math.isfinite(value) or value == 0:
        return number(value)
    if abs(value) >= 10_000:
        scaled_value, prefix = _prefixed(value, ("", "k", "M", "B", "T"))
        return f"{scaled_value:.4g} {prefix}".rstrip()
    if abs(value) >= 1e-3:
        return f"{value:.4g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def percent(share: float, places: int = 0) -> str:
    """A share as a percentage: 0.6 is `60 %`."""
    text = number(100 * share, places)
    return text if text == EMPTY else f"{text} %"


def ratio(value: float) -> str:
    """A factor: `1.7x`."""
    return f"{significant(value, 2)}x"


def si(value: float, unit: str = "") -> str:
    """Three significant digits and a decimal prefix: `135 M`, `1.71 B` parameters, `163 MB`."""
    shown, prefix = _prefixed(value, ("", "k", "M", "G", "T", "P") if unit else ("", "k", "M", "B", "T"))
    written = number(shown) if not prefix and float(value).is_integer() else significant(shown)
    return f"{written} {prefix}{unit}".rstrip()


def _prefixed(value: float, prefixes: Sequence[str]) -> tuple[float, str]:
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:  # 999.5 would be written 1000
        value, power = value / 1000, power + 1
    return value, prefixes[power]


def count(value: float) -> str:
    """A count in full while it can be read at a glance, then with a prefix: `20,000`, `1.2 M`."""
    return number(value) if abs(value) < 100_000 else si(value)


def duration(seconds: float) -> str:
    """Two units at most: `0.8 s`, `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return EMPTY
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        whole, rest = divmod(round(seconds / part), size // part)
        if whole:
            return f"{whole} {name} {rest} {part_name}" if rest else f"{whole} {name}"
    return f"{round(seconds)} s"


def places_for(interval: Interval) -> int:
    """Decimals such that the last digit written is at most half of the interval's half-width.

    A bound that is not zero gets the digits that keep it from looking like zero: `no gain` and `a gain` must not be
    written alike.
    """
    half_width = max(interval.high - interval.value, interval.value - interval.low)
    if not math.isfinite(half_width) or half_width <= 0:
        return 2
    places = min(MOST_PLACES, max(0, math.ceil(-math.log10(half_width / 2))))
    bounds = [bound for bound in (interval.low, interval.high) if bound]
    while places < MOST_PLACES and any(round(bound, places) == 0 for bound in bounds):
        places += 1
    return places


def scaled(interval: Interval, unit: str) -> Interval:
    """The interval in the unit in which it is written: shares become percentages."""
    if unit != "share":
        return interval
    return Interval(100 * interval.value, 100 * interval.low, 100 * interval.high)


def is_exact(interval: Interval) -> bool:
    """Whether the interval has no width but what rounding left, as for the teacher measured against itself."""
    return all(math.isclose(interval.value, bound, rel_tol=1e-9) for bound in (interval.low, interval.high))


def value_text(interval: Interval, unit: str) -> str:
    """The value with its unit: `71 %`, `0.48 nats`."""
    interval = scaled(interval, unit)
    exact = is_exact(interval) and math.isfinite(interval.value)
    text = (
        f"{interval.value:.4g}"
        if exact and abs(interval.value) < 1000
        else number(interval.value, places_for(interval))
    )
    return f"{text} {written_unit(unit)}".rstrip()


def bounds_text(interval: Interval, unit: str) -> str:
    """The bounds in brackets: `[69, 73]`; nothing for an exact value; `[unknown]` where one document is all there was."""
    if is_exact(interval):
        return ""
    if math.isinf(interval.low) and math.isinf(interval.high):
        return "[unknown]"
    interval = scaled(interval, unit)
    places = places_for(interval)
    return f"[{number(interval.low, places)}, {number(interval.high, places)}]"


def interval_text(interval: Interval, unit: str) -> str:
    """Value, unit and bounds: `71 % [69, 73]`."""
    return f"{value_text(interval, unit)} {bounds_text(interval, unit)}".rstrip()


def difference_text(interval: Interval, unit: str) -> str:
    """A difference with its bounds; between percentages it is counted in points: `5.1 points [3.0, 7.2]`."""
    if unit != "share":
        return interval_text(interval, unit)
    text = interval_text(scaled(interval, unit), "points")
    return re.sub(r"^(-?1) points", r"\1 point", text)


def written_unit(unit: str) -> str:
    """The unit as written behind a number."""
    return "%" if unit == "share" else unit


def clean(text: str) -> str:
    """Text without control characters, direction overrides and lone surrogates, each replaced by U+FFFD.

    What a model or a file wrote may hold anything; none of these may reach a terminal, a file name or YAML.
    """
    return "".join(character if _is_harmless(character) else "\ufffd" for character in text.replace("\r\n", "\n"))


def _is_harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    # Cf holds the direction overrides but also the joiners that emoji and Indic scripts need.
    overrides = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in overrides + "\u2028\u2029"


def one_line(text: str) -> str:
    """Clean text with every run of white space made one space."""
    return " ".join(clean(text).split())
