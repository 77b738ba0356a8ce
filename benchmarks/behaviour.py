"""What the measures of behaviour are worth, on public data: each beside what the length of an answer alone would say.

    python benchmarks/behaviour.py DATA [--sentence-model FOLDER]

Reads three sets (benchmarks/README.md): HaluEval's questions with a right and a made-up answer, of which the words that the
context does not have should tell the second; XQuAD's questions with the right answer, and with another name or phrase out of
the same paragraph, to which these measures are blind; and answers with people's judgement of their formality. Takes about half
a minute.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
from public_data import table

from stillhouse.core.lexical import answer_words, bigram_precision, k_precision, unsupported_names, unsupported_numbers
from stillhouse.core.results import Interval
from stillhouse.evaluation.behaviour.measures import mean
from stillhouse.evaluation.behaviour.tone import features
from stillhouse.evaluation.behaviour.two_sample import auc
from stillhouse.evaluation.intervals import bootstrapped
from stillhouse.evaluation.outputs import embedded_by_model
from stillhouse.evaluation.statistics import spearman
from stillhouse.evaluation.support import EmbeddedSupport, Shown

Score = Callable[[str, str], float]
"""An answer and its context in; higher is less supported."""

SCORES: dict[str, Score] = {
    "unsupported words (1 - K-precision)": lambda answer, context: 1 - k_precision(answer, context),
    "unsupported pairs of words": lambda answer, context: 1 - bigram_precision(answer, context),
    "unsupported names and numbers": lambda answer, context: float(
        len(unsupported_names(answer, context)) + len(unsupported_numbers(answer, context))
    ),
    "length alone": lambda answer, _context: float(len(answer_words(answer))),
}


def main() -> None:
    """Print every figure with its interval."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, help="the folder with the public data")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--sentence-model", help="a sentence embedding model, to see what its cosines are worth, too"
    )
    options = arguments.parse_args()
    if options.sentence_model is not None:
        SCORES["sentences unlike the context's (1 - cosine)"] = unlike(options.sentence_model)
    made_up(options.data)
    swapped(options.data, seed=options.seed)
    formality(options.data)


def unlike(sentence_model: str) -> Score:
    """One less the highest cosine with a sentence of the context, averaged over the answer's sentences."""
    support = EmbeddedSupport(embedded_by_model(sentence_model), sentence_model)
    return lambda answer, context: 1 - float(np.mean(support.nearest(Shown("", (context,), answer)) or [0.0]))


def made_up(data: Path) -> None:
    """HaluEval: the right answer and a made-up one to each question."""
    lines = (data / "rag_qa/halueval_qa_one_turn.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    pairs = [(row["knowledge"], row["right_answer"], row["hallucinated_answer"]) for row in rows]
    alike = [one for one in pairs if len(answer_words(one[1])) == len(answer_words(one[2]))]
    _show("HaluEval, question answering", pairs)
    _show("HaluEval, where both answers have as many words", alike)


def swapped(data: Path, *, seed: int) -> None:
    """XQuAD: the right answer, and the answer to another question about the same paragraph."""
    random = Random(seed)
    articles = json.loads((data / "rag_qa/xquad_en.json").read_text(encoding="utf-8"))["data"]
    pairs = []
    for paragraph in (one for article in articles for one in article["paragraphs"]):
        answers = [question["answers"][0]["text"] for question in paragraph["qas"]]
        for answer in answers:
            others = [other for other in answers if other != answer]
            if others:
                pairs.append((paragraph["context"], answer, random.choice(others)))
    _show("XQuAD, wrong answers out of the same paragraph", pairs)


def _show(title: str, pairs: Sequence[tuple[str, str, str]]) -> None:
    print(f"\n{title}: {len(pairs)} pairs, AUC of telling the unsupported one")
    labels, groups = np.tile([0, 1], len(pairs)), np.repeat(np.arange(len(pairs)), 2)
    for name, score in SCORES.items():
        scores = np.array([score(answer, context) for context, *answers in pairs for answer in answers])
        print(f"  {name:44} {_text(auc(scores, labels, groups))}")


def formality(data: Path) -> None:
    """How far each feature of tone goes with what people call formal."""
    for name in ("formality_answers", "formality_news"):
        rows = [row for row in table(data / f"behaviour/{name}.tsv", header=False) if len(row) >= 4]
        people = np.array([float(row[0]) for row in rows])
        found = [features(row[3]) for row in rows]
        print(
            f"\n{name}: {len(rows)} texts, rank correlation with people's judgement of formality; mean {_text(mean(people))}"
        )
        for feature in ("informal", "word_letters", "sentence_words", "first_person", "exclamations", "words"):
            values = np.array([row[feature] for row in found])
            rank = bootstrapped({"rank": spearman(values, people)}, set_sizes=[len(rows)])["rank"].interval()
            print(f"  {feature:36} {_text(rank)}")


def _text(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
