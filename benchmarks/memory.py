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

from transformers import LlamaConfig, LlamaForCausalLM

from stillhouse.data.config import ChatDataConfig, TextDataConfig
from stillhouse.data.packing import PackedRows
from stillhouse.data.prepare import prepare
from stillhouse.labelling import label
from stillhouse.models.load import load_tokenizer
from stillhouse.teachers import LocalTeacher
from stillhouse.training.order import ByLength

ROW_TOKENS = 128
RECORD = "The fox number {n} ran over the hill {m}."
QUESTION = "Where did fox number {n} run?"


def main() -> None:
    """Print a line for each number of records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", help="whose tokens are counted: a hub id, a folder, or a GGUF file")
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--what", choices=["read", "label", "train"], default="read")
    parser.add_argument("--kind", choices=["text", "chat"], default="text", help="of the data")
    parser.add_argument("--alone", action="store_true", help="in this process, of the first number alone")
    options = parser.parse_args()
    if options.alone:
        _measure(options.tokenizer, options.records[0], options.what, options.kind)
        return
    for records in options.records:
        command = [
            sys.executable,
            __file__,
            options.tokenizer,
            "--alone",
            "--what",
            options.what,
            "--kind",
            options.kind,
        ]
        subprocess.run([*command, "--records", str(records)], check=True)


def _record(number: int, kind: str) -> dict[str, object]:
    said = RECORD.format(n=number, m=number % 97)
    if kind == "text":
        return {"text": said}
    asked = {"role": "user", "content": QUESTION.format(n=number)}
    return {"messages": [asked, {"role": "assistant", "content": said}]}


def _measure(source: str, records: int, what: str, kind: str) -> None:
    tokenizer = load_tokenizer(source)
    with TemporaryDirectory() as name:
        file = Path(name) / "texts.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            for number in range(records):
                lines.write(json.dumps(_record(number, kind)) + "\n")
        _peak_bytes()
        before, started = _peak_bytes(), time.perf_counter()
        of_kind = TextDataConfig if kind == "text" else ChatDataConfig
        config = of_kind(path=file, sequence_tokens=ROW_TOKENS, held_out=0.01)
        rows = prepare(config, tokenizer).train
        assert isinstance(rows, PackedRows)
        tokens = sum(rows.lengths)
        if what == "label":
            shape = LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
            )
            teacher = LocalTeacher(LlamaForCausalLM(shape).eval())
            label(teacher, rows.examples, Path(name) / "labels", made_from="a benchmark", row_tokens=ROW_TOKENS)
        if what == "train":  # an epoch's batches in their order; what the models take has nothing to do with records
            for step in _steps(ByLength(rows.lengths, rows_per_step=8, seed=0)):
                rows.collate([rows[number] for number in step])
        grown = _peak_bytes() - before
    print(
        f"{what:<6} {kind} {records:>9,} records, {tokens:>11,} tokens: {grown / 2**20:>8,.0f} MiB more at the peak, "
        f"{grown / records:>6,.0f} bytes a record, {time.perf_counter() - started:,.0f} s",
        flush=True,
    )


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
