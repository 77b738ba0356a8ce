"""The first stage: the teacher writes the texts of all rounds by now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.synthesis.diversity import before_and_after
from stillhouse.synthesis.filters import NamedFilter, account_of, run_filters
from stillhouse.synthesis.licence import licence_of, said_about_outputs
from stillhouse.synthesis.records import Ask, Record
from stillhouse.synthesis.worlds import Cell, World, coverage_of, draw_wishes, summarised, world_texts
from stillhouse.teachers import RemoteTeacherConfig
from stillhouse.teachers.writer import Writer


@dataclass(frozen=True)
class Program:
    """What asks: every round anew, of which the ledger knows all but the last."""

    recipe: StoryRecipe
    world: World
    writer: Writer
    filters: Sequence[NamedFilter]
    cells: Sequence[Sequence[Cell]]
    """For each round after the first the cells that it asks in, one a text; empty where chance decides."""

    @property
    def talks(self) -> bool:
        """Whether it is asked in conversations."""
        return self.writer.tokenizer is None or bool(self.writer.tokenizer.chat_template)

    def __call__(self, ask: Ask) -> list[Record]:
        """All texts, dropped ones with their reason. What is kept of a round does not depend on those behind it."""
        data = self.recipe.data
        records = self._round(ask, 0, data.number, ())
        for number, cells in enumerate(self.cells, start=1):
            records += self._round(ask, number, self.recipe.rounds.number, cells)
        clean = run_filters(records, self.filters)
        found = summarised(ask, self.world, clean, share=data.instruct, seed=data.seed, talks=self.talks)
        passed = {"teacher": self.writer.name, "filters": [one.name for one in self.filters]}
        return [replace(record, lineage={**record.lineage, **passed}) for record in found]

    def _round(self, ask: Ask, number: int, texts: int, cells: Sequence[Cell]) -> list[Record]:
        data = self.recipe.data
        wishes = draw_wishes(self.world, texts, seed=data.seed, round=number, cells=cells)
        return world_texts(
            ask,
            self.world,
            wishes,
            sampling=data.sampling,
            round=number,
            talks=self.talks,
            render=self._render,
            ends=data.ends,
        )

    @property
    def _render(self) -> Callable[[str], str] | None:
        """None of a teacher behind an API: what it reads in the end is not written here."""
        tokenizer = self.writer.tokenizer
        if tokenizer is None or isinstance(self.recipe.teacher, RemoteTeacherConfig):
            return None

        def rendered(prompt: str) -> str:
            asked = [{"role": "user", "content": prompt}]
            return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))

        return rendered

    def account(self, records: Sequence[Record]) -> dict[str, Any]:
        """What became of all texts, how much of the world they cover, and how varied they are, for the card."""
        kept = [record for record in records if not record.dropped]
        found = {**account_of(records, self.filters), "coverage": coverage_of(self.world, records)}
        if kept:
            found["diversity"] = before_and_after([record for record in records if record.text], kept)
        return found


def about(recipe: StoryRecipe, world: World, writer: Writer) -> dict[str, Any]:
    """Who writes, how it is drawn, and the licence: the head of the card."""
    remote = recipe.teacher if isinstance(recipe.teacher, RemoteTeacherConfig) else None
    licence = licence_of(recipe.teacher.model if remote is None else remote.tokenizer or "")
    unnamed = "not named in its files" if remote is None else "not known here: ask who runs the model"
    return {
        "written_by": {
            "model": writer.name,
            "fingerprint": writer.fingerprint,
            **({"at": remote.base_url} if remote else {}),
            "questions_drawn": recipe.data.sampling.model_dump(mode="json"),
        },
        "source": {"kind": "world", "world": world.name, "seed": recipe.data.seed},
        "licence": {
            "named": licence["licence"] or unnamed,
            "link": licence["link"],
            "about_training_on_its_outputs": said_about_outputs(licence),
        },
    }
