"""The batch of a step that went astray, kept for whoever wants to see what was in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from stillhouse.core.files import atomic_path


def keep_batch(batches: Sequence[Mapping[str, Tensor]], file: Path) -> None:
    """All micro-batches of one step in one file: `0.ids` are the token ids of the first."""
    named = {f"{n}.{name}": tensor.cpu().clone() for n, batch in enumerate(batches) for name, tensor in batch.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as part:
        save_file({name: tensor.contiguous() for name, tensor in named.items()}, part)
