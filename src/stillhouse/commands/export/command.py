"""`stillhouse export RUN|STUDENT --to FORMAT`: written, run, compared, and only then put in its place."""

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from peft import PeftModel
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from stillhouse.commands.adapters import ADAPTER_FOLDER
from stillhouse.commands.export.check import Checked, compare
from stillhouse.commands.export.formats import FORMATS, Format, asking
from stillhouse.commands.export.place import HUB, MERGED, place_of
from stillhouse.commands.inspect import pieces_of
from stillhouse.commands.parts import Parts
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import ModelError, StillhouseError
from stillhouse.core.faults import nearest
from stillhouse.core.files import atomic_path, remove, size_on_disk
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder
from stillhouse.core.task import Task
from stillhouse.data.text import read_rows
from stillhouse.models.anatomy import most_tokens
from stillhouse.models.load import LoadedModel, load_config, load_model
from stillhouse.reporting.formatting import percent, ratio, short, si

TEXTS, TEXT_TOKENS = 8, 128
"""What is asked of both: enough to find what went wrong, little enough for a moment."""
ACCOUNT = "export.json"
SOME_TEXT = (
    "The old harbour lies behind the market, and on most mornings the fog stays until nine. Boats come in one by one.",
    "To make bread you need flour, water, salt and time. Mix the first three, wait for an hour, and shape the dough.",
    "What is the capital of France? The capital of France is Paris, a city on the river Seine with two million people.",
    "def mean(numbers):\n    total = sum(numbers)\n    return total / len(numbers)\n",
    "She opened the letter twice before she believed it. Then she laughed, put on her coat and ran down to the station.",
    "Water boils at 100 degrees Celsius at sea level; on a high mountain it boils sooner, since the air presses less.",
)
"""English, for a model that nobody named a text for."""
TASKS: dict[str, Task] = {
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
}
"""By the end of a model's class, as its config.json names it."""


@dataclass(frozen=True)
class Exported:
    """An export in its place, and how it compares."""

    folder: Path
    original: Path
    """The student, or the adapter, that it was made from."""
    format: Format
    checked: Checked


def show(source: str, *, to: str, quantise: str, data: str, out: str, most: float | None) -> None:
    """Write the export and say how it compares.

    Raises:
        StillhouseError: for what cannot be written, or says something else than what it was made from.
    """
    _show(export_student(source, to=to, quantise=quantise, data=data, out=out, most=most))


def export_student(
    source: str | Path,
    *,
    to: str,
    quantise: str = "",
    data: str | Path = "",
    out: str | Path = "",
    most: float | None = None,
) -> Exported:
    """Write a run's student, or a model's folder, in another format; run it, and hold it beside the original. What is left out
    is chosen as the command line does.

    Raises:
        StillhouseError: for what cannot be written, or says something else than what it was made from.
    """
    source = str(source)
    if to == MERGED:
        return _merge(source, quantise=quantise, data=str(data), out=str(out), most=most)
    wanted = chosen(to)
    quantise = quantise or wanted.quantise[0]
    if quantise not in wanted.quantise:
        raise StillhouseError(f"--quantise {quantise}: --to {to} knows {', '.join(wanted.quantise)}.")
    wanted.check_installed()
    student, run = place_of(source)
    folder = _free(Path(out) if out else _default_folder(student, run, f"{to}-{quantise}"))
    loaded = load_model(str(student), task_of_folder(student, run))
    texts = texts_for(loaded, run, str(data))
    return Exported(folder, student, wanted, export(loaded, wanted, folder, quantise=quantise, texts=texts, most=most))


def _merge(source: str, *, quantise: str, data: str, out: str, most: float | None) -> Exported:
    """An adapter and the model below it as one plain model, beside the two as peft runs them."""
    path = Path(source)
    adapter = path / ADAPTER_FOLDER if (path / "recipe.yaml").exists() else path
    if not (adapter / "adapter_config.json").exists():
        raise StillhouseError(
            f"--to {MERGED}: there is no adapter in {adapter}. It takes a run with student.lora, or peft's folder."
        )
    named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if named.get("task_type") not in (None, "CAUSAL_LM"):
        raise StillhouseError(
            f"--to {MERGED} knows language models, and {adapter} is for {named['task_type']}. A run has it as student/."
        )
    base = load_model(named["base_model_name_or_path"], "causal_lm")
    folder = _free(Path(out) if out else adapter.parent / "exports" / MERGED)
    texts = texts_for(base, None, data)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft's own, about itself
        both = PeftModel.from_pretrained(base.model, str(adapter)).eval()
    merged = replace(base, model=copy.deepcopy(both).merge_and_unload())
    plain = FORMATS["safetensors"]
    precision = quantise or "float32"
    if precision not in plain.quantise:
        raise StillhouseError(f"--quantise {quantise}: --to {MERGED} knows {', '.join(plain.quantise)}.")
    checked = export(merged, plain, folder, quantise=precision, texts=texts, most=most, original=both)
    return Exported(folder, adapter, plain, checked)


def _free(folder: Path) -> Path:
    """A folder that an export may be written to: none, or that of an earlier one."""
    if folder.exists() and not (folder / ACCOUNT).exists():
        raise StillhouseError(f"--out {folder}: it is there already, and no export made it. Name another folder.")
    return folder


def chosen(to: str) -> Format:
    """The format of this name.

    Raises:
        StillhouseError: for one that is not known.
    """
    if to == HUB:
        raise StillhouseError("the hub is no format: from Python it is stillhouse.push(run, repo='me/student').")
    if to not in FORMATS:
        raise StillhouseError(f"--to {to}: there is no such format.{nearest(to, [*FORMATS, MERGED, HUB])}")
    return FORMATS[to]


def _default_folder(student: Path, run: Path | None, name: str) -> Path:
    return (run or student.parent) / "exports" / (name if run else f"{student.name}-{name}")


def task_of_folder(student: Path, run: Path | None) -> Task:
    """What the model is asked.

    Raises:
        ModelError: for a model without logits.
    """
    if run is not None and is_of_stories(read_recipe(run / "recipe.yaml")):
        return "causal_lm"
    if run is not None:
        try:
            task = load_recipe(Recipe, run / "recipe.yaml").task
        except StillhouseError as error:
            raise ModelError(f"{run} is of no kind that export knows: {error}") from None
    else:
        config = load_config(str(student))
        name = next(iter(config.architectures or ()), "")
        found = next((task for end, task in TASKS.items() if name.endswith(end)), None)
        if found is None:
            raise ModelError(f"{student} is a {name or 'model of no known class'}, which has no logits to compare.")
        task = "regression" if found == "sequence_classification" and config.num_labels == 1 else found
    if task == "sentence_embedding":
        raise ModelError(
            f"{student} embeds sentences. sentence-transformers exports such a model itself: "
            "SentenceTransformer(folder, backend='onnx')."
        )
    return task


def texts_for(loaded: LoadedModel, run: Path | None, data: str) -> list[list[int]]:
    """Tokens to ask about: of the file that was named, of what the run held out, or some English."""
    most = min(TEXT_TOKENS, most_tokens(loaded.model) or TEXT_TOKENS)
    if data:
        rows = [row.text for row in islice(read_rows(Path(data), key="--data"), TEXTS)]
    elif run is not None and (held_out := _held_out(run)):
        return [ids[:most] for ids in held_out]
    else:
        rows = list(SOME_TEXT)
    return [list(loaded.tokenizer(text)["input_ids"])[:most] for text in rows]


def _held_out(run: Path) -> list[list[int]]:
    """What the run held out, if its data still lies where it was; nothing of a story model, for which other text serves."""
    if is_of_stories(read_recipe(run / "recipe.yaml")):
        return []
    parts = Parts(load_recipe(Recipe, run / "recipe.yaml"), RunFolder(run), SILENT)
    if not parts.data_path.exists() or parts.answers_first or parts.recipe.history is not None:
        return []
    return [list(piece.ids) for piece in islice(pieces_of(parts.data.held_out, parts), TEXTS)]


def export(
    loaded: LoadedModel,
    wanted: Format,
    folder: Path,
    *,
    quantise: str,
    texts: Sequence[Sequence[int]],
    most: float | None = None,
    original: nn.Module | None = None,
) -> Checked:
    """Write a format, read it back, and hold it beside the model, or beside another that is named as the original. Nothing
    stays of one that says something else.

    Raises:
        ModelError: if the library cannot write this model, or what it wrote is too far from the original.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder) as part:
        part.mkdir()
        try:
            notes = wanted.write(loaded, part, quantise)
        except StillhouseError:
            raise
        except Exception as error:  # whatever these libraries raise is about this model
            first = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise ModelError(
                f"--to {wanted.name}: {type(error).__name__} while it was written: {first[0][:300]}"
            ) from error
        checked = compare(
            asking(loaded.model if original is None else original),
            wanted.read(loaded, part),
            texts,
            task=loaded.task,
            quantise=quantise,
            most=most,
        )
        if not checked.passes:
            raise ModelError(
                f"the export was written, run and refused: {checked.measure} is {short(checked.distance)}, at most "
                f"{short(checked.most)} was wanted. Choose a finer --quantise, or say --most to allow more."
            )
        checked = replace(checked, notes=tuple(notes))
        account = {"format": wanted.name, "quantise": quantise, "bytes": size_on_disk(part), **asdict(checked)}
        (part / ACCOUNT).write_text(json.dumps(account, indent=1), encoding="utf-8")
        if folder.exists():
            remove(folder)
    return checked


def _show(done: Exported) -> None:
    checked = done.checked
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("", "original", "export"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row("on disk", si(size_on_disk(done.original), "B"), si(size_on_disk(done.folder), "B"))
    before, after = checked.seconds_before, checked.seconds_after
    if done.format.is_timed:
        table.add_row("seconds for all texts", short(before), f"{short(after)} ({ratio(before / after)} as fast)")
    table.add_row(checked.measure, "0", short(checked.distance))
    if checked.agreement is not None:
        table.add_row("same answer", "100 %", percent(checked.agreement, 1))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\nover {checked.answers} answers to {checked.texts} texts; for {done.format.serves}", markup=False)
    for note in checked.notes:
        console.print(note, markup=False)
    files = list(done.folder.glob("*.gguf"))
    console.print(f"export   {files[0] if files else done.folder}", markup=False, soft_wrap=True)
