"""What the pictures show is what the formulas give for the numbers that they state."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stillhouse.core.alignment import align
from stillhouse.objectives import PREFERENCES, AnswerPairs, forward_kl, objective, reverse_kl

PICTURES = Path(__file__).parents[2] / "docs" / "images" / "objectives"
TEACHER, STUDENT = "#2f81f7", "#d4761b"
HALF_A_PIXEL = 0.5
"""What is less high is not drawn."""
ROUNDED = 0.0501
"""Pixels: heights are written to a tenth."""


class Bar(NamedTuple):
    """A bar that stands on the line."""

    left: float
    height: float


def elements(picture: str, tag: str) -> Iterator[ElementTree.Element]:
    return ElementTree.parse(PICTURES / picture).iter(f"{{http://www.w3.org/2000/svg}}{tag}")


def words(picture: str) -> str:
    return " ".join("".join(text.itertext()) for text in elements(picture, "text"))


def numbers(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text!r}"
    return [float(number) for group in found.groups() for number in group.split(", ")]


def bars(picture: str, colour: str, *, panel: int, panel_width: float) -> list[Bar]:
    """The bars of one colour in one panel, from left to right."""
    found = [
        Bar(float(rect.attrib["x"]), float(rect.attrib["height"]))
        for rect in elements(picture, "rect")
        if rect.attrib["fill"] == colour
    ]
    return sorted(bar for bar in found if bar.left // panel_width == panel)


def are_drawn(shares: Tensor, drawn: list[Bar], *, first: float, step: float, pixels: float) -> None:
    """Each share has its bar in its place, as high as it is large."""
    heights = torch.zeros_like(shares)
    for bar in drawn:
        heights[round((bar.left - first) / step)] = bar.height
    wanted = shares * pixels
    assert_close(heights, torch.where(wanted < HALF_A_PIXEL, 0.0, wanted), rtol=0, atol=ROUNDED)


def test_the_temperature_picture_is_the_softmax_of_the_logits_that_it_states():
    picture = "temperature.svg"
    logits = torch.tensor(numbers(r"logits ([\d., ]+\d)", words(picture)))
    temperatures = [float(number) for number in re.findall(r"T = (\d+)", words(picture))]
    for panel, temperature in enumerate(temperatures):
        drawn = bars(picture, TEACHER, panel=panel, panel_width=250)
        are_drawn((logits / temperature).softmax(-1), drawn, first=30 + 250 * panel, step=25, pixels=150)
    likeliest = [f"{(logits / temperature).softmax(-1).max():.0%}" for temperature in temperatures]
    assert re.findall(r"\d+%", words(picture)) == likeliest


def bumps(centre: Tensor, width: Tensor) -> Tensor:
    """Logits of one bump over 13 tokens for each centre and width."""
    return -((torch.arange(13) - centre[..., None]) ** 2) / (2 * width[..., None] ** 2)


def two_peaks(text: str) -> Tensor:
    """The teacher's shares, as the picture states them."""
    first, centre, width, second, other_centre, other_width = torch.tensor(
        numbers(r"p: (\d+)% c = ([\d.]+), s = ([\d.]+); (\d+)% c = ([\d.]+), s = ([\d.]+)", text)
    )
    assert first + second == 100
    return (first * bumps(centre, width).softmax(-1) + second * bumps(other_centre, other_width).softmax(-1)) / 100


@pytest.mark.parametrize(("panel", "divergence"), [(0, forward_kl), (1, reverse_kl)])
def test_each_student_in_the_picture_of_responses_is_the_best_of_all_bumps(
    panel: int, divergence: Callable[[Tensor, Tensor], Tensor]
):
    picture, pixels = "responses.svg", 250
    teacher = two_peaks(words(picture))
    centre, width = numbers(rf"{divergence.__name__}: c = ([\d.]+), s = ([\d.]+)", words(picture))
    centres, widths = torch.meshgrid(torch.arange(0, 121) / 10, torch.arange(3, 101) / 10, indexing="ij")
    all_bumps = bumps(centres, widths)
    losses = divergence(all_bumps, teacher.log().expand_as(all_bumps))
    best = losses.argmin()
    assert_close(torch.stack([centres.flatten()[best], widths.flatten()[best]]), torch.tensor([centre, width]))

    def drawn(colour: str) -> list[Bar]:
        return bars(picture, colour, panel=panel, panel_width=380)

    first, step = 110 + 300 * panel, 240 / 13
    student = bumps(torch.tensor(centre), torch.tensor(width)).softmax(-1)
    are_drawn(teacher, drawn(TEACHER), first=first, step=step, pixels=pixels)
    are_drawn(student, drawn(STUDENT), first=first + 7.5, step=step, pixels=pixels)


def test_the_picture_of_two_tokenizers_parts_the_text_into_the_spans_that_its_tokens_have():
    picture, left, width = "cross-tokenizer.svg", 118, 26
    tokens = {
        colour: [
            "".join(text.itertext())
            for text in elements(picture, "text")
            if text.get("fill") == colour and "font-family" in text.attrib
        ]
        for colour in (TEACHER, STUDENT)
    }
    assert "".join(tokens[TEACHER]) == "".join(tokens[STUDENT])
    ends = [torch.tensor([len(token) for token in tokens[colour]]).cumsum(0) for colour in (STUDENT, TEACHER)]
    wanted = [0, *align(*ends).ends.tolist()]
    drawn = [(float(line.attrib["x1"]) - left) / width for line in elements(picture, "line")]
    assert drawn == wanted
    starts = [(float(circle.attrib["cx"]) - left) / width for circle in elements(picture, "circle")]
    assert starts == wanted[:-1]


def points(picture: str, name: str) -> Tensor:
    """[points, 2]: where a curve goes, in pixels."""
    (curve,) = (line for line in elements(picture, "polyline") if line.attrib["id"] == name)
    return torch.tensor([[float(number) for number in point.split(",")] for point in curve.attrib["points"].split()])


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_picture_of_margins_is_what_the_objectives_say_at_beta_1(name):
    picture = "margins.svg"
    (target,) = numbers(r"the teacher's margin = (\d+)", words(picture))
    places = points(picture, name)
    margins = (places[:, 0] - 60) / 520 * 8 - 4
    nothing = torch.zeros(len(margins))
    student, teacher = (torch.stack([side, nothing], -1) for side in (margins, torch.full_like(margins, target)))
    found = objective(name).bind(beta=1.0)(AnswerPairs(student, torch.zeros_like(student), teacher))
    assert len(places) > 60
    # Half of a tenth of a pixel in the margin is 0.005 of a nat or less where a curve is at its steepest.
    assert_close(250 - 210 / 4 * found, places[:, 1], rtol=0, atol=0.4)
