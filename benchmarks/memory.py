"""Does memory grow with the number of records? Peak memory of reading, labelling and batching short ones: each in a process."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Bytes
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stillhouse.commands.parts.learnt import as_the_teacher_reads
from stillhouse.commands.sources import askable
from stillhouse.data.config import (
    ChatDataConfig,
    ClassificationDataConfig,
    DataConfig,
    MaskedTextDataConfig,
    PreferencesDataConfig,
    RegressionDataConfig,
    RewardsDataConfig,
    SentencesDataConfig,
    TagsDataConfig,
    TextDataConfig,
)
from stillhouse.data.kept import lengths_of
from stillhouse.data.prepare import Prepared, prepare
from stillhouse.labelling import label
from stillhouse.models.load import load_tokenizer
from stillhouse.teachers import LocalTeacher
from stillhouse.training.order import ByLength

ROW_TOKENS = 128
CONFIGS: dict[str, Any] = {
    "text": TextDataConfig,
    "chat": ChatDataConfig,
    "context": ChatDataConfig,
    "spans": TextDataConfig,
    "spans_chat": ChatDataConfig,
    "preferences": PreferencesDataConfig,
    "rewards": RewardsDataConfig,
    "masked_text": MaskedTextDataConfig,
    "classification": ClassificationDataConfig,
    "regression": RegressionDataConfig,
    "tags": TagsDataConfig,
    "sentences": SentencesDataConfig,
}
"""What is read, by its `data.kind`; of conversations also those whose teacher reads more, and of texts and conversations those
whose teacher has another tokenizer."""
AS_TABLE = ("classification", "regression")
PREDICTS_NO_TEXT = ("rewards", "masked_text", "classification", "regression", "tags", "sentences")
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "<user>", "<assistant>", "<system>"]


def main() -> None:
    """Print a line for each kind and number of records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tokenizer", nargs="?", help="a hub id, a folder, or a GGUF file; else one that is made of the records"
    )
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--what", choices=["read", "label", "train", "ask"], default="read")
    parser.add_argument("--kind", choices=CONFIGS, nargs="+", default=["text"], help="of the data")
    parser.add_argument("--alone", action="store_true", help="in this process, of the first kind and number alone")
    options = parser.parse_args()
    if options.alone:
        _measure(options.tokenizer, options.records[0], options.what, options.kind[0])
        return
    for kind in options.kind:
        for records in options.records:
            command = [sys.executable, __file__, *([options.tokenizer] if options.tokenizer else []), "--alone"]
            subprocess.run([*command, "--what", options.what, "--kind", kind, "--records", str(records)], check=True)


def _record(number: int, kind: str) -> dict[str, object]:
    said, asked = f"The fox number {number} ran over the hill {number % 97}.", f"Where did fox number {number} run?"
    match kind:
        case "chat" | "context" | "spans_chat":
            return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        case "preferences" | "rewards":
            return {"prompt": asked, "chosen": said, "rejected": "Nobody knows."}
        case "classification":
            return {"text": said, "label": ("near", "far", "gone")[number % 3]}
        case "regression":
            return {"text": said, "label": number / 7}
        case "tags":
            return {"words": said.split(), "tags": ["far" if word.isdecimal() else "near" for word in said.split()]}
    return {"text": said}


def _made(num_tokens: int, *, framed: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of so many tokens, made of records; `framed` by special tokens, as of models that read a text at once."""
    found = Tokenizer(BPE())
    found.pre_tokenizer, found.decoder = ByteLevel(add_prefix_space=False), Bytes()
    trainer = BpeTrainer(
        vocab_size=num_tokens, special_tokens=SPECIAL, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    found.train_from_iterator((json.dumps(_record(n, "chat")) for n in range(500)), trainer)
    if framed:
        ends = [("<s>", 0), ("</s>", 1)]
        found.post_processor = TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends)
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "unk_token": "<unk>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=found, chat_template=TEMPLATE, **names)


def _read(file: Path, tokenizer: PreTrainedTokenizerBase, kind: str) -> Prepared:
    wanted = {"teacher_context": {"styles": ({"system": "Answer briefly."},)}} if kind == "context" else {}
    config: DataConfig = CONFIGS[kind](path=file, sequence_tokens=ROW_TOKENS, held_out=0.01, **wanted)
    theirs = _made(300, framed=False) if kind.startswith("spans") else None
    return prepare(config, tokenizer, teacher_tokenizer=theirs)


def _measure(source: str | None, records: int, what: str, kind: str) -> None:
    tokenizer = load_tokenizer(source) if source else _made(400, framed=kind in PREDICTS_NO_TEXT)
    with TemporaryDirectory() as name:
        file = Path(name) / ("rows.csv" if kind in AS_TABLE else "rows.jsonl")
        with file.open("w", encoding="utf-8") as lines:
            if kind in AS_TABLE:
                lines.write("text,label\n")
            for number in range(records):
                record = _record(number, kind)
                lines.write((",".join(map(str, record.values())) if kind in AS_TABLE else json.dumps(record)) + "\n")
        _peak_bytes()
        before, started = _peak_bytes(), time.perf_counter()
        found = _read(file, tokenizer, kind)
        rows = found.train
        tokens = sum(rows.lengths)
        if what == "label":
            examples = as_the_teacher_reads(rows)
            label(
                _teacher(len(tokenizer)),
                examples,
                Path(name) / "labels",
                made_from="a benchmark",
                row_tokens=ROW_TOKENS,
            )
        if what == "ask":  # what a student is to answer, and how long it is
            tokens = lengths_of(askable(found.asked, max_tokens=ROW_TOKENS, at_last=False)).sum()
        if what == "train":  # an epoch's batches in their order; what the models take has nothing to do with records
            for step in _steps(ByLength(rows.lengths, rows_per_step=8, seed=0)):
                rows.collate([rows[number] for number in step])
        grown = _peak_bytes() - before
    print(
        f"{what:<6} {kind:<14} {records:>9,} records, {tokens:>11,} tokens: {grown / 2**20:>8,.0f} MiB more at the peak, "
        f"{grown / records:>6,.0f} bytes a record, {time.perf_counter() - started:,.0f} s",
        flush=True,
    )


def _teacher(num_tokens: int) -> LocalTeacher:
    shape = LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LocalTeacher(LlamaForCausalLM(shape).eval())


def _peak_bytes() -> int:
    """The most that this process has held since it was last asked. What `getrusage` says begins with what its parent held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


def _steps(rows: Iterable[int]) -> Iterator[list[int]]:
    waiting = iter(rows)
    while step := list(islice(waiting, 8)):
        yield step


if __name__ == "__main__":
    main()
