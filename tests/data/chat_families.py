"""Families of chat models: their templates, their special tokens, and how each writes what the assistant says."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent / "templates"

SENTENCES = [
    "the small fox ran over the hill and saw a red house",
    "system user assistant tool: what is the weather in Paris today? It is 22 degrees.",
    '<tool_call> {"name": "weather", "arguments": {"city": "Paris"}} </tool_call>',
    "\n\n  two lines,\r\n\r\nand a run of   spaces  \n<think>\n\n</think>\n\n",
]


@dataclass(frozen=True)
class Family:
    """One family; `turn` and `call` are what the assistant's turns look like, ends of turn included."""

    name: str
    specials: str
    end: str
    call: str | None = None
    """The turn of `CALLING`; None where the template has no tools."""
    says: Callable[[str], str] = str
    """What the template makes of a text."""
    bos: str | None = None
    eos: str | None = None
    takes_space: bool = False
    """Whether special tokens take the white space behind them with them, as Phi-3's do."""
    system: bool = True
    thinks: bool = False


CALLING = '{"name": "weather", "arguments": {"city": "Pärís"}}'
QWEN_CALL = f"I look.\n<tool_call>\n{CALLING}\n</tool_call><|im_end|>"
CHATML = "<|im_start|> <|im_end|> <|endoftext|>"

FAMILIES = {
    family.name: family
    for family in (
        Family("chatml", CHATML, "<|im_end|>"),
        Family("smollm2", CHATML, "<|im_end|>", bos="<|im_start|>"),
        Family("qwen2_5", CHATML, "<|im_end|>", QWEN_CALL),
        Family("qwen3", CHATML, "<|im_end|>", QWEN_CALL, thinks=True),
        Family("phi3_5", "<|system|> <|user|> <|assistant|> <|end|> <|endoftext|>", "<|end|>", eos="<|endoftext|>"),
        Family("phi4", CHATML + " <|im_sep|>", "<|im_end|>"),
        Family(
            "phi4_mini",
            "<|system|> <|user|> <|assistant|> <|tool|> <|/tool|> <|tool_call|> <|/tool_call|> <|tool_response|> <|end|> "
            "<|endoftext|>",
            "<|end|>",
            f"I look.<|tool_call|>{CALLING}<|/tool_call|><|end|>",
            eos="<|endoftext|>",
        ),
        Family(
            "mistral",
            "<s> </s> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] "
            "[TOOL_RESULTS] [/TOOL_RESULTS]",
            "</s>",
            f'[TOOL_CALLS] [{CALLING[:-1]}, "id": "abcdefghi"}}]</s>',
            bos="<s>",
        ),
        Family(
            "mistral_7b",
            "<s> </s> [INST] [/INST]",
            "</s>",
            says=lambda text: " " + text.strip(),
            bos="<s>",
            system=False,
        ),
        Family(
            "llama3_2",
            "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>",
            "<|eot_id|>",
            CALLING.replace("arguments", "parameters") + "<|eot_id|>",
            says=str.strip,
            bos="<|begin_of_text|>",
        ),
        Family("gemma3", "<bos> <eos> <start_of_turn> <end_of_turn>", "<end_of_turn>", says=str.strip, bos="<bos>"),
    )
}
FAMILIES["phi3_5_taking"] = Family(**{**vars(FAMILIES["phi3_5"]), "name": "phi3_5_taking", "takes_space": True})


WORDS = Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KEEP_LINE_ENDS_TOGETHER = ("qwen2_5", "qwen3", "llama3_2", "phi4")
"""Their tokenizers cut a text so that several line ends may be one token; that of the others is GPT-2's, which lets the
last one go before a word."""


def has(name: str) -> bool:
    """Whether its template can be read here."""
    return _file(name) is not None


def _file(name: str) -> Path | None:
    own = HERE / f"{name.removesuffix('_taking')}.jinja"
    found = importlib.util.find_spec("trl")
    if own.exists() or found is None or found.origin is None:
        return own if own.exists() else None
    return Path(found.origin).parent / "chat_templates" / own.name


def template_of(name: str) -> str:
    """The text of a template."""
    file = _file(name)
    assert file is not None
    return file.read_text(encoding="utf-8")


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A small byte-level BPE with the family's special tokens and its template."""
    family = FAMILIES[name]
    bpe = Tokenizer(models.BPE())
    if family.name in KEEP_LINE_ENDS_TOGETHER:
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(SENTENCES * 20, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    specials = family.specials.split()
    bpe.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, rstrip=family.takes_space) for token in specials]
    )
    eos = family.eos or family.end
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=family.bos, eos_token=eos, pad_token=eos, chat_template=template_of(name)
    )


def without_space(text: str) -> str:
    """For comparing where white space is not at issue."""
    return re.sub(r"\s", "", text)
