"""Tiny random models and tiny tokenizers, made here: no test downloads anything."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # where processes of their own look for what they are to run

# Before torch, which imports Triton, and that asks once. TRITON_INTERPRET=0 runs its kernels on a machine's own GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Before anything of ours, which it sees to the checking of.
from . import annotations

# isort: split
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from stillhouse.core.task import Task
from stillhouse.data.examples import Example
from stillhouse.models.labels import name_labels
from stillhouse.models.load import LABELLED_TASKS, ONE_NUMBER, PROBLEM_TYPES, untrained


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector, which accelerate calls at every turn, need not look through it again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Each test has its first calls checked."""
    annotations.calls.clear()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """What a test leaves behind stays, too: checks of functions, modules imported late, fixtures. Where it left little, it is
    looked through later."""
    if any(gc.get_count()[1:]):
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_the_disk() -> Iterator[None]:
    """What is flushed to it only a machine that loses its power would tell. Processes that tests kill do flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


SENTENCES = [
    "the small fox ran over the hill and saw a red house",
    "a girl found a key in the garden and opened the old door",
    "one day the robot learned to sing and all the birds came",
    "the old man had a boat and went out to sea every day",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 8},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 5.0},
    "gpt2": {},
    "gpt_neox": {},
}
# Families whose head does more than multiply.
HEAD_FAMILIES: dict[str, dict[str, object]] = {
    "granite": {"num_key_value_heads": 2, "logits_scaling": 4.0},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.25},
    "phi": {},  # a bias
}
# Families that packed documents would leak through, were they not given a row each.
LEAKY_FAMILIES: dict[str, dict[str, object]] = {
    "bloom": {},  # distances, not positions
    "gpt_oss": {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4, "experts_implementation": "eager"},
    "lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "qwen3_5_text": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 tokens with the special tokens that chat models have."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|start|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
    )


def make_model(
    family: str = "llama", *, layers: int = 4, vocab: int = 300, hidden: int = 32, seed: int = 0, **changes: object
) -> PreTrainedModel:
    """A random model of this family, `changes` being settings of its own."""
    settings = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "attention_dropout": 0.0,
        "initializer_range": 0.2,
        **(FAMILIES | HEAD_FAMILIES | LEAKY_FAMILIES).get(family, {}),
        **changes,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no bias is 0 and no norm is 1, so that leaving one out shows
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *["the", "a", "small", "old", "fox", "man", "girl", "robot", "bird", "boat", "sea", "hill", "house", "garden"],
    *["key", "door", "day", "ran", "saw", "sang", "found", "went", "opened", "over", "into", "and", "to", "in"],
    *["had", "red", "green", "again", "never", "always"],
]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,"]


def make_bert_tokenizer(*, segments: bool = True) -> PreTrainedTokenizerFast:
    """WordPiece over a few words and all letters: a word that is not known is spelt. Without `segments` it is DistilBERT's."""
    pieces = [*SPECIALS, *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    wordpiece = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=names,
    )


ENCODERS: dict[str, dict[str, object]] = {
    "bert": {},
    "distilbert": {},
    "roberta": {"pad_token_id": 1},
    "mpnet": {"pad_token_id": 1},
    "electra": {"embedding_size": 16},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "norm_bias": True, "attention_bias": True},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
}
LABELS = ("anger", "joy", "fear")


def make_encoder(
    family: str = "bert",
    task: Task = "masked_lm",
    *,
    layers: int = 4,
    seed: int = 0,
    labels: Sequence[str] = LABELS,
    **changes: object,
) -> PreTrainedModel:
    """A random encoder of this family for this task, `changes` being settings of its own."""
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "hidden_dim" if family == "distilbert" else "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "initializer_range": 0.2,
        **ENCODERS[family],
        **changes,
    }
    config = AutoConfig.for_model(family, **settings)
    if task in LABELLED_TASKS:
        name_labels(config, labels[:1] if task in ONE_NUMBER else labels)
        config.problem_type = PROBLEM_TYPES.get(task)
    torch.manual_seed(seed)
    model = untrained(config, task, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # no bias is 0 and no norm is 1, so that leaving one out shows
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def make_example(seed: int, tokens: int, *, prompt: int = 1, vocab: int = 300) -> Example:
    """A document of random tokens, of which those after the prompt are to be learnt."""
    ids = torch.randint(2, vocab, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Example(tuple(ids), (0.0,) * prompt + (1.0,) * (tokens - prompt), 3 * (tokens - prompt))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def bert_tokenizer() -> PreTrainedTokenizerFast:
    return make_bert_tokenizer()


@pytest.fixture(scope="session")
def distilbert_tokenizer() -> PreTrainedTokenizerFast:
    return make_bert_tokenizer(segments=False)


@pytest.fixture(scope="session")
def build_encoder() -> Callable[..., PreTrainedModel]:
    return make_encoder


@pytest.fixture(params=sorted(ENCODERS))
def encoder_family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(FAMILIES | HEAD_FAMILIES | LEAKY_FAMILIES))
def any_family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted((FAMILIES | HEAD_FAMILIES | LEAKY_FAMILIES).keys() - {"bloom"}))
def stack_family(request: pytest.FixtureRequest) -> str:
    """A family whose layers hand hidden states, and nothing else, to the next."""
    return str(request.param)


@pytest.fixture(scope="session")
def build_model() -> Callable[..., PreTrainedModel]:
    return make_model


@pytest.fixture(scope="session")
def build_example() -> Callable[..., Example]:
    return make_example


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher on disk, with its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    tokenizer = make_tokenizer()
    make_model(vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
