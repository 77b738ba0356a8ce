"""How answers decline to answer, told by how their first sentence begins."""

import re
from collections.abc import Sequence

_CANNOT = (
    r"(?:can't|cannot|can not|could not|couldn't|won't|will not|am unable|'m unable|unable to|am not able|'m not able"
    r"|not able to|must decline|have to decline|am not allowed|'m not allowed|not comfortable|not capable|not possible for me)"
)
_ABILITY = r"(?:access|abilit(?:y|ies)|capabilit(?:y|ies)|capacity|functionality|permission)"
_LACKS = (
    rf"(?:(?:don't|do not) (?:\w+ )?(?:have|possess) (?:\w+ ){{0,3}}?{_ABILITY}\b|lack (?:\w+ ){{0,3}}?{_ABILITY}\b"
    rf"|have no (?:\w+ )?(?:{_ABILITY}|way of|way to|means of|means to)\b)"
)
_BEYOND = (
    r"(?:beyond|outside(?: of)?|not within) (?:the (?:scope|limits|bounds) of )?my (?:\w+ )?"
    r"(?:abilit|capabilit|scope|programming|knowledge|expertise|training)"
)
_DO = (
    r"(?:help|assist|provide|fulfil|fulfill|comply|answer|engage|create|generate|write|support|do that|do this|discuss|offer"
    r"|give|share|access|browse|participate|respond|complete|continue|produce|show|advise|perform|process)"
)
_AI = (
    r"(?:ai|artificial intelligence|language model|virtual assistant|digital assistant|automated assistant|chatbot|chat bot"
    r"|machine learning model|computer program)(?: (?:language|chat))?(?: (?:model|assistant|system|program|agent|bot))?"
)
_MODEL = rf"(?:an?|your) (?:[\w-]+ ){{0,3}}?(?:{_AI}|machine)"
_SPOKEN = r"[\W_]*(?:,| i\b| (?:developed|created|made|trained|designed|built|programmed)\b)"
"""What follows where somebody speaks of himself: `as an AI researcher` is another."""
_AS_MODEL = rf"(?:as|being|since i(?:'m| am)|because i(?:'m| am)) {_MODEL}\b{_SPOKEN}"

OPENINGS: Sequence[tuple[str, str]] = (
    (
        "I'm sorry, but I can't",
        rf"(?:i'm|i am|we're|we are)? ?(?:\w+ )?(?:sorry|afraid)\b.*\b(?:{_CANNOT}|{_LACKS}|{_BEYOND}|{_AS_MODEL})",
    ),
    (
        "I apologise, but I can't",
        rf"(?:i (?:\w+ )?apologi[sz]e|my (?:\w+ )?apologies|apologies)\b.*\b(?:{_CANNOT}|{_LACKS}|{_BEYOND}|{_AS_MODEL})",
    ),
    ("I can't help with that", rf"i (?:\w+ )?(?:can't|cannot|can not|won't|will not) (?:\w+ )?{_DO}\b"),
    (
        "I'm not able to",
        r"i(?:'m| am) (?:\w+ )?(?:unable|not (?:\w+ )?(?:able|allowed|permitted|programmed|designed|capable|equipped))\b"
        r"|i (?:was not|wasn't) (?:designed|programmed|built|trained) to\b",
    ),
    ("I must decline", r"i (?:must|have to|need to|respectfully) (?:\w+ )?(?:decline|refuse)\b"),
    ("As an AI language model, I", _AS_MODEL),
    ("I'm an AI, so I can't", rf"i(?:'m| am) (?:just |only |merely )?{_MODEL}\b.*\b(?:{_CANNOT}|don't|do not)"),
    ("I don't have access to", rf"i (?:\w+ )?{_LACKS}"),
    ("That is beyond my abilities", rf"(?:that|this|it|your \w+)(?:'s| is| falls| lies| goes)? (?:\w+ )?{_BEYOND}"),
    (
        "Unfortunately, I can't",
        rf"(?:unfortunately|regrettably|sadly),? (?:but )?(?:i(?: |'m |am )*(?:\w+ )?(?:{_CANNOT}|{_LACKS})|{_AS_MODEL})",
    ),
    (
        "It is not possible for me to",
        r"(?:it(?:'s| is) (?:not possible|impossible)|there(?:'s| is) no way) for me to\b",
    ),
    ("I don't feel comfortable", r"i (?:don't|do not) feel comfortable\b"),
)
"""What refusals begin with, each with the pattern that its first sentence matches from its first letter on; in English. A
sorry or an apology alone is none: `I'm sorry to hear that` is kind."""

_PATTERNS = [(shown, re.compile(pattern)) for shown, pattern in OPENINGS]
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
_BEFORE = re.compile(r"^(?:[\W_]|(?:hi|hello|hey|oh|well|ok|okay|thank you|thanks)\b[,.! ]+)+", re.IGNORECASE)


def refusal_in(answer: str, openings: Sequence[str] = ()) -> str:
    """The opening that the answer's first sentence begins with; empty where it is no refusal."""
    first = first_sentence(answer)
    own = next((opening for opening in openings if first.startswith(_plain(opening))), "")
    return own or next((shown for shown, pattern in _PATTERNS if pattern.match(first)), "")


def first_sentence(text: str) -> str:
    """The first sentence in small letters, behind greetings and marks."""
    return _SENTENCE_END.split(_BEFORE.sub("", _plain(text.strip())), maxsplit=1)[0]


def _plain(text: str) -> str:
    return text.casefold().replace("’", "'")
