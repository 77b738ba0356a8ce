"""A narrow world of text: which words there are, what a text can have, and how it is asked for. Prompts, cells, coverage."""

from stillhouse.synthesis.worlds.cells import Cell, Weak, shared_out, weak_cells
from stillhouse.synthesis.worlds.coverage import coverage_of
from stillhouse.synthesis.worlds.drawing import Wish, draw_wishes, opening_of, prompt_of
from stillhouse.synthesis.worlds.instruct import instruction_of
from stillhouse.synthesis.worlds.world import WORLDS, World, load_world
from stillhouse.synthesis.worlds.writing import summarised, world_texts

__all__ = [
    "WORLDS",
    "Cell",
    "Weak",
    "Wish",
    "World",
    "coverage_of",
    "draw_wishes",
    "instruction_of",
    "load_world",
    "opening_of",
    "prompt_of",
    "shared_out",
    "summarised",
    "weak_cells",
    "world_texts",
]
