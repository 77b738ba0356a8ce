"""Linear maps between a student's width and its teacher's: trained with the student, kept beside it, never inside it."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stillhouse.core.files import atomic_path

FILE_NAME = "projections.safetensors"


class Projections(nn.Module):
    """One linear map for each name whose two widths differ; where they are equal, states pass as they are.

    A map starts out orthogonal, so that into a wider space lengths and angles stay as they are; one between equal widths, which
    `always` may ask for by name, as the identity.
    """

    def __init__(self, widths: Mapping[str, tuple[int, int]], *, seed: int, always: Collection[str] = ()) -> None:
        """`widths` are those of what is mapped and of what it is mapped to, by name: any text."""
        super().__init__()
        self.widths, self.always = dict(widths), [name for name in widths if name in always]
        mapped = [name for name, pair in widths.items() if pair[0] != pair[1] or name in always]
        self.numbers = {name: number for number, name in enumerate(mapped)}
        draw = torch.Generator().manual_seed(seed)
        maps = (torch.empty(self.widths[name][::-1]) for name in self.numbers)  # [to, from]
        self.maps = nn.ParameterList([nn.Parameter(_started(empty, draw)) for empty in maps])

    def forward(self, name: str, states: Float[Tensor, "*positions width"]) -> Float[Tensor, "*positions other_width"]:
        """One side's states in the other's space."""
        assert states.shape[-1] == self.widths[name][0], f"{name} is made for states of width {self.widths[name][0]}"
        if name not in self.numbers:
            return states
        return nn.functional.linear(states, self.maps[self.numbers[name]].to(states.dtype))

    def save(self, folder: Path, *, maps: Sequence[Tensor] | None = None) -> None:
        """Write all maps, by name, to `projections.safetensors` in this folder; `maps` stand in where they are elsewhere."""
        found = self.maps if maps is None else maps
        tensors = {name: found[number].detach().contiguous() for name, number in self.numbers.items()}
        with atomic_path(folder / FILE_NAME) as part:
            # One entry: of several, safetensors writes any one first, and the same maps would not be the same bytes.
            save_file(tensors, part, metadata={"maps": json.dumps({"widths": self.widths, "always": self.always})})

    @classmethod
    def load(cls, folder: Path) -> "Projections":
        """Those that `save` wrote there."""
        with safe_open(folder / FILE_NAME, framework="pt") as file:
            said = json.loads(file.metadata()["maps"])
            widths = {name: (pair[0], pair[1]) for name, pair in said["widths"].items()}
            found = cls(widths, seed=0, always=said["always"])
            for name, number in found.numbers.items():
                found.maps[number].data.copy_(file.get_tensor(name))
        return found


def _started(empty: Float[Tensor, "to width"], draw: torch.Generator) -> Float[Tensor, "to width"]:
    square = empty.shape[0] == empty.shape[1]
    return nn.init.eye_(empty) if square else nn.init.orthogonal_(empty, generator=draw)
