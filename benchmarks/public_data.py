"""Public data for the benchmarks, from a folder that holds it: benchmarks/README.md lists the files and their sources."""

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any


def sentences(data: Path, *, others: int, seed: int = 0) -> list[str]:
    """All sentences of the STS training pairs, and as many `others` at most of other kinds, drawn alike from each kind.

    None of the STS pairs to judge by is read, nor any score.
    """
    own = [text for row in table(data / "sts/stsb_open_train.tsv") for text in (row["sentence1"], row["sentence2"])]
    kinds = [
        [row["text"] for row in table(data / "classification/banking77_train.csv")],
        [row["text"] for row in table(data / "classification/mr_polarity.tsv")],
        [row[0] for row in table(data / "classification/goemotions_train.tsv", header=False)],
        [row["question"] for row in json_lines(data / "retrieval/medquad_qa.jsonl.gz")],
        [row[1] for row in table(data / "multiple_choice/codah.tsv", header=False)],
        [row["Question Stem"] for row in table(data / "multiple_choice/openbookqa_train.tsv")],
    ]
    drawn = [text for kind in kinds for text in _draw(kind, others // len(kinds), seed=seed)]
    return list(dict.fromkeys(text.strip() for text in [*own, *drawn] if text.strip()))


def texts(data: Path, *, seed: int = 0) -> list[str]:
    """Stories, encyclopedia paragraphs and dialogue, shuffled together."""
    stories = (data / "lm/tinystories_v2_sample.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    sections = [" ".join(row["candidates"]) for row in _json(data / "retrieval/selqa_dev.json")]
    articles = _json(data / "rag_qa/xquad_en.json")["data"]
    paragraphs = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    replies = [
        text for tree in json_lines(data / "instructions/oasst_en_100_trees.jsonl") for text in _said(tree["prompt"])
    ]
    found = list(dict.fromkeys(text.strip() for text in [*stories, *sections, *paragraphs, *replies] if text.strip()))
    return _draw(found, len(found), seed=seed)


def _said(message: Any) -> Iterator[str]:
    yield message["text"]
    for reply in message.get("replies") or ():
        yield from _said(reply)


def minimal_pairs(data: Path, *, of_each: int) -> dict[str, list[tuple[str, str]]]:
    """BLiMP's first pairs of each phenomenon, (good, bad)."""
    return {
        file.name.removeprefix("blimp_").removesuffix(".jsonl.gz"): [
            (row["sentence_good"], row["sentence_bad"]) for row in list(json_lines(file))[:of_each]
        ]
        for file in sorted((data / "multiple_choice").glob("blimp_*.jsonl.gz"))
    }


def table(file: Path, *, header: bool = True) -> Iterator[Any]:
    """Rows of a `.csv` (with quoting) or `.tsv` (without), as dicts, or as lists where it has no header."""
    quoted = file.suffix == ".csv"
    settings: dict[str, Any] = {} if quoted else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, **settings) if header else csv.reader(lines, **settings)


def json_lines(file: Path) -> Iterator[Any]:
    """Objects of a `.jsonl` file, gzipped or not."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def write_jsonl(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write one object a line and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def _draw(texts: list[str], number: int, *, seed: int) -> list[str]:
    return Random(seed).sample(texts, min(number, len(texts)))
