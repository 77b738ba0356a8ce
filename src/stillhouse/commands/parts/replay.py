"""Other data among that of a recipe: what is read of it, what is mixed in, and what is measured on."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.recipe import Recipe
from stillhouse.data.asked import packed
from stillhouse.data.config import ChatDataConfig, RagDataConfig, TextDataConfig
from stillhouse.data.context import ContextRows, views_of
from stillhouse.data.paired import PairedRows
from stillhouse.data.replay import Replayed, read_replay
from stillhouse.data.rowset import RowSet
from stillhouse.kernels.terms import Term
from stillhouse.training.mixing import DocumentRows, MixedRows
from stillhouse.training.rollouts import AskedRows


def read_replayed(
    recipe: Recipe,
    data_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> Replayed | None:
    """The data to replay, where the recipe asks for any, less what it has in common with the data that is there already."""
    wanted, data = recipe.replay, recipe.data
    if wanted is None:
        return None
    assert isinstance(data, TextDataConfig | ChatDataConfig)
    judged = None if isinstance(data, RagDataConfig) else data.held_out_path  # which holds questions alone
    return read_replay(
        wanted,
        data,
        tokenizer,
        data_paths=[path for path in (data_path, judged) if path is not None and path.exists()],
        teacher_tokenizer=teacher_tokenizer,
    )


def mixed(rows: RowSet, recipe: Recipe, found: Replayed | None) -> RowSet:
    """These rows with replayed ones among them, where the recipe asks for any."""
    wanted = recipe.replay
    if wanted is None or not wanted.share:
        return rows
    assert found is not None
    old = replayed_like(rows, found, row_tokens=recipe.data.sequence_tokens)
    return MixedRows(rows, old, share=wanted.share, seed=wanted.seed)


def replayed_like(rows: RowSet, found: Replayed, *, row_tokens: int) -> RowSet:
    """All that can be replayed, in the form of the rows among which it is to stand."""
    match rows:
        case AskedRows():
            return DocumentRows(found.asked, in_context=any(one.told for one in rows.asked))
        case PairedRows():
            return PairedRows(found.pairs, row_tokens=row_tokens)
        case ContextRows():
            return ContextRows(list(views_of(found.asked)), row_tokens=row_tokens)
    return packed(found.asked, row_tokens=row_tokens)


def replay_terms(recipe: Recipe) -> list[Term]:
    """What is learnt of replayed rows in the place of the objectives."""
    wanted = recipe.replay
    apart = wanted is not None and wanted.share > 0 and wanted.learn == "next_token"
    return [Term("next_token", wanted.weight)] if wanted is not None and apart else []


def is_labelled(recipe: Recipe) -> bool:
    """Whether the teacher is asked about replayed rows too."""
    wanted = recipe.replay
    return wanted is not None and wanted.share > 0 and wanted.learn == "objectives"
