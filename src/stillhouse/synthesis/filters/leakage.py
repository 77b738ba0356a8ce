"""What belongs to a chat template and not into a turn."""

import re
from typing import Literal

from transformers import PreTrainedTokenizerBase

from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, each, quoted, turns
from stillhouse.synthesis.records import Record

TOKENS = re.compile(
    r"<\|[\w /.-]{1,40}\|>|<｜[^｜<>]{1,40}｜>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>"
    r"|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS)\]"
)
"""Special tokens of common templates, written out: ChatML, Llama 2 and 3, Mistral, Gemma, DeepSeek and others."""
HEADINGS = re.compile(r"^#{1,4} ?(?:Instruction|Input|Response|Human|Assistant|User|System)s?\b ?:?", re.MULTILINE)
"""The headings of Alpaca's and Vicuna's templates."""
ROLES = re.compile(r"^\W{0,3}(?:User|Human|Assistant|AI Assistant|System)\W{0,3}:", re.MULTILINE | re.IGNORECASE)
"""A turn of somebody else, at the beginning of a line: `User:`, `**Human**:`."""
BARE_ROLES = re.compile(r"(?:^|\n)(?:user|assistant|system)\n", re.IGNORECASE)
"""A line that holds only a role: what is left of ChatML where its special tokens were not written out."""


class LeakageConfig(FilterSettings):
    """Drops what has pieces of a chat template in it: special tokens written out, or another speaker's turn in a turn."""

    name: Literal["template_leakage"] = "template_leakage"
    roles: bool = True
    """Whether a line that begins with a role, such as `User:`, is one too. Dialogues that are quoted or written for a script
    then go as well."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        own = sorted(map(str, tokenizer.all_special_tokens), key=len, reverse=True) if tokenizer is not None else []
        patterns = [("special token", TOKENS), ("heading of a template", HEADINGS)]
        if own:
            patterns.insert(0, ("special token", re.compile("|".join(map(re.escape, own)))))
        if self.roles:
            patterns += [("other speaker's turn", ROLES), ("other speaker's turn", BARE_ROLES)]
        said = "Drops what holds special tokens, or headings of a template" + (
            ", or others' turns." if self.roles else "."
        )
        return NamedFilter("template_leakage", said, each(lambda record: _reason(record, patterns)))


def _reason(record: Record, patterns: list[tuple[str, re.Pattern[str]]]) -> str:
    for turn in turns(record):
        for what, pattern in patterns:
            if found := pattern.search(turn.text):
                return f"{what} in the {turn.name} ({quoted(found.group())})"
    return ""
