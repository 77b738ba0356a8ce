"""What a model wrote when it was asked for a list, or for one thing alone."""

import re

_ITEM = re.compile(r"^\s*(?:\d{1,3}\s*[.):]|[-*•])(?:\s+(.*)|)$")
_ANNOUNCED = re.compile(r"^\**(?:the\s+)?(?:question|task|prompt)(?:\s+is)?\s*:\**\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "`": "`"}


def list_items(text: str, *, finished: bool = True) -> list[str]:
    """The entries of a numbered or bulleted list; lines that go on belong to the entry before, what stands ahead of the first
    belongs to none. Where the text was cut off, its last entry is left out."""
    items: list[list[str]] = []
    for line in text.splitlines():
        found = _ITEM.match(line)
        if found:
            items.append([found[1] or ""])
        elif items and line.strip():
            items[-1].append(line.strip())
    whole = items if finished else items[:-1]
    return [cleaned for item in whole if (cleaned := unquoted("\n".join(item)))]


def one_item(text: str, *, finished: bool = True) -> list[str]:
    """The one thing that was asked for, without a number, quotes or a line that announces it; nothing where it was cut off."""
    if not finished:
        return []
    lines = text.strip().splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith(":"):
        lines = lines[1:]
    rest = "\n".join(lines).strip()
    numbered = list_items(rest)
    cleaned = numbered[0] if numbered and _ITEM.match(rest.splitlines()[0]) else unquoted(rest)
    cleaned = unquoted(_ANNOUNCED.sub("", cleaned))
    return [cleaned] if cleaned else []


def unquoted(text: str) -> str:
    """The text without quotes, or marks of bold type, around all of it."""
    text = text.strip()
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        text = text[2:-2].strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def names_in(text: str, *, finished: bool = True) -> list[str]:
    """The entries of a list without what is said about each: `1. **Bread**: how it is baked` names Bread. Numbers alone are no
    names."""
    items = (item.splitlines()[0] for item in list_items(text, finished=finished))
    names = (re.split(r"\*\*\s*:|:\s|:$|\s[-–—]\s", item)[0] for item in items)
    found = (item.strip(" *.\"'") for item in names)
    return [name for name in found if any(character.isalpha() for character in name)]
