"""What a teacher's own files say about its licence, and about training on what it writes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "USE_POLICY.md", "NOTICE", "README.md")
"""Where a licence is looked for, in this order."""

_SAYS_WHAT = re.compile(r"\b(outputs?|results?|generated|generations?|synthetic)\b", re.IGNORECASE)
_SAYS_FOR_WHAT = re.compile(
    r"\b(train|training|improv\w+|distil\w*|fine-?tun\w+|develop\w*)\b.{0,160}\bmodels?\b", re.IGNORECASE | re.DOTALL
)
MOST_CHARACTERS = 600
"""Of the sentence that is quoted."""


def licence_of(source: str) -> dict[str, Any]:
    """The licence that a model's card names (or its GGUF file), the files that were looked through, and the sentence in them
    that speaks about training other models on its outputs; empty where none was found, which is no permission.
    """
    files = dict(_files_beside(source))
    card = _front_matter(files.get("README.md", ""))
    named = card.get("license_name") or card.get("license") or _named_in_gguf(source)
    where, sentence = next(
        ((name, found) for name, text in files.items() if (found := sentence_about_outputs(text))), ("", "")
    )
    return {
        "licence": str(named or ""),
        "link": str(card.get("license_link") or ""),
        "looked_in": list(files),
        "about_outputs": sentence,
        "found_in": where,
    }


def sentence_about_outputs(text: str) -> str:
    """The first sentence that speaks both of what a model gives and of making models with it."""
    flat = " ".join(text.split())
    for sentence in re.split(r"(?<=[.;:])\s+", flat):
        if _SAYS_WHAT.search(sentence) and _SAYS_FOR_WHAT.search(sentence):
            return sentence[:MOST_CHARACTERS]
    return ""


def said_about_outputs(found: Mapping[str, Any]) -> str:
    """What a data card says of training on a teacher's outputs: what its files say, or that nothing was found."""
    if found["about_outputs"]:
        return f"{found['found_in']} says: “{found['about_outputs']}”"
    looked = ", ".join(found["looked_in"]) or "no file to look in"
    return f"nothing found about training on its outputs ({looked})"


def _files_beside(source: str) -> Iterator[tuple[str, str]]:
    """The texts of those of `FILES` that are there."""
    path = Path(source).expanduser()
    folder = path.parent if path.is_file() else path
    for name in FILES if source else ():
        file = folder / name
        if not path.exists():
            cached = try_to_load_from_cache(source, name)
            file = Path(cached) if isinstance(cached, str) else file
        if file.is_file():
            yield name, file.read_text(encoding="utf-8", errors="replace")


def _front_matter(text: str) -> Mapping[str, Any]:
    """The YAML at the head of a model card; nothing where there is none that can be read."""
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _named_in_gguf(source: str) -> str:
    """The licence that a GGUF file names in its head."""
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix != ".gguf":
        return ""
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("general.license")
    return "" if field is None else str(field.contents())
