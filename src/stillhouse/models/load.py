"""Load a model for a task, and its tokenizer, from a hub id, a folder, or a GGUF file."""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stillhouse.core.errors import ModelError
from stillhouse.core.faults import shown
from stillhouse.core.files import (
    atomic_path,
    cache_folder,
    fingerprint,
    fingerprint_files,
    is_plain_name,
    is_there,
    sha256_of,
)
from stillhouse.core.memory import ran_out_of_memory
from stillhouse.core.signals import Pooling
from stillhouse.core.task import Task
from stillhouse.models.anatomy import text_config
from stillhouse.models.labels import check_labels, labels_of, name_labels
from stillhouse.models.sentence_folder import read_embedding

AUTO_CLASSES: dict[Task, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "sequence_classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "reward": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "sentence_embedding": AutoModel,
}
PROBLEM_TYPES: dict[Task, Literal["single_label_classification", "regression"]] = {
    "sequence_classification": "single_label_classification",
    "regression": "regression",
    "reward": "regression",
}
"""What transformers calls the tasks that share a class: a reward is a number, whatever it was learnt from."""

CLASS_ENDS: dict[Task, str] = {
    "sequence_classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "reward": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
}
"""What a configuration calls the model, at the end, if it has such a head."""

MASKED_CLASS_ENDS = ("ForMaskedLM", "ForPreTraining")
"""What it calls one with a masked language modelling head; the second has more heads beside it."""

LABELLED_TASKS: frozenset[Task] = frozenset(CLASS_ENDS)
"""Tasks whose head is made for one data set's labels, so that a student may come without one."""

ONE_NUMBER: frozenset[Task] = frozenset({"regression", "reward"})
"""Tasks of models with one output, which has no name of a class."""

WORDS: dict[Task, str] = {
    "causal_lm": "a causal language model",
    "masked_lm": "a masked language model",
    "sequence_classification": "a text classifier",
    "regression": "a model that estimates a number",
    "reward": "a reward model: a sequence classifier with one output",
    "token_classification": "a token classifier",
    "sentence_embedding": "an embedding model",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and where they came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    folder: Path
    """Where its weights lie unpacked; does not exist for a hub id."""
    task: Task = "causal_lm"
    pooling: Pooling | None = None
    """How it makes an embedding of its token states; None for any other task."""
    normalizes: bool = False
    """Whether its embeddings are to be scaled to length 1."""


def load_model(
    source: str, task: Task, *, labels: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Load what `source` names, whole and in evaluation mode: a teacher, or a student that was trained.

    Every weight that the task uses must be there, the head's too, and with `labels` its answers must be those, in that
    order. A pooler that the task does not use is left out. A GGUF file is unpacked once into a folder of the cache
    (`STILLHOUSE_CACHE`, or `~/.cache/stillhouse`), which loads in a fraction of the time. Weights are read from
    safetensors only, and no code that comes with a model is run.

    Raises:
        ModelError: if it is not there, is nothing that this version of transformers can use for the task, or lacks weights.
    """
    check_weights(source)
    config = load_config(source)
    check_serves(config, task, source=source)
    if labels is not None and task in LABELLED_TASKS - ONE_NUMBER:
        check_labels(labels_of(config), labels, source=source)
    if task in PROBLEM_TYPES:
        config.problem_type = PROBLEM_TYPES[task]
    loaded, missing, mismatched = _loaded(source, config, task, dtype=dtype)
    has_head = task in LABELLED_TASKS | {"masked_lm"}
    if has_head and missing and not mismatched and all(_in_head(name, loaded.model) for name in missing):
        raise ModelError(_no_head(source, task))
    _refuse_random_parts(source, [*missing, *mismatched])
    return loaded


def load_in_4_bits(source: str, task: Task) -> PreTrainedModel:
    """Load what `source` names with the weights of its linear layers in 4 bits (NF4, constants too), all but the head's: a
    base for an adapter, and nothing else. Needs bitsandbytes.

    Raises:
        ModelError: as `load_model`.
    """
    check_weights(source)
    wanted = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    options = {"quantization_config": wanted, "device_map": {"": device()}}
    loaded, missing, mismatched = _loaded(source, load_config(source), task, dtype=torch.float32, **options)
    _refuse_random_parts(source, [*missing, *mismatched])
    return loaded.model


def load_student(
    source: str, task: Task, *, seed: int, labels: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Load a checkpoint to be trained: as `load_model`, but a classifier's head is made for `labels`.

    Where the checkpoint has no head, or one for another number of answers, the parts that are missing get random weights
    that the seed decides; a head that fits is a start, whatever its answers were called.

    Raises:
        ModelError: as `load_model`, except for a classifier's head.
    """
    if task not in LABELLED_TASKS:
        return load_model(source, task, dtype=dtype)
    check_weights(source)
    config = load_config(source)
    name_labels(config, ["LABEL_0"] if task in ONE_NUMBER else labels or labels_of(config))
    config.problem_type = PROBLEM_TYPES.get(task)
    torch.manual_seed(seed)
    loaded, missing, mismatched = _loaded(source, config, task, dtype=dtype)
    _refuse_random_parts(source, [name for name in (*missing, *mismatched) if not _in_head(name, loaded.model)])
    return loaded


def seen_by_all(source: str) -> str:
    """What other processes find the model by: unpacked once, and not seen from the folder that this one works in."""
    path = local_path(source)
    if path.is_file():
        return unpacked_gguf(path)
    return str(path.resolve()) if path.is_dir() else source


def load_causal_lm(source: str, *, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load a causal language model: see `load_model`."""
    return load_model(source, "causal_lm", dtype=dtype)


def untrained(config: PretrainedConfig, task: Task, *, dtype: torch.dtype) -> PreTrainedModel:
    """A model with random weights for the task, in evaluation mode, without a pooler that the task does not use."""
    model: PreTrainedModel = AUTO_CLASSES[task].from_config(config, dtype=dtype, **_class_options(config, task))
    return model.eval()


def check_serves(config: PretrainedConfig, task: Task, *, source: str) -> None:
    """Refuse a teacher whose configuration already says that it was not trained for the task.

    Raises:
        ModelError: saying what it is instead.
    """
    heads = config.architectures or []
    if task in LABELLED_TASKS and heads and not any(head.endswith(CLASS_ENDS[task]) for head in heads):
        raise ModelError(_no_head(source, task))
    if task in ONE_NUMBER and config.num_labels != 1:
        raise ModelError(f"{source!r} tells {config.num_labels} classes apart, where one number is to be estimated.")
    if task == "sequence_classification" and (
        config.num_labels == 1 or config.problem_type == "multi_label_classification"
    ):
        gives = "one number" if config.num_labels == 1 else "several labels at once"
        raise ModelError(
            f"{source!r} gives {gives} a text, where one class of several is to be told. Name another teacher."
        )
    if task == "masked_lm":
        _check_masked_family(config, source=source)
        if heads and not any(head.endswith(MASKED_CLASS_ENDS) for head in heads):
            raise ModelError(_no_head(source, task))
    if task == "causal_lm" and _reads_both_ways(config):
        raise ModelError(
            f"{source!r} reads text in both directions, so it cannot predict the next token. Name a causal language model, or "
            "use `data: {kind: masked_text}`."
        )


def _check_masked_family(config: PretrainedConfig, *, source: str) -> None:
    """Refuse a family that has no masked language model, or one that transformers runs as if it wrote text: XLM, FlauBERT,
    and encoders with a decoder."""
    found: Any = MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None)
    if found is None or found.can_generate():
        raise ModelError(
            f"{source!r} has no masked language modelling head that can be read here: it is of the family "
            f"{config.model_type!r}. Name a model of another, such as 'bert', 'roberta', 'distilbert' or 'mpnet'."
        )


def check_head(source: str, config: PretrainedConfig, task: Task) -> None:
    """Refuse a folder whose weights have nothing of the task's head in them, whatever its configuration says. Only names
    are read; of a hub id nothing is known yet.

    Raises:
        ModelError: saying which head is missing.
    """
    files = list(local_path(source).glob("*.safetensors"))
    if task not in LABELLED_TASKS | {"masked_lm"} or not files:
        return
    with torch.device("meta"):
        model = untrained(config, task, dtype=torch.float32)
    tied = set(model.all_tied_weights_keys)
    parts = {name.partition(".")[0] for name in model.state_dict() if _in_head(name, model) and name not in tied}
    parts.discard(model.base_model_prefix)
    with _naming(source, f"cannot be loaded as {WORDS[task]}"):
        stored = {name.partition(".")[0] for file in files for name in _names_in(file)}
    if parts and not parts & stored:
        raise ModelError(_no_head(source, task))


def _names_in(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as weights:
        return list(weights.keys())


def _reads_both_ways(config: PretrainedConfig) -> bool:
    """Whether this is an encoder, also where transformers would put a causal head on it."""
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        return False
    return type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_decoder", None) is False


def _loaded(
    source: str, config: PretrainedConfig, task: Task, *, dtype: torch.dtype, **options: Any
) -> tuple[LoadedModel, list[str], list[str]]:
    """The model, the names of its weights that the checkpoint lacks, and of those that have another shape there."""
    place, tokenizer = _place(source), load_tokenizer(source)
    if task in LABELLED_TASKS and type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        text_config(config).pad_token_id = pad_id_of(tokenizer)  # a decoder finds a text's end by it
    with _naming(source, f"cannot be loaded as {WORDS[task]}"):
        loaded: Any = AUTO_CLASSES[task].from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **_class_options(config, task),
            **options,
        )
        embedding = read_embedding(place) if task == "sentence_embedding" else None
    model, found = loaded
    model = model.to(device())
    pooling, normalizes = (embedding.pooling, embedding.normalizes) if embedding else (None, False)
    whole = LoadedModel(model.eval(), tokenizer, source, Path(place), task, pooling, normalizes)
    return whole, sorted(found["missing_keys"]), sorted(key[0] for key in found["mismatched_keys"])


def device() -> torch.device:
    """Where models run: on this process's accelerator, if there is one."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else torch.device(found.type, int(os.environ.get("LOCAL_RANK", 0)))


def _class_options(config: PretrainedConfig, task: Task) -> dict[str, Any]:
    """No pooler for embeddings: they are pooled from the last hidden states. The other tasks' classes know by themselves."""
    if task != "sentence_embedding" or type(config) not in MODEL_MAPPING:
        return {}
    body: Any = MODEL_MAPPING[type(config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in signature(body).parameters else {}


def _in_head(name: str, model: PreTrainedModel) -> bool:
    """Whether this weight belongs to what a task adds to the body."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def _no_head(source: str, task: Task) -> str:
    head = "masked language modelling head" if task == "masked_lm" else "classification head"
    return (
        f"{source!r} has no {head}, so as {WORDS[task]} it would answer at random. Fine-tune it first, or name a model that "
        f"has a {head}."
    )


def _refuse_random_parts(source: str, names: Collection[str]) -> None:
    """Where weights are missing or of another shape, transformers goes on with random numbers."""
    if names:
        raise ModelError(
            f"{source!r} has no fitting weights for {len(names)} parts of the model that its config.json describes, such as "
            f"{min(names)}. Get a whole copy of it."
        )


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Only the tokenizer, without the weights.

    Raises:
        ModelError: as `load_model`.
    """
    with _naming(source, "has no tokenizer that can be loaded"):
        return AutoTokenizer.from_pretrained(_place(source), trust_remote_code=False)


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills rows up. A decoder that classifies finds the end of a text by it, so where the tokenizer has
    none of its own it is the end of a text, and only without that any."""
    chosen = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(number) for number in chosen if number is not None)


def load_config(source: str) -> PretrainedConfig:
    """Only the configuration, without the weights.

    Raises:
        ModelError: as `load_model`.
    """
    with _naming(source, "has no configuration that can be loaded"):
        config: PretrainedConfig = AutoConfig.from_pretrained(_place(source), trust_remote_code=False)
        depth = getattr(text_config(config), "num_hidden_layers", None)
        if isinstance(depth, int) and depth < 1:
            raise ValueError(f"num_hidden_layers is {depth}")
    return config


@contextmanager
def _naming(source: str, fault: str) -> Iterator[None]:
    """Whatever a loader raises becomes one line about `source`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # parsers raise what they like: bare exceptions, too
        if ran_out_of_memory(error):
            raise
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            raise ModelError(
                f"{source!r} is neither a folder here nor in the hub's cache, and the hub cannot be reached. Name a folder, or "
                f"run `hf download {source}` where there is a network."
            ) from error
        raise ModelError(f"{source!r} {fault}: {_one_line(error)}") from error


def _place(source: str) -> str:
    """What transformers can load from: a folder or a hub id."""
    check_exists(source)
    path = local_path(source)
    if path.is_file():
        return unpacked_gguf(path)
    return str(path) if is_there(path) else source


def local_path(source: str) -> Path:
    """Where `source` would be, were it no hub id."""
    try:
        return Path(source).expanduser()
    except RuntimeError:  # the home of somebody who has none here
        return Path(source)


def check_exists(source: str) -> None:
    """Refuse a path that leads nowhere or to no model, before anything else is done. A hub id is left for the hub to
    answer.

    Raises:
        ModelError: naming the path.
    """
    path = local_path(source)
    looks_local = source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") != 1
    if not source.strip() or (looks_local and not is_there(path)):
        raise ModelError(
            f"the model {shown(source)!r} is neither an existing folder or GGUF file, nor a hub id such as owner/name."
        )
    if is_there(path) and not path.is_dir() and path.suffix != ".gguf":
        raise ModelError(f"the model {source!r} is a file. Name the folder that it lies in, or a GGUF file.")
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelError(f"the folder {source!r} has no config.json, so there is no Hugging Face model in it.")


def check_weights(source: str) -> None:
    """Refuse a path that leads nowhere, or to a folder without weights that can be read, before anything else is done.

    Raises:
        ModelError: naming the path.
    """
    check_exists(source)
    path = local_path(source)
    if path.is_dir():
        if not any(file.is_file() for file in path.glob("*.safetensors")):
            raise ModelError(_no_safetensors(source))
        _check_index(path / "model.safetensors.index.json", source)


def refuse_pickled(source: str) -> None:
    """Refuse a folder of several modules that has pickled weights in the place of safetensors anywhere.

    Raises:
        ModelError: saying the way out.
    """
    for file in local_path(source).rglob("*.bin"):
        if file.name.startswith("pytorch_model") and not any(file.parent.glob("*.safetensors")):
            raise ModelError(_no_safetensors(source))


def _no_safetensors(source: str) -> str:
    return (
        f"the folder {source!r} has no weights in safetensors. Pickled ones can run code and are not read: save the model "
        "again with `model.save_pretrained(folder)`."
    )


def _check_index(file: Path, source: str) -> None:
    """An index of weights says in which files they lie: only such as lie beside it are read."""
    if not file.exists():
        return
    with _naming(source, "has an index of its weights that cannot be read"):
        index = json.loads(file.read_text(encoding="utf-8"))
        shards: Any = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict):
            raise ValueError(f"{file.name} has no weight_map")
    strange = [name for name in shards.values() if not is_plain_name(name)]
    if strange:
        raise ModelError(
            f"{source!r} has an index of its weights that names a file outside of the folder: {strange[0]!a}. Get a copy from "
            "somebody whom you trust."
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def display_name(source: str) -> str:
    """What to call a model in front of people: a hub id as it is, a file or folder without the folders that it lies in."""
    path = local_path(source)
    return path.name if path.exists() else source


def source_fingerprint(source: str) -> str:
    """Hash of the files that `source` names, without loading them, those in the folders of its modules too; for a hub id, of
    the id and its revision in the cache."""
    path = local_path(source)
    if path.is_file():
        return fingerprint_files([path])
    if path.is_dir():
        files = (file for folder in (path, *_module_folders(path)) for file in folder.iterdir())
        return fingerprint_files(file for file in files if file.suffix in FINGERPRINTED)
    return fingerprint([source, _cached_revision(source)])


FINGERPRINTED = (".safetensors", ".json", ".jinja", ".model", ".txt")


def _module_folders(folder: Path) -> list[Path]:
    """Where a sentence-transformers model keeps the weights of modules that are not its transformer: a static one, all."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return []
    try:
        paths = [folder / str(module["path"]) for module in json.loads(modules.read_text(encoding="utf-8"))]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
        return []  # whoever loads it will say so
    return [path for path in paths if path != folder and path.is_dir()]


def _cached_revision(hub_id: str) -> str | None:
    """The commit whose files a hub id's are: the name of the folder that they lie in. None before they are downloaded."""
    cached = try_to_load_from_cache(hub_id, "config.json")
    return Path(cached).parent.name if isinstance(cached, str) else None


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal only if every id means the same token: two vocabularies of equal size can still differ."""
    return fingerprint(sorted(tokenizer.get_vocab().items()))


def unpacked_gguf(file: Path) -> str:
    """The folder with this GGUF file's model in float32, made the first time.

    Raises:
        ModelError: if the file is not GGUF or its architecture is not known.
    """
    folder = _unpacked_folder(file)
    if not folder.exists():
        with atomic_path(folder) as part:
            _unpack(file, part)
    return str(folder)


def without_weights(source: str) -> str:
    """Where the tokenizer and the configuration alone can be loaded from: `source` itself, but of a GGUF file that nobody
    unpacked yet a folder with just these two, made the first time.

    Raises:
        ModelError: as `load_model`.
    """
    check_exists(source)
    if not waits_for_unpacking(source):
        return source
    file = local_path(source)
    folder = cache_folder() / "vocabularies" / _unpacked_folder(file).name
    if not folder.exists():
        with atomic_path(folder) as part, _reading_gguf(file):
            AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(part)
            AutoConfig.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(part)
    return str(folder)


def waits_for_unpacking(source: str) -> bool:
    """Whether `source` is a GGUF file that nobody unpacked yet: its first loading takes a while longer."""
    path = local_path(source)
    return path.is_file() and not _unpacked_folder(path).exists()


def _unpacked_folder(file: Path) -> Path:
    digest = _sha256_once(file, file.stat().st_mtime_ns)[:16]
    return cache_folder() / "unpacked" / f"{file.stem}-{digest}-transformers{transformers.__version__}"


@cache
def _sha256_once(file: Path, _changed_ns: int) -> str:
    """The hash of gigabytes that configuration, tokenizer and weights are each asked for."""
    return sha256_of(file)


@contextmanager
def _reading_gguf(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the reader raises whatever its parser meets
        if ran_out_of_memory(error):
            raise
        raise ModelError(f"{str(file)!r} cannot be read as GGUF: {_one_line(error)}") from error


def _unpack(file: Path, folder: Path) -> None:
    with _reading_gguf(file):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The weights are dense now; transformers would refuse to save a model that still calls itself quantised.
    model.config.__dict__.pop("quantization_config", None)
    model.__dict__.pop("hf_quantizer", None)
    model.__dict__.pop("is_quantized", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "unpacked_from.json").write_text(json.dumps({"file": file.name}), encoding="utf-8")
