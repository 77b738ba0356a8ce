"""Self-Instruct: a few tasks that people wrote grow into many, each unlike all before it."""

from collections.abc import Sequence
from random import Random

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.rouge import words_of
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.synthesis.rouge import NovelTexts
from stillhouse.synthesis.sources.lists import list_items
from stillhouse.teachers.writer import Request

FEWEST_WORDS, MOST_WORDS = 4, 150
"""Of a task, as the authors' code has them."""
IDLE_ROUNDS = 10
"""So many rounds one after the other without a new task, and the source has dried up."""


def self_instruct_questions(
    ask: Ask,
    *,
    seeds: Sequence[str],
    number: int,
    sampling: Sampling,
    seed_examples: int = 6,
    own_examples: int = 2,
    at_once: int = 8,
    requests_per_round: int = 16,
    below: float = 0.7,
    tokenizer: PreTrainedTokenizerBase | None = None,
    before: Sequence[str] = (),
    seed: int = 0,
) -> list[Record]:
    """So many new tasks, or fewer where nothing new comes any more. Each request shows `seed_examples` of the given ones and
    `own_examples` of those that came of it, mixed, and asks to go on; what is as like any other as ROUGE-L `below` is left out,
    and so is what has fewer words than `FEWEST_WORDS` or more than `MOST_WORDS`. What came `before` counts as its own.

    With a `tokenizer` that has a chat template, the list so far is the beginning of the teacher's own answer: a small one goes
    on with it, where it would talk about a list that it is shown.

    Source: Wang et al., 2023, arXiv:2212.10560, section 2.2.

    Raises:
        DataError: where nothing new came at all.
    """
    novel = NovelTexts([*seeds, *before], below=below)
    found: list[Record] = []
    turn = idle = 0
    while len(found) < number and idle < IDLE_ROUNDS:
        added = _round(
            ask,
            seeds,
            [*before, *(record.question for record in found)],
            novel,
            examples=(seed_examples, own_examples),
            at_once=at_once,
            most=min(requests_per_round, -(-(number - len(found)) // max(1, at_once // 2))),
            sampling=sampling,
            tokenizer=tokenizer,
            seed=f"{seed}, self-instruct {turn}",
        )
        found += added
        turn, idle = turn + 1, 0 if added else idle + 1
    if not found and not before:
        raise DataError(
            f"synthesis: the teacher wrote no new task in {IDLE_ROUNDS} rounds. Give more seeds, or raise "
            "synthesis.sampling.temperature, synthesis.sampling.max_new_tokens or synthesis.novelty. What it wrote stands in "
            "the run's data/ledger.jsonl."
        )
    return found[:number]


def _round(
    ask: Ask,
    seeds: Sequence[str],
    own: Sequence[str],
    novel: NovelTexts,
    *,
    examples: tuple[int, int],
    at_once: int,
    most: int,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: str,
) -> list[Record]:
    """What comes of some requests at once, all of which see the tasks of the rounds before."""
    requests, shown = [], []
    for nth in range(most):
        shown.append(mixed_examples(seeds, own, examples, random=Random(f"{seed}, {nth}")))
        requests.append(request_of(shown[-1], at_once, sampling=sampling, seed=f"{seed}, {nth}", tokenizer=tokenizer))
    records: list[Record] = []
    replies = ask(requests, title="the teacher writes tasks")
    for request, reply, some in zip(requests, replies, shown, strict=True):
        said = reply.text if request.prefix is None else f"{len(some) + 1}.{reply.text}"
        for text in list_items(said, finished=reply.finished)[:at_once]:
            if FEWEST_WORDS <= len(words_of(text)) <= MOST_WORDS and novel.is_new(text):
                novel.add(text)
                record = Record(lineage={"source": "self_instruct", "examples": some, "seed": request.seed})
                records.append(record.say("user", text))
    return records


def mixed_examples(seeds: Sequence[str], own: Sequence[str], examples: tuple[int, int], *, random: Random) -> list[str]:
    """Some of the seeds and some of the model's own, in any order; while there are too few of its own, seeds in their place."""
    of_own = random.sample(list(own), min(examples[1], len(own)))
    of_seeds = random.sample(list(seeds), min(sum(examples) - len(of_own), len(seeds)))
    mixed = of_seeds + of_own
    random.shuffle(mixed)
    return mixed


def request_of(
    examples: Sequence[str],
    at_once: int,
    *,
    sampling: Sampling,
    seed: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Request:
    """The examples, to be gone on with: as the beginning of an answer where the template is known, else as a wish."""
    if tokenizer is None or not tokenizer.chat_template:
        return asking(seed, [{"role": "user", "content": prompt_of(examples, at_once)}], sampling=sampling)
    last = len(examples) + at_once
    wish = f"Come up with a series of {last} different tasks that people may give to an assistant."
    opened = ChatTemplate(tokenizer).prompt([{"role": "user", "content": wish}])
    listed = "\n".join(f"{place}. {' '.join(text.split())}" for place, text in enumerate(examples, start=1))
    prefix = f"{opened}{listed}\n{len(examples) + 1}."
    return Request(seed=seed, sampling=sampling, prefix=prefix, stop=(f"\n{last + 1}.",))


def prompt_of(examples: Sequence[str], at_once: int) -> str:
    """The examples as a list to be gone on with."""
    listed = "\n".join(f"{place}. {' '.join(text.split())}" for place, text in enumerate(examples, start=1))
    first, last = len(examples) + 1, len(examples) + at_once
    return (
        f"Here are tasks that people gave to an assistant:\n\n{listed}\n\n"
        f"Go on with tasks {first} to {last}. They should differ from these and from each other in what they are about and in "
        "what they ask for. Write a numbered list of tasks, without answers, and nothing else."
    )
