"""The sections of the report, in their order, each a function and a template.

To add one: write a function that makes its content of an `Account`, or None where there is nothing to show, and add a line to
SECTIONS. Sentences and tables need no template: return a `Prose`. Anything else gets a file in `templates/sections/`, which
finds the content as `view`, and the charts and tables of `charts.html.jinja` as `charts`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stillhouse.reporting import formatting
from stillhouse.reporting.account import Account
from stillhouse.reporting.advice import Advice, advise
from stillhouse.reporting.behaviour import behaviour_view
from stillhouse.reporting.calibrations import calibration_view
from stillhouse.reporting.charts import CurvePanel, curve_panels
from stillhouse.reporting.contexts import context_view
from stillhouse.reporting.costs import cost_view
from stillhouse.reporting.departures import departures_view
from stillhouse.reporting.environment import environment_view
from stillhouse.reporting.grounded import grounded_view
from stillhouse.reporting.layers import LayersView, layers_view
from stillhouse.reporting.likeness import similarity_view
from stillhouse.reporting.plans import plan_view
from stillhouse.reporting.preferences import preference_view
from stillhouse.reporting.quality import QualityView, quality_view
from stillhouse.reporting.replays import replay_view
from stillhouse.reporting.rewards import RewardView, reward_view, without_looks
from stillhouse.reporting.samples import samples_view
from stillhouse.reporting.shapes import Facts, truncated
from stillhouse.reporting.sources import data_facts
from stillhouse.reporting.tasks import tasks_view
from stillhouse.reporting.taught import taught_view
from stillhouse.reporting.written import written_view

RECIPE_CHARACTERS = 100_000


@dataclass(frozen=True)
class Section:
    """One section: its place in links, its heading, its word in the navigation, and how its content is made and laid out."""

    name: str
    title: str
    link: str
    view: Callable[[Account], object]
    """Its content; nothing, such as None or an empty list, leaves the section out."""
    template: str = "prose"


@dataclass(frozen=True)
class Shown:
    """A section with its content."""

    name: str
    title: str
    link: str
    template: str
    view: object


def sections_of(account: Account) -> list[Shown]:
    """Every section for which there is something to show."""
    made = [(section, section.view(account)) for section in SECTIONS]
    return [
        Shown(one.name, one.title, one.link, f"sections/{one.template}.html.jinja", view) for one, view in made if view
    ]


def _quality(account: Account) -> QualityView:
    # A command alone measured models that somebody else made.
    return quality_view(account.result, is_known=not account.command)


def _curves(account: Account) -> list[CurvePanel]:
    return curve_panels(without_looks(account.curves))


def _reward(account: Account) -> RewardView | None:
    return reward_view(account.data.get("reward") or {}, account.curves.get("student", ()))


def _layers(account: Account) -> LayersView | None:
    return layers_view(account.layers) if account.layers else None


def _data(account: Account) -> list[Facts]:
    return data_facts(account.data, account.result)


@dataclass(frozen=True)
class RecipeView:
    """What makes the same again: a command alone, or a recipe for one."""

    command: str
    text: str


def _recipe(account: Account) -> RecipeView | None:
    text = truncated(formatting.clean(account.recipe_yaml), RECIPE_CHARACTERS)[0]
    return RecipeView(formatting.one_line(account.command), text) if text or account.command else None


def _advice(account: Account) -> list[Advice]:
    curves = without_looks(account.curves)
    return advise(account.result, curves=curves, data=account.data, stages=account.stages)


SECTIONS: Sequence[Section] = (
    Section("quality", "Quality", "Quality", _quality, "quality"),
    Section("taught", "Beside the teacher's answers", "Answers", lambda account: taught_view(account.result)),
    Section("context", "What the teacher alone had read", "Context", lambda account: context_view(account.result)),
    Section("replay", "On the replayed data", "Replay", lambda account: replay_view(account.result)),
    Section(
        "preferences", "Which answers are preferred", "Preferences", lambda account: preference_view(account.result)
    ),
    Section(
        "grounded",
        "Answers over retrieved passages",
        "Passages",
        lambda account: grounded_view(account.data.get("grounded")),
    ),
    Section("behaviour", "Behaviour", "Behaviour", behaviour_view, "behaviour"),
    Section("tasks", "Questions and answers", "Tasks", tasks_view),
    Section("similarity", "How alike to the teacher", "Similarity", similarity_view, "similarity"),
    Section("calibration", "As sure as right", "Calibration", calibration_view, "calibration"),
    Section(
        "departures",
        "Where the student departs most",
        "Examples",
        lambda account: departures_view(account.result.departures),
        "departures",
    ),
    Section("samples", "Samples", "Samples", lambda account: samples_view(account.result.samples), "samples"),
    Section("cost", "Cost", "Cost", lambda account: cost_view(account.result)),
    Section("training", "Training", "Training", _curves, "training"),
    Section("reward", "Reward", "Reward", _reward, "reward"),
    Section("layers", "Layers kept", "Layers", _layers, "layers"),
    Section("data", "Data and labels", "Data", _data, "data"),
    Section(
        "written",
        "What the teacher wrote, and what was kept",
        "Written",
        lambda account: written_view(account.data.get("written")),
        "written",
    ),
    Section("recipe", "Recipe", "Recipe", _recipe, "recipe"),
    Section("plan", "What was planned", "Plan", lambda account: plan_view(account.data.get("plan"))),
    Section("environment", "Environment", "Environment", environment_view, "environment"),
    Section("next", "What to do next", "Next", _advice, "next"),
)
"""In the order in which they are read."""
