"""Which language a text is in, as `py3langid` tells it: a small model of its own, which needs no network."""

from functools import cache
from importlib.util import find_spec
from typing import Any


@cache
def identifier() -> Any | None:
    """The model, whose probabilities add up to one: `classify(text)` gives a code of two letters and how sure it is. None where
    the package is not installed.

    Source: Lui and Baldwin, 2012, langid.py: An Off-the-shelf Language Identification Tool.
    """
    if find_spec("py3langid") is None:
        return None
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
