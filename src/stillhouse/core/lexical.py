"""What can be said of an answer by its words alone: how near it is to a right one, and how much of it a text supports.

Pure functions on strings. They cannot tell what words mean: each says what it is blind to. What they find in an answer and
not in the text that it should rest on is *unsupported content*, which is no judgement of its truth.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_ONE_BY_ONE = re.compile("([\u3040-\u30ff\u3400-\u9fff])")
"""Kana and Han: no space tells their words apart, so each counts as one."""
_NUMBER = re.compile(r"\d[\d,.\u00a0\u202f]*\d|\d")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W_]+(?:['’.&-][^\W_]+)*")

# What stands in capitals for its place in the sentence, or always, and names nothing.
_SMALL_WORDS = (
    "a an the i you he she it we they my your his her its our their this that these those there here who what which when "
    "where why how and or but if as at by for from in into of off on onto over to under up with without not no yes is are "
    "was were be been do does did has have had can could may might must shall should will would so then than thus however "
    "therefore because since while although though after before during both each every all some any many most much more "
    "few several such also only just even still yet according based given let i'm i've i'd i'll it's that's"
)
_NO_NAMES = frozenset(_SMALL_WORDS.split())


def normalised(text: str) -> str:
    """Small letters, no punctuation, no English articles, single spaces: two answers that read alike are then equal.

    For ASCII text this is SQuAD's own. Other punctuation is left out too, and Kana and Han stand one by one, as MLQA does.
    Source: Rajpurkar et al., 2016, arXiv:1606.05250, the official evaluation script; Lewis et al., 2020, arXiv:1910.07475.
    """
    plain = "".join(" " if _is_space(sign) else sign for sign in text.lower() if not _is_punctuation(sign))
    return " ".join(_ONE_BY_ONE.sub(r" \1 ", _ARTICLES.sub(" ", plain)).split())


def _is_space(sign: str) -> bool:
    return sign.isspace()


def _is_punctuation(sign: str) -> bool:
    return sign in string.punctuation or unicodedata.category(sign).startswith("P")


def answer_words(text: str) -> list[str]:
    """The words of a text as answers are compared by them."""
    return normalised(text).split()


def exact_match(answer: str, gold: str) -> float:
    """1 where both are the same but for case, punctuation and articles. Blind to a right answer in other words."""
    return float(normalised(answer) == normalised(gold))


def token_f1(answer: str, gold: str) -> float:
    """The harmonic mean of precision and recall of words. A long answer loses by its length, right as it may be."""
    ours, theirs = answer_words(answer), answer_words(gold)
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * _num_common(ours, theirs) / (len(ours) + len(theirs))


def token_recall(answer: str, gold: str) -> float:
    """The share of the right answer's words that the answer has: blind to all that it says beside them.

    Of the string metrics the nearest to people's judgement of long answers: Adlakha et al., 2023, arXiv:2307.16877.
    """
    theirs = answer_words(gold)
    return _num_common(answer_words(answer), theirs) / len(theirs) if theirs else 1.0


def best_of(score: Callable[[str, str], float], answer: str, golds: Sequence[str]) -> float:
    """The highest score over all right answers; 0 where there are none."""
    return max((score(answer, gold) for gold in golds), default=0.0)


def says(text: str, answer: str) -> bool:
    """Whether the answer's words stand in the text, one behind the other. An answer without words is nowhere said."""
    wanted = normalised(answer)
    return bool(wanted) and f" {wanted} " in f" {normalised(text)} "


def k_precision(answer: str, context: str) -> float:
    """The share of the answer's words that stand in the context, each as often as there: 1 for an empty answer.

    Blind to another name out of the same context, to words put together wrongly, and to a denial of what the context says;
    short answers score high. Always to be read beside the share of questions that got an answer.
    Source: Adlakha et al., 2023, arXiv:2307.16877, section 4.
    """
    return gram_precision(answer, context, words=1)


def bigram_precision(answer: str, context: str) -> float:
    """The share of the answer's pairs of neighbouring words that are neighbours in the context, too; an answer of one word
    is judged by it. Stricter than `k_precision`: what is said in other words counts as unsupported."""
    return gram_precision(answer, context, words=2)


def gram_precision(answer: str, context: str, *, words: int) -> float:
    """The share of the answer's runs of so many words that stand in the context; 1 for an empty answer."""
    ours, theirs = answer_words(answer), answer_words(context)
    size = min(words, len(ours))
    if size == 0:
        return 1.0
    grams = _grams(ours, size)
    return _num_common(grams, _grams(theirs, size)) / len(grams)


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(size)), strict=False))


def _num_common(ours: Sequence[object], theirs: Sequence[object]) -> int:
    """How many stand in both, each as often as in the one that has it less often."""
    return (Counter(ours) & Counter(theirs)).total()


def unsupported_numbers(answer: str, context: str) -> list[str]:
    """The numbers of the answer that are not in the context, as the answer writes them; 1,000 is 1000.

    Digits alone: blind to numbers in words on either side, to what a number counts, and to sums that the context allows.
    """
    known = {_plain_number(found) for found in _NUMBER.findall(context)}
    return _new([found for found in _NUMBER.findall(answer) if _plain_number(found) not in known])


def _plain_number(number: str) -> str:
    return re.sub(r"[,\u00a0\u202f](?=\d{3}\b)", "", number).strip(",.")


def unsupported_names(answer: str, context: str) -> list[str]:
    """The words of the answer that are written like a name and stand nowhere in the context, as the answer writes them.

    A name begins with a capital. At the beginning of a sentence that says nothing, so that there a word counts only
    where another capital follows or no other word does. Blind to scripts without capitals, and to names of the context
    in the wrong place; German nouns and headlines are names to it.
    """
    known = {_stem(word) for word in _WORD.findall(context)}
    known |= {part for word in known for part in re.split(r"[-&.]", word)}
    named = [name for sentence in _SENTENCE.split(answer) for name in _names(sentence)]
    return _new([name for name in named if not _is_known(name, known)])


def _names(sentence: str) -> list[str]:
    words = _WORD.findall(sentence)
    return [
        word
        for place, word in enumerate(words)
        if _is_capital(word) and (place > 0 or len(words) == 1 or _is_capital(words[1]))
    ]


def _is_capital(word: str) -> bool:
    return word[0].isupper() and word.lower().replace("’", "'") not in _NO_NAMES


def _is_known(name: str, known: set[str]) -> bool:
    stem = _stem(name)
    return stem in known or all(part in known for part in re.split(r"[-&.]", stem))


def _stem(word: str) -> str:
    """In small letters, without a possessive end."""
    return re.sub(r"['’]s?$", "", word.casefold())


def _new(found: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(found))
