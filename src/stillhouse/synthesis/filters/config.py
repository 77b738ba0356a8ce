"""What a recipe can say about which records are kept."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from stillhouse.synthesis.filters.agreement import AgreementConfig
from stillhouse.synthesis.filters.core import NamedFilter
from stillhouse.synthesis.filters.decontamination import DecontaminationConfig
from stillhouse.synthesis.filters.duplicates import DuplicatesConfig, NearDuplicatesConfig
from stillhouse.synthesis.filters.keywords import KeywordsConfig
from stillhouse.synthesis.filters.language import LanguageConfig, ScriptConfig
from stillhouse.synthesis.filters.leakage import LeakageConfig
from stillhouse.synthesis.filters.length import LengthConfig, UnfinishedConfig
from stillhouse.synthesis.filters.refusals import RefusalsConfig
from stillhouse.synthesis.filters.repetition import RepetitionConfig
from stillhouse.synthesis.filters.worlds import FeaturesConfig, LengthsConfig, RequiredWordsConfig, VocabularyConfig

FilterConfig = Annotated[
    LengthConfig
    | UnfinishedConfig
    | RepetitionConfig
    | LanguageConfig
    | ScriptConfig
    | RefusalsConfig
    | LeakageConfig
    | DuplicatesConfig
    | NearDuplicatesConfig
    | DecontaminationConfig
    | AgreementConfig
    | KeywordsConfig
    | RequiredWordsConfig
    | FeaturesConfig
    | LengthsConfig
    | VocabularyConfig,
    Field(discriminator="name"),
]

CHAT_FILTERS: tuple[FilterConfig, ...] = (
    LengthConfig(),
    UnfinishedConfig(),
    LeakageConfig(),
    RepetitionConfig(),
    RefusalsConfig(),
    DuplicatesConfig(),
    NearDuplicatesConfig(),
)
"""For conversations, the cheap ones first. They may go over questions before anybody answers, and over the answers then."""

TEXT_FILTERS: tuple[FilterConfig, ...] = (
    LengthConfig(),
    LeakageConfig(),
    RepetitionConfig(),
    DuplicatesConfig(),
    NearDuplicatesConfig(shingle_words=5),
)
"""For texts, which a limit of tokens often cuts off without harm."""


def world_filters(world: str) -> tuple[FilterConfig, ...]:
    """For texts of a world, which were asked to have certain words."""
    return (
        UnfinishedConfig(punctuation=True),
        LengthsConfig(world=world),
        RequiredWordsConfig(world=world),
        FeaturesConfig(world=world),
        VocabularyConfig(world=world),
        LeakageConfig(),
        RepetitionConfig(),
        DuplicatesConfig(),
        NearDuplicatesConfig(shingle_words=5),
    )


def default_filters(kind: Literal["chat", "text"]) -> tuple[FilterConfig, ...]:
    """What is right for most data of this kind."""
    return CHAT_FILTERS if kind == "chat" else TEXT_FILTERS


def build_filters(
    filters: Sequence[FilterConfig], *, tokenizer: PreTrainedTokenizerBase | None = None
) -> list[NamedFilter]:
    """The filters, in their order.

    Raises:
        StillhouseError: for a file that cannot be read, or a package that is missing.
    """
    return [one.build(tokenizer=tokenizer) for one in filters]
