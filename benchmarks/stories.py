"""Small language models of children's stories: bits per byte by size and tokens, whether they write grammar, how fast a teacher
writes, and whether asking where a student is weak beats asking at random.

Stories are TinyStories' (DATA, see benchmarks/README.md): a teacher of 135M parameters, which a CPU can run, writes worse ones.
That teacher says how likely a completion is, which is the measure of grammar: see docs/stories.md.
"""

import argparse
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from stillhouse.commands.stories.measuring import first_words
from stillhouse.core.files import remove
from stillhouse.core.rouge import words_of
from stillhouse.data.packing import PackedRows
from stillhouse.data.text import Row, to_examples
from stillhouse.evaluation.compare import machine
from stillhouse.evaluation.stories import (
    Learnt,
    Written,
    bits_per_byte,
    from_open_sentence,
    gain,
    grammar_bounds,
    measures_of,
    parses_of,
    predicted,
    self_bleu,
    sentences_of,
)
from stillhouse.evaluation.stories.parsing import PROGRAM
from stillhouse.evaluation.stories.writing import MEASURES, GrammarBounds
from stillhouse.kernels.terms import Term
from stillhouse.labelling.label import label
from stillhouse.labelling.recorders import Sparse
from stillhouse.models.anatomy import parameter_count
from stillhouse.models.generate import Sampling, generate, stop_ids_of
from stillhouse.models.load import LoadedModel, load_causal_lm, source_fingerprint
from stillhouse.models.own_tokenizers import train_tokenizer, trim_model, trim_tokenizer
from stillhouse.students.save import save_student
from stillhouse.students.table import SIZES, Size, student_of_size
from stillhouse.synthesis.diversity import distinct
from stillhouse.synthesis.filters.worlds import VocabularyConfig
from stillhouse.synthesis.worlds import Cell, draw_wishes, load_world, prompt_of, shared_out, weak_cells
from stillhouse.synthesis.worlds.cells import Asked, Judged
from stillhouse.teachers import LocalTeacher
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.teachers.writer import LocalWriter, Request
from stillhouse.training import train
from stillhouse.training.trainer import Schedule

ROW_TOKENS = 256
LOOKS = 8
"""How often held-out stories are looked at while a student learns."""
WATCHED = 40
"""Held-out stories that are looked at then."""
BEGINNING = 20
"""Words that a student is shown."""


def main() -> None:
    """Print all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["1M", "3M", "8M"])
    parser.add_argument("--epochs", nargs="+", type=float, default=[2, 2, 2], help="for each size")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rows-per-step", type=int, default=4, help=f"of {ROW_TOKENS} tokens: few, as stories are few")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument(
        "--logits", action="store_true", help="learn the teacher's, in its own tokens, and not the texts alone"
    )
    parser.add_argument("--embeddings", action="store_true", help="begin with the teacher's, narrowed; with its tokens")
    parser.add_argument("--temperature", type=float, default=0.7, help="at which students write")
    parser.add_argument("--stories", type=int, default=10**6, help="to learn from, at most")
    parser.add_argument("--held-out", type=int, default=120)
    parser.add_argument("--completions", type=int, default=30)
    parser.add_argument("--words", type=int, default=100, help="that a story must have, its beginning included")
    parser.add_argument("--prompts", type=int, default=64, help="that are timed")
    parser.add_argument("--prompt-tokens", type=int, default=96, help="that are written to each of them, at most")
    parser.add_argument("--rounds", type=int, default=2, help="in which each way is timed")
    parser.add_argument("--loop-stories", type=int, default=400, help="in the first round of the loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-stories"))
    options = parser.parse_args()
    if len(options.epochs) != len(options.sizes):
        parser.error(f"--epochs has {len(options.epochs)} numbers for {len(options.sizes)} sizes: give one for each.")
    disable_progress_bar()
    options.runs.mkdir(parents=True, exist_ok=True)
    about = machine()
    print(
        f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, torch {about['torch']}", flush=True
    )
    for part in options.parts:
        PARTS[part](options)


# Stories.


@dataclass(frozen=True)
class Stories:
    """To learn from, and held out."""

    learnt: list[str]
    held_out: list[str]

    @classmethod
    def read(cls, options: argparse.Namespace) -> "Stories":
        """Shuffled; nothing is on both sides."""
        text = (options.data / "lm" / "tinystories_v2_sample.txt").read_text(encoding="utf-8")
        found = list(dict.fromkeys(one.strip() for one in text.split("<|endoftext|>") if len(one.split()) > 20))
        Random(options.seed).shuffle(found)
        return cls(found[options.held_out :][: options.stories], found[: options.held_out])


def rows_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> PackedRows:
    """Packed for training."""
    return PackedRows(to_examples(map(Row, texts), tokenizer, max_tokens=ROW_TOKENS), row_tokens=ROW_TOKENS)


def needs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Any:
    """The bits that a model needs for each text."""
    examples = [to_examples([Row(text)], tokenizer, max_tokens=ROW_TOKENS) for text in texts]
    return predicted(model, examples, vocab_size=len(tokenizer))


# What the world's words are.


def words(options: argparse.Namespace) -> None:
    """How much of other people's stories is written in the words of the world that is shipped."""
    world, stories = load_world("stories"), Stories.read(options)
    shares = []
    for text in [*stories.held_out, *stories.learnt]:
        found = words_of(text)
        shares.append(sum(word not in world.vocabulary for word in found) / len(found))
    count = sum(len(part.words) for part in world.parts.values())
    passed = sum(share <= VocabularyConfig().most_unknown for share in shares) / len(shares)
    print(
        f"{count:,} words: of {len(shares):,} stories {passed:.1%} pass the filter vocabulary; outside it are "
        f"{np.median(shares):.1%} of the words of half of them, {np.quantile(shares, 0.9):.1%} of nine in ten",
        flush=True,
    )


# Students of three sizes.


@dataclass(frozen=True)
class Course:
    """What students learn from: texts in somebody's tokens, and with --logits what the teacher says at each of these."""

    stories: Stories
    tokenizer: PreTrainedTokenizerBase
    rows: PackedRows
    teacher: StoredTeacher | None = None
    embeddings: torch.Tensor | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Course":
        """A tokenizer of the stories' own, or the teacher's cut down to them."""
        stories = Stories.read(options)
        if not (options.logits or options.embeddings):
            tokenizer = train_tokenizer(stories.learnt, size=options.vocabulary)
            return cls(stories, tokenizer, rows_of(stories.learnt, tokenizer))
        teacher = load_causal_lm(options.teacher)
        trimmed = trim_tokenizer(teacher.tokenizer, stories.learnt)
        model, rows = trim_model(teacher.model, trimmed.kept), rows_of(stories.learnt, trimmed.tokenizer)
        embedded: Any = model.get_input_embeddings()
        embeddings = embedded.weight.detach().clone() if options.embeddings else None
        stored = cls._labelled(options, model, rows, len(trimmed.tokenizer)) if options.logits else None
        return cls(stories, trimmed.tokenizer, rows, stored, embeddings)

    @staticmethod
    def _labelled(
        options: argparse.Namespace, model: PreTrainedModel, rows: PackedRows, vocab_size: int
    ) -> StoredTeacher:
        folder, started = options.runs / "labels", time.process_time()
        outcome = label(
            LocalTeacher(model),
            rows.examples,
            folder,
            made_from=source_fingerprint(options.teacher),
            row_tokens=2 * ROW_TOKENS,
            recorder=Sparse(vocab_size),
            shard_tokens=8192,
        )
        print(
            f"labels: {outcome.tokens:,} tokens, {outcome.bytes_per_token:.0f} bytes each, in "
            f"{time.process_time() - started:,.0f} processor seconds (less what was there)",
            flush=True,
        )
        return StoredTeacher(folder)

    @property
    def terms(self) -> list[Term]:
        """What is matched: the teacher nine parts in ten, where it is read."""
        return [Term("next_token")] if self.teacher is None else [Term("forward_kl", 0.9), Term("next_token", 0.1)]


def students(options: argparse.Namespace) -> None:
    """Bits per byte against size and tokens, then what each writes."""
    course = Course.of(options)
    learnt = course.stories.learnt
    num_words = sum(len(text.split()) for text in learnt)
    print(
        f"{len(learnt):,} stories, {num_words:,} words, {sum(course.rows.lengths):,} tokens of {len(course.tokenizer):,} "
        f"kinds; learnt: {', '.join(f'{term.weight:g} {term.name}' for term in course.terms)}"
        f"{', from narrowed embeddings of the teacher' if course.embeddings is not None else ''}",
        flush=True,
    )
    for size, epochs in zip(options.sizes, options.epochs, strict=True):
        learn(options, size, epochs, course)
    completions(options, course.stories)


def learn(options: argparse.Namespace, size: Size, epochs: float, course: Course) -> None:
    """One student, and a line each time that held-out stories are looked at."""
    folder = options.runs / size
    if folder.exists():
        return
    stories, tokenizer = course.stories, course.tokenizer
    student = student_of_size(
        size, tokenizer, max_tokens=2 * ROW_TOKENS, seed=options.seed, embeddings=course.embeddings
    )
    print(f"{size}: {parameter_count(student):,} parameters", flush=True)
    watched, tokens, started = stories.held_out[:WATCHED], 0.0, time.monotonic()

    def look(student: PreTrainedModel, *, step: int, steps: int) -> Mapping[str, float]:
        if step % max(1, steps // LOOKS) and step != steps:
            return {}
        student.eval()
        found = bits_per_byte(needs(student, tokenizer, watched)).value
        student.train()
        said = f"{tokens:>12,.0f} tokens, {time.monotonic() - started:>6.0f} s"
        print(f"  {size} {said}: {found:.3f} bits per byte of {len(watched)} held-out stories", flush=True)
        return {"held_out": found}

    def count(line: Mapping[str, float]) -> None:
        nonlocal tokens
        tokens += line["tokens"]

    checkpoints = options.runs / f"{size}-checkpoints"
    trained = train(
        student,
        course.rows,
        terms=course.terms,
        teacher=course.teacher,
        vocab_size=len(tokenizer),
        schedule=Schedule(
            epochs=epochs,
            learning_rate=options.learning_rate,
            rows_per_step=options.rows_per_step,
            rows_per_micro_batch=options.rows_per_step,
            weight_decay=0.1,
            save_every_steps=200,
            seed=options.seed,
        ),
        checkpoints=checkpoints,
        log_line=count,
        inspect=look,
    )
    seconds = time.monotonic() - started
    whole = bits_per_byte(needs(trained, tokenizer, stories.held_out))
    print(
        f"{size}: {whole.value:.3f} [{whole.low:.3f}, {whole.high:.3f}] bits per byte of {len(stories.held_out)} held-out "
        f"stories, {tokens:,.0f} tokens in {seconds:.0f} s ({tokens / seconds:,.0f} a second)",
        flush=True,
    )
    save_student(trained, tokenizer, folder)
    remove(checkpoints)


def completions(options: argparse.Namespace, stories: Stories) -> None:
    """What each student writes behind held-out beginnings, beside the originals, and what the measures of grammar say of
    originals with a fault in every sentence, or in every third."""
    teacher, words = load_causal_lm(options.teacher), options.words - BEGINNING
    long = [text for text in stories.held_out if len(text.split()) >= options.words]
    shown = [first_words(text, BEGINNING) for text in long]
    rest = [text[len(start) :] for text, start in zip(long, shown, strict=True)]
    has_parser = shutil.which(PROGRAM) is not None
    tell = partial(written, teacher, has_parser)
    originals = tell(shown, rest)
    bounds = [own for by in MEASURES if (own := grammar_bounds(originals, words=words, measures=[by]))]
    for bound in bounds:
        print(
            f"grammatical by {bound.measure}: {options.words} words with the beginning, {bound.measure} of at most "
            f"{bound.most:.3f} and {bound.repetition:.1%} said again, as 95 of 100 of {len(long)} originals"
        )
    memory, some = Learnt(stories.learnt), options.completions
    show("originals", originals, memory, bounds)
    if has_parser:
        for every in (1, 3):
            faulty = [broken(text, every=every, seed=f"{options.seed} {place}") for place, text in enumerate(rest)]
            show(f"originals, a fault in every {every} sentences", tell(shown, faulty), memory, bounds)
    for size in options.sizes:
        student = load_causal_lm(str(options.runs / size))
        texts = complete(student, shown[:some], temperature=options.temperature, seed=options.seed)
        found = tell(shown[:some], texts)
        show(f"{size}, temperature {options.temperature:g}", found, memory, bounds)
        for one in found[:3]:
            print(f"  {size}: {one.beginning} |{one.text}\n", flush=True)


def complete(student: LoadedModel, shown: Sequence[str], *, temperature: float, seed: int) -> list[str]:
    """What it writes behind each beginning."""
    tokenizer = student.tokenizer
    prompts = [
        [int(tokenizer.bos_token_id), *tokenizer(start, add_special_tokens=False)["input_ids"]] for start in shown
    ]
    found = generate(student.model, prompts, sampling=Sampling(temperature=temperature, max_new_tokens=240), seed=seed)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in found]


def written(teacher: LoadedModel, has_parser: bool, shown: Sequence[str], texts: Sequence[str]) -> list[Written]:
    """Texts with how likely the teacher finds them, and of how many sentences the parser makes nothing."""
    pairs = [
        Row(text if text.strip() else ".", start, finished=False) for start, text in zip(shown, texts, strict=True)
    ]
    examples = [to_examples([row], teacher.tokenizer, max_tokens=1024) for row in pairs]
    bits = predicted(teacher.model, examples, vocab_size=len(teacher.tokenizer)).each.tolist()
    left: Sequence[float | None] = [None] * len(texts)
    if has_parser:
        left = [one.unparsed for one in parses_of(list(map(from_open_sentence, shown, texts)))]
    return [
        Written(start, text, teacher_bits=own, unparsed=some)
        for start, text, own, some in zip(shown, texts, bits, left, strict=True)
    ]


LITTLE = [
    "a",
    "the",
    "to",
    "of",
    "and",
    "in",
    "on",
    "at",
    "with",
    "was",
    "were",
    "is",
    "are",
    "he",
    "she",
    "it",
    "they",
    "his",
    "her",
]


def broken(text: str, *, every: int, seed: str) -> str:
    """The text with one word left out, moved or too many in each sentence, or in each so many."""
    random, sentences = Random(seed), list(sentences_of(text))
    for place in range(0, len(sentences), every):
        words = sentences[place].split()
        if len(words) > 3:
            at, fault = random.randrange(1, len(words) - 1), random.randrange(3)
            if fault == 0:
                del words[at]
            elif fault == 1:
                words[at - 1 : at + 1] = reversed(words[at - 1 : at + 1])
            else:
                words.insert(at, random.choice(LITTLE))
        sentences[place] = " ".join(words)
    return " " + " ".join(sentences)


def show(name: str, found: Sequence[Written], memory: Learnt, bounds: Sequence[GrammarBounds]) -> None:
    """A line of measures."""
    copied = [memory.longest(one.text) for one in found]
    lengths = [one.words for one in copied]
    measures = measures_of(found, lengths, bounds=None)
    for bound in bounds:
        measures[f"grammatical by {bound.measure}"] = measures_of(found, lengths, bounds=bound)["grammatical"]
    texts = [one.text for one in found]
    said = [f"{key} {one.value:.3g} [{one.low:.3g}, {one.high:.3g}]" for key, one in measures.items()]
    said += [f"distinct-{n} {distinct(texts, n, words=1000) or 0:.3f}" for n in (1, 2, 3)]
    longest = max(copied, key=lambda one: one.words)
    print(f"{name}: {', '.join(said)}, self-BLEU {self_bleu(texts) or 0:.3f}")
    print(f"  {name}: longest run copied from a training story, {longest.words} words: {longest.run}", flush=True)


# How fast the teacher writes.


def throughput(options: argparse.Namespace) -> None:
    """Tokens a processor second, in rounds: ours, and transformers' generate at several batch sizes, on the same prompts."""
    teacher = load_causal_lm(options.teacher)
    world = load_world("stories")
    prompts = [prompt_of(world, wish) for wish in draw_wishes(world, options.prompts, seed=options.seed)]
    ours: Callable[[int, Sequence[str]], int] = partial(by_writer, teacher, options.prompt_tokens)
    theirs: Callable[[int, Sequence[str]], int] = partial(by_generate, teacher, options.prompt_tokens)
    ways = [("generate", theirs, 1, 4), ("generate", theirs, 32, 64), ("stillhouse", ours, 32, 64)]
    ways += [("generate", theirs, 8, 32), ("generate", theirs, 16, 64), ("stillhouse", ours, 16, 64)]
    told: dict[tuple[str, int], list[float]] = {(name, size): [] for name, _, size, _ in ways}
    for _ in range(options.rounds):
        for name, way, size, most in ways:
            some = prompts[:most]
            started = time.process_time()
            tokens = way(size, some)
            told[name, size].append(tokens / (time.process_time() - started))
            print(f"{name}, batch {size}: {tokens:,} tokens to {len(some)} prompts", flush=True)
    for (name, size), found in told.items():
        rates = ", ".join(f"{rate:.1f}" for rate in found)
        print(f"{name}, batch {size}: {rates} tokens a processor second", flush=True)


def by_writer(teacher: LoadedModel, most: int, batch_size: int, prompts: Sequence[str]) -> int:
    """As stories are asked for."""
    writer = LocalWriter(teacher, name="teacher", fingerprint="0", batch_size=batch_size)
    sampling = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=most)
    requests = [
        Request(seed=str(place), sampling=sampling, messages=({"role": "user", "content": prompt},))
        for place, prompt in enumerate(prompts)
    ]
    return sum(reply.tokens for _, reply in writer.write(requests))


@torch.no_grad()
def by_generate(teacher: LoadedModel, most: int, batch_size: int, prompts: Sequence[str]) -> int:
    """By transformers, padded on the left; tokens behind an end are not counted."""
    tokenizer, total = teacher.tokenizer, 0
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    talks = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
        )
        for prompt in prompts
    ]
    model: Any = teacher.model
    stops = stop_ids_of(teacher.model) | {int(tokenizer.eos_token_id)}
    for start in range(0, len(talks), batch_size):
        batch = tokenizer(
            talks[start : start + batch_size], return_tensors="pt", padding=True, add_special_tokens=False
        )
        found = model.generate(
            **batch,
            do_sample=True,
            temperature=0.8,
            top_p=0.95,
            top_k=0,
            max_new_tokens=most,
            eos_token_id=sorted(stops),
            pad_token_id=tokenizer.pad_token_id,
        )
        for row in found[:, batch["input_ids"].shape[1] :].tolist():
            total += next((place + 1 for place, token in enumerate(row) if token in stops), len(row))
    return total


# The loop against chance.

SIGNS = {
    "dialogue": re.compile('["“]'),
    "lesson": re.compile(r"(?i)\b(learn|lesson|sorry|promise)"),
    "sad": re.compile(r"(?i)\b(sad|cr(y|ied))\b"),
}
SHARE = {"dialogue": 0.05}
"""What is left in the first round of stories with a sign: as from a teacher that hardly writes them."""


def loop(options: argparse.Namespace) -> None:
    """A pool of stories in a teacher's place, of which the first round hardly has any dialogue: two rounds of as many
    stories again, asked for in the weakest cells or drawn at random. The held-out stories are as they come."""
    stories = Stories.read(options)
    random = Random(options.seed)
    asked = stories.learnt[: options.loop_stories]
    kept = [text for text in asked if all(random.random() < SHARE.get(sign, 1.0) for sign in signs_of(text))]
    pool = stories.learnt[options.loop_stories :]
    tokenizer = train_tokenizer(kept, size=min(1024, options.vocabulary))
    number = options.loop_stories // 4
    print(f"loop: {len(asked)} stories asked for, {len(kept)} kept, {number} in each of two rounds more", flush=True)
    ends = {}
    for way in ("weakest", "random"):
        rows = [Asked(frozenset(cells_of(text)), text in set(kept)) for text in asked]
        student = student_of_size("1M", tokenizer, max_tokens=2 * ROW_TOKENS, seed=options.seed)
        learnt, left = list(kept), list(pool)
        for turn in range(3):
            student = learn_on(options, student, learnt, tokenizer, f"loop-{way}-{turn}")
            sums = needs(student, tokenizer, stories.held_out)
            judged = [
                Judged(frozenset(cells_of(text)), float(bits))
                for text, bits in zip(stories.held_out, sums.each, strict=True)
            ]
            weak = weak_cells(rows, judged)
            found = bits_per_byte(sums)
            cells = shared_out(weak, number) if way == "weakest" else []
            named = ", ".join(f"{one.cell.title} ({one.why})" for one in weak) or "none"
            print(
                f"{way}, round {turn}: {len(learnt)} stories, {found.value:.3f} bits per byte; weak: {named}",
                flush=True,
            )
            more = list(drawn(left, cells, number))
            left = [text for text in left if text not in set(more)]
            learnt += more
            bound = [cell.title for cell in cells] or [""] * len(more)
            rows += [Asked(frozenset(cells_of(text)), True, title) for text, title in zip(more, bound, strict=False)]
        ends[way] = sums
    won = gain(ends["random"], ends["weakest"])
    print(f"weakest beside random, bits per byte fewer: {won.value:.4f} [{won.low:.4f}, {won.high:.4f}]")
    for way, sums in ends.items():
        of_sign = [place for place, text in enumerate(stories.held_out) if "dialogue" in signs_of(text)]
        print(
            f"  {way}: {sums.bits[of_sign].sum() / sums.bytes[of_sign].sum():.4f} on {len(of_sign)} with dialogue",
            flush=True,
        )


def signs_of(text: str) -> list[str]:
    """Features that can be told by a sign."""
    return [name for name, sign in SIGNS.items() if sign.search(text)]


def cells_of(text: str) -> list[Cell]:
    """Its features and its length."""
    length = "short" if len(text.split()) < 140 else "long"
    return [Cell("length", length), *(Cell("feature", name) for name in signs_of(text) or ["none"])]


def drawn(pool: Sequence[str], cells: Sequence[Cell], number: int) -> Iterator[str]:
    """Stories of the pool, one for each cell; without cells the next ones."""
    if not cells:
        yield from pool[:number]
        return
    used: set[str] = set()
    for cell in cells:
        found = next((text for text in pool if text not in used and cell in cells_of(text)), None)
        if found is not None:
            used.add(found)
            yield found


def learn_on(
    options: argparse.Namespace,
    student: PreTrainedModel,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> PreTrainedModel:
    """The same student, two epochs further."""
    checkpoints = options.runs / name
    trained = train(
        student,
        rows_of(texts, tokenizer),
        terms=[Term("next_token")],
        teacher=None,
        vocab_size=len(tokenizer),
        schedule=Schedule(
            epochs=2,
            learning_rate=options.learning_rate,
            rows_per_step=options.rows_per_step,
            rows_per_micro_batch=options.rows_per_step,
            save_every_steps=1000,
            seed=options.seed,
        ),
        checkpoints=checkpoints,
    )
    remove(checkpoints)
    return trained


PARTS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "words": words,
    "throughput": throughput,
    "loop": loop,
    "students": students,
}


if __name__ == "__main__":
    main()
