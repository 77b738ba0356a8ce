"""The last stage: `report.html` and the model card, from what the stages before left behind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.commands.adapters import ADAPTER_FOLDER
from stillhouse.commands.alarm_log import alarms_of
from stillhouse.commands.parts.learnt import num_tokens
from stillhouse.commands.plan.saved import planned_beside
from stillhouse.commands.remote import spent_elsewhere
from stillhouse.commands.stages.evaluating import evaluate, everything
from stillhouse.commands.stages.grounded_answers import grounded_account
from stillhouse.commands.stages.training import made_beside_the_student
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.config import to_yaml
from stillhouse.core.files import fingerprint_files
from stillhouse.core.objects import files_of
from stillhouse.core.results import EvaluationResult
from stillhouse.synthesis import CARD
from stillhouse.synthesis.licence import licence_of, said_about_outputs


def report(shop: Workshop) -> EvaluationResult:
    """`report.html` and the model card, from what the stages left behind."""
    result, card = evaluate(shop), shop.run.student / "README.md"

    def work() -> dict[str, Any]:
        _write_report(shop, result, card)
        return {}

    makes = [shop.run.report, card]
    if ADAPTER_FOLDER in made_beside_the_student(shop):
        makes.append(shop.run.path / ADAPTER_FOLDER / "README.md")
    title, shown = "the report is written", [shop.recipe]
    shop.once("report", title, made_from=everything(shop), work=work, makes=makes, asked=shown)
    return result


def _write_report(shop: Workshop, result: EvaluationResult, card: Path) -> None:
    from stillhouse.reporting import write_adapter_card, write_card, write_report, write_summary

    stages, teacher = shop.run.stages(), _teacher(shop)
    licence = teacher.get("licence") or None
    layers = _layers(stages["student"].get("layers"))
    data = _data_account(shop, stages)
    recipe_yaml = to_yaml(shop.recipe)
    write_report(
        shop.run.report,
        title=shop.run.path.name,
        result=result,
        curves=shop.metrics.curves(),
        recipe_yaml=recipe_yaml,
        layers=layers,
        data=data,
        stages=[{"name": name, "seconds": done["seconds"]} for name, done in stages.items()],
    )
    write_card(
        card,
        student_name=shop.run.path.name,
        result=result,
        teacher=teacher,
        recipe_yaml=recipe_yaml,
        layers=layers,
        data=data,
        licence=licence,
    )
    write_summary(shop.run.summary, title=shop.run.path.name, result=result)
    if "adapter" in data:
        write_adapter_card(
            shop.run.path / ADAPTER_FOLDER / "README.md",
            student_name=shop.run.path.name,
            result=result,
            adapter=data["adapter"],
            licence=licence,
        )


def _teacher(shop: Workshop) -> dict[str, str]:
    """What it is called, and what its files say of its licence; what a server calls its model names nothing that could be
    loaded."""
    model = shop.recipe.teacher.model
    if shop.parts.remote is not None:
        return {"name": f"{model}, behind an API"}
    found = licence_of(model)
    known = {"licence": found["licence"], "licence_link": found["link"]}
    if found["looked_in"]:
        known["output_terms"] = said_about_outputs(found)
    return {"model": model, "fingerprint": shop.parts.teacher_fingerprint, **known}


def _layers(choice: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if choice is None else {**choice, "scores": choice["influence"]}


def _sources(shop: Workshop) -> list[Path]:
    """Every file or folder that the data came from: what the teacher wrote is one."""
    recipe = shop.recipe
    replayed = [recipe.replay.path] if recipe.replay is not None else []
    return list(dict.fromkeys([shop.parts.data_path, *recipe.data.sources, *replayed]))


def _hash(path: Path) -> str:
    return fingerprint_files(files_of(path))


def _data_account(shop: Workshop, stages: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What the report says of the data: each part of a recipe that has something to tell adds its own."""
    data, replayed = shop.parts.data, shop.parts.replayed
    account: dict[str, Any] = {
        "train_documents": data.num_train_documents,
        "train_tokens": num_tokens(shop.parts.learnt),
        "held_out_documents": data.num_held_out_documents,
        "sources": [{"name": path.name, "hash": _hash(path)} for path in _sources(shop)],
    }
    if "synthesize" in stages:
        done = stages["synthesize"]
        account["synthesised"] = {n: done[n] for n in ("documents", "tokens", "seconds", "dropped")}
    if "label" in stages:
        account["labels"] = {name: stages["label"][name] for name in ("signal", "bytes", "bytes_per_token", "seconds")}
    if "contamination" in stages:
        account["contamination"] = {n: stages["contamination"][n] for n in ("words", "shortest", "sets")}
    if shop.parts.remote is not None:
        tokens, cost = spent_elsewhere(shop.run.path, "")
        prices = shop.parts.remote.prices
        account["remote"] = {"tokens": tokens, **({"cost": cost, "currency": prices.currency} if prices else {})}
    if replayed is not None:
        counts = {"documents": replayed.num_documents, "held_out": replayed.num_held_out}
        account["replay"] = {**counts, **stages["train"].get("replay", {})}
    if "adapter" in stages["train"]:
        account["adapter"] = stages["train"]["adapter"]
    if (file := shop.run.data / CARD).exists():
        card = json.loads(file.read_text(encoding="utf-8"))
        account |= {"written": card, "reward": card.get("reward")}
    account["plan"] = planned_beside(shop.run, shop.recipe)
    return {**account, **grounded_account(stages), "alarms": alarms_of(shop.run)}
