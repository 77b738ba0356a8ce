"""What a recipe must not say of replay, and what is told of the rows that are mixed in."""

from collections.abc import Iterator
from typing import Any

from stillhouse.core.task import Task
from stillhouse.data.config import ChatDataConfig, DataConfig
from stillhouse.data.replay import ReplayDataConfig
from stillhouse.training.mixing import MixedRows


def replay_faults(
    replay: ReplayDataConfig | None, *, data: DataConfig, task: Task, rows_per_step: int
) -> Iterator[str]:
    """Why nothing can be mixed into this data: one sentence a fault, naming the keys."""
    if replay is None:
        return
    if task != "causal_lm":
        yield (
            f"replay mixes text or conversations into those that a language model learns, but data is of kind {data.kind!r}. "
            "Leave replay out."
        )
    if (
        isinstance(data, ChatDataConfig)
        and data.teacher_context is not None
        and data.teacher_context.replay is not None
    ):
        yield "replay and data.teacher_context.replay are both given. Give one."
    if replay.share and replay.learn == "next_token":
        for share, rows in ((replay.share, "replayed"), (1 - replay.share, "other")):
            if share * rows_per_step < 1 - 1e-9:
                yield (
                    f"replay.share is {replay.share:g}, so that not every step of training.rows_per_step ({rows_per_step}) "
                    f"has one of the {rows} rows, but with learn: next_token each has a mean of its own in each step. "
                    f"{'Raise' if rows == 'replayed' else 'Lower'} the share, or raise rows_per_step."
                )


def account_of(rows: MixedRows) -> dict[str, Any]:
    """How much is mixed in, in an epoch. Of the tokens, on average: which rows come, differs."""
    new, old = sum(rows.new.lengths), sum(rows.old.lengths) * rows.num_replayed / len(rows.old)
    return {
        "rows": rows.num_replayed,
        "of_rows": len(rows),
        "token_share": old / (new + old),
        "times": rows.num_replayed / len(rows.old),
    }


def said_of(account: dict[str, Any]) -> str:
    """The same for people."""
    share = 100 * account["rows"] / account["of_rows"]
    said = f"replay: {account['rows']:,} of {account['of_rows']:,} rows an epoch ({share:.1f} %)"
    return (
        f"{said}, {100 * account['token_share']:.1f} % of the tokens; each comes {account['times']:.2g} times an epoch"
    )
