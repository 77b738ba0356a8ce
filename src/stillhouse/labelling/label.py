"""Ask the teacher about every example, shard by shard, and write its answers down."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from stillhouse.core.errors import DataError
from stillhouse.core.files import fingerprint, size_on_disk
from stillhouse.core.label_store import (
    FORMAT,
    KEYS,
    MANIFEST,
    Manifest,
    open_shard,
    seal_of,
    stored_bytes,
    write_head,
    write_keys,
    write_manifest,
    write_shard,
)
from stillhouse.core.label_store import HEAD as HEAD_FILE
from stillhouse.core.numbers import counting
from stillhouse.core.objects import Objects
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.protocols import Teacher
from stillhouse.core.signals import FactoredLogits, Wanted
from stillhouse.core.sorting import firsts
from stillhouse.data.examples import Example
from stillhouse.data.kept import lengths_of, those
from stillhouse.data.packing import pack, to_batch
from stillhouse.labelling.recorders import Recorder, States

ROWS_PER_BATCH = 8
LAST_HIDDEN = States()
HEAD = -1
"""Among the numbers of shards it stands for the teacher's head."""
Factors = dict[str, float | None]


@dataclass(frozen=True)
class LabelOutcome:
    """What was stored."""

    signal: str
    records: int
    tokens: int
    bytes: int
    bytes_per_token: float
    """Of the shards alone: the teacher's head, where it is kept, does not grow with the text."""


@dataclass(frozen=True)
class Job:
    """One store in the making: all that its shards have in common, wherever they are made."""

    folder: Path
    recorder: Recorder
    row_tokens: int
    seal: str
    objects: Objects | None = None
    """Where files are put that are not to lie in the folder."""

    def name(self, number: int, examples: Sequence[Example]) -> str:
        """Of the shard's file; of an object it also says what it was made from, as to see that it is there is all that is
        seen of one."""
        if self.objects is None:
            return shard_name(number)
        content = fingerprint([self.seal, [example.key for example in examples]])
        return shard_name(number).replace(".", f"-{content}.", 1)

    def done(self, shards: Sequence[Sequence[Example]]) -> set[int]:
        """Which of the shards need not be made; objects are listed once."""
        if self.objects is None:
            return {number for number, shard in enumerate(shards) if self.is_done(number, shard)}
        there = self.objects.sizes()
        return {number for number, shard in enumerate(shards) if there and self.name(number, shard) in there}

    def do(self, teacher: Teacher, number: int, examples: Sequence[Example]) -> Factors:
        """Write the shard of this number, or, as number `HEAD`, the teacher's head: what is to be done with its product."""
        if number == HEAD:
            return self._keep_head(teacher, examples[0])
        examples = examples[:]  # each read once
        records, keys = _records(teacher, examples, self.recorder, self.row_tokens), [one.key for one in examples]
        with self._kept(self.name(number, examples)) as file:
            write_shard(file, keys, records, tokens=_tokens(examples), seal=self.seal)
        return {}

    @contextmanager
    def _kept(self, name: str) -> Iterator[Path]:
        """A place to write a file, which lies where it belongs when the block ends without an error."""
        if self.objects is None:
            yield self.folder / name
            return
        with TemporaryDirectory() as folder:
            yield Path(folder) / name
            self.objects.put(Path(folder) / name, name)

    def is_done(self, number: int, examples: Sequence[Example]) -> bool:
        """Whether the shard is there, whole, of these records, and made from this. Of a head that is never known."""
        if self.objects is not None:
            return self.objects.has(self.name(number, examples))
        try:
            found = open_shard(self.folder / shard_name(number))
        except DataError:
            return False
        return found.seal == self.seal and found.keys() == [example.key for example in examples]

    def _keep_head(self, teacher: Teacher, example: Example) -> Factors:
        logits = teacher.signals(to_batch([[example]]), Wanted(logits=True)).logits
        assert isinstance(logits, FactoredLogits), "labels are of a language model"
        with self._kept(HEAD_FILE) as file:
            write_head(file.parent, logits, seal=self.seal)
        return {"scale": logits.scale, "softcap": logits.softcap}


Tasks = Mapping[int, Sequence[Example]]
"""The examples of each shard that is to be made; of `HEAD` any one."""
Crew = Callable[[Job, Tasks], Iterator[tuple[int, Factors]]]
"""Whoever does a job's tasks, in any order: the number of each when it is done, and what `do` said of it."""


@dataclass(frozen=True)
class Alone:
    """A crew of one: this process."""

    teacher: Teacher
    progress: Progress = SILENT

    def __call__(self, job: Job, tasks: Tasks) -> Iterator[tuple[int, Factors]]:
        """Says what it will take, then does one task after another."""
        shards = [shard for number, shard in tasks.items() if number != HEAD]
        _announce(self.teacher, shards, job.recorder, job.row_tokens, self.progress)
        return ((number, job.do(self.teacher, number, shard)) for number, shard in tasks.items())


def label(
    teacher: Teacher,
    examples: Sequence[Example],
    folder: Path,
    *,
    made_from: str,
    row_tokens: int,
    recorder: Recorder = LAST_HIDDEN,
    shard_tokens: int = 16_384,
    progress: Progress = SILENT,
) -> LabelOutcome:
    """Store what the teacher says about every example, in the recorder's form, and its head where that is needed. What it will
    take, in bytes and time, is said before the work begins, from a first small batch.

    Started again after a kill, it keeps every whole shard and makes the others; a damaged shard, or one made from
    something else, is made again.

    Raises:
        DataError: if there is no example.
    """
    return label_by(
        Alone(teacher, progress),
        examples,
        folder,
        made_from=made_from,
        row_tokens=row_tokens,
        recorder=recorder,
        shard_tokens=shard_tokens,
        progress=progress,
    )


def label_by(
    crew: Crew,
    examples: Sequence[Example],
    folder: Path,
    *,
    made_from: str,
    row_tokens: int,
    recorder: Recorder = LAST_HIDDEN,
    shard_tokens: int = 16_384,
    store: str | None = None,
    progress: Progress = SILENT,
) -> LabelOutcome:
    """The same by a crew, which may be other processes: this one says what is to be done, and that it is. With a `store`, the
    address of one, files are put there, and the folder has the manifest alone.

    Raises:
        DataError: if there is no example.
    """
    if not examples:
        raise DataError("there is no text to label.")
    shards = list(_shards(examples, shard_tokens))
    seal = seal_of(recorder.signal, recorder.settings, made_from=made_from)
    job = Job(folder, recorder, row_tokens, seal, None if store is None else objects_at(store, seal))
    done_before = job.done(shards)
    tasks: dict[int, Sequence[Example]] = {n: shard for n, shard in enumerate(shards) if n not in done_before}
    left, total, factors = sum(map(_tokens, tasks.values())), sum(map(_tokens, shards)), Factors()
    if recorder.keeps_head:
        tasks[HEAD] = shards[0][:1]
    done = crew(job, tasks)
    with working(progress, "the teacher labels", total, "tokens"):
        progress.advance(total - left)
        for number, said in done:
            factors |= said
            if number != HEAD:
                progress.advance(_tokens(shards[number]))
    names = [job.name(number, shard) for number, shard in enumerate(shards)]
    head = factors if recorder.keeps_head else None
    records = sum(map(len, shards))
    manifest = Manifest(FORMAT, recorder.signal, dict(recorder.settings), made_from, head, names, total, records)
    if job.objects is not None:
        return _publish(job, job.objects, shards, manifest)
    write_manifest(folder, manifest)
    per_token = sum(size_on_disk(folder / name) for name in names) / total
    return LabelOutcome(recorder.signal, records, total, size_on_disk(folder), per_token)


def objects_at(store: str, seal: str) -> Objects:
    """Where a store's objects are at this address: others may be there too."""
    return Objects(f"{store.rstrip('/')}/{seal}", key="labels.store")


def _publish(job: Job, objects: Objects, shards: Sequence[Sequence[Example]], manifest: Manifest) -> LabelOutcome:
    """Put what is not put yet, the manifest last, which is kept in the folder too."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_keys(folder / KEYS, [[example.key for example in shard] for shard in shards], seal=job.seal)
        write_manifest(folder, manifest)
        for file in (KEYS, MANIFEST):
            objects.put(folder / file, file)
    sizes = objects.sizes()
    for fetched in (HEAD_FILE, KEYS):  # of other labels, perhaps
        (job.folder / fetched).unlink(missing_ok=True)
    write_manifest(job.folder, manifest)
    per_token = sum(sizes[file] for file in manifest.shards) / manifest.tokens
    return LabelOutcome(manifest.signal, manifest.records, manifest.tokens, sum(sizes.values()), per_token)


def _announce(
    teacher: Teacher, shards: Sequence[Sequence[Example]], recorder: Recorder, row_tokens: int, progress: Progress
) -> None:
    """Say what the shards that are to be made will take: one row of the first is made for it, twice, as the first time a model
    runs is slower."""
    if not shards:
        return
    row = _rows(shards[0][:], row_tokens)[:1]
    for _ in range(2):
        started = time.perf_counter()
        records = [record for _, record in _recorded(teacher, row, recorder, row_tokens)]
        seconds = time.perf_counter() - started
    measured, left = _tokens(row[0]), sum(_tokens(shard) for shard in shards)
    per_token = sum(stored_bytes(record) for record in records) / measured
    size, minutes = per_token * left / 2**20, seconds / measured * left / 60
    progress.say(
        f"labels take about {per_token:,.1f} bytes a token, {size:,.1f} MiB for {left:,} tokens, and about {minutes:,.1f} "
        f"minutes (measured on {measured:,} tokens)"
    )


def shard_name(number: int) -> str:
    """Of the shard's file."""
    return f"shard-{number:05d}.safetensors"


def _shards(examples: Sequence[Example], shard_tokens: int) -> Iterator[Sequence[Example]]:
    """Examples in their order, each once, as many to a shard as bring it to `shard_tokens`."""
    numbers = firsts(counting((bytes.fromhex(example.key) for example in examples), "S16"))
    start, tokens = 0, 0
    for place, length in enumerate(lengths_of(examples).those(numbers), start=1):
        tokens += length
        if tokens >= shard_tokens or place == len(numbers):
            yield those(examples, numbers[start:place])
            start, tokens = place, 0


def _tokens(examples: Sequence[Example]) -> int:
    return lengths_of(examples).sum()


def _records(teacher: Teacher, shard: Sequence[Example], recorder: Recorder, row_tokens: int) -> list[Sequence[bytes]]:
    """The sections of each example, whose answers are computed in packed rows."""
    rows = _rows(shard, row_tokens)
    found: dict[str, list[bytes]] = {}
    for start in range(0, len(rows), ROWS_PER_BATCH):
        found |= dict(_recorded(teacher, rows[start : start + ROWS_PER_BATCH], recorder, row_tokens))
    return [found[example.key] for example in shard]


def _rows(examples: Sequence[Example], row_tokens: int) -> list[list[Example]]:
    rows = pack([len(example.ids) for example in examples], row_tokens=row_tokens)
    return [[examples[number] for number in row] for row in rows]


def _recorded(
    teacher: Teacher, rows: Sequence[Sequence[Example]], recorder: Recorder, row_tokens: int
) -> Iterator[tuple[str, list[bytes]]]:
    """Each example's key and sections."""
    batch = to_batch(rows, row_tokens=row_tokens)
    said = teacher.signals(batch, recorder.wanted)
    for place, row in enumerate(rows):
        for document, example in enumerate(row):
            where = torch.zeros_like(batch.real)
            where[place] = batch.documents[place] == document
            yield example.key, recorder.record(said, where, key=example.key)
