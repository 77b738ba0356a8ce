"""What a grounded answer says beside its words: which passages it cites, what it quotes, and whether it says that they do not
tell. Pure functions on strings."""

import re

from stillhouse.core.lexical import answer_words, says

_CITATION = re.compile(r"\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]")
_QUOTE = re.compile(r"“([^”]+)”|\"([^\"]+)\"|«([^»]+)»")
SHORTEST_QUOTE_WORDS = 3
"""Shorter ones are names and terms, which marks may stand around without a source."""

_SOURCES = r"(?:the |these |those |any |given |provided |above )*(?:passages?|texts?|contexts?|documents?|sources?|information)"
_TELL = r"(?:say|tell|mention|state|contain|include|provide|specify|give|answer|describe|explain|discuss|indicate|address)\w*"
_ABSTENTIONS = re.compile(
    rf"{_SOURCES} (?:(?:do|does|did) not|don't|doesn't|didn't|cannot|can't|never) (?:\w+ ){{0,2}}{_TELL}"
    rf"|(?:is|are|was|were) not (?:\w+ ){{0,2}}{_TELL} (?:\w+ ){{0,2}}{_SOURCES}"
    rf"|(?:not|nowhere) (?:\w+ ){{0,2}}(?:in|by|from) {_SOURCES}"
    rf"|(?:no|not enough|insufficient) (?:\w+ ){{0,2}}(?:information|mention|answer|evidence|details?)\b"
    r"|(?:cannot|can't|can not|could not|couldn't|unable to|not able to|impossible to) (?:be )?(?:\w+ )?"
    r"(?:answer|determine|find|tell|say|know)\w*"
    r"|i (?:do not|don't) (?:have|know|find)\b|\bunanswerable\b"
)


def citations(answer: str) -> list[int]:
    """The numbers of the passages that an answer cites, such as `[2]` or `[1, 3]`, in order, each once."""
    found = [int(number) for group in _CITATION.findall(answer) for number in re.split(r"\s*[,;]\s*", group)]
    return list(dict.fromkeys(found))


def without_citations(answer: str) -> str:
    """The answer without its citations and the space before them: what is held against a right answer."""
    return re.sub(rf"\s*{_CITATION.pattern}", "", answer).strip()


def quotes(answer: str) -> list[str]:
    """What stands between quotation marks, from three words on."""
    found = ["".join(parts).strip() for parts in _QUOTE.findall(answer)]
    return [quote for quote in found if len(answer_words(quote)) >= SHORTEST_QUOTE_WORDS]


def untrue_quotes(answer: str, context: str) -> list[str]:
    """The quotes whose words do not stand so in the context; case, punctuation and articles do not count."""
    return [quote for quote in quotes(answer) if not says(context, quote)]


def abstains(answer: str, *, abstention: str = "") -> bool:
    """Whether an answer says that the passages do not tell: in the words of the `abstention`, or by patterns over its first
    two sentences. An empty answer says nothing, and is counted with them.

    English patterns: blind to other words for it and to other languages, where the `abstention` alone is found. This is
    "not in the context", and no refusal for safety.
    """
    plain = answer.casefold().replace("’", "'").strip()
    if not answer_words(plain) or (abstention and says(plain, abstention)):
        return True
    opening = " ".join(re.split(r"(?<=[.!?])\s+|\n+", plain)[:2])
    return bool(_ABSTENTIONS.search(opening))
