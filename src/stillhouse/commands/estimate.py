"""How long a recipe would take here, by counting operations and timing one matrix product: an estimate, and called one."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from stillhouse.commands.recipe import Recipe
from stillhouse.data.config import RagDataConfig
from stillhouse.models.anatomy import layers_of, most_tokens, num_layers, parameter_count
from stillhouse.models.flops import forward_flops
from stillhouse.models.load import device, load_config, untrained, without_weights
from stillhouse.students.config import FromLayersConfig
from stillhouse.students.layer_choice import GREEDY_SHORTLIST
from stillhouse.synthesis.config import PromptSynthesisConfig

MATMUL_SIDE, MATMUL_SECONDS = 1024, 0.3
READING_SHARE = 0.4
"""Of a large matrix product's speed, what reading and learning reach."""
WRITING_SHARE = 0.15
"""What writing reaches, which reads all weights for a few tokens."""
BYTES_PER_TOKEN = 4
"""Of English text; of other languages a token has fewer letters but more bytes."""
FIXED_SECONDS = 60
"""Loading, timing and reporting."""


@dataclass(frozen=True)
class Shape:
    """What a model is, by its configuration alone."""

    layers: int
    parameters: int
    read_flops: float
    """To read one token."""
    layer_flops: float
    most_tokens: int | None = None
    """The longest text that it reads; None where nothing bounds it."""


@dataclass(frozen=True)
class Estimate:
    """Seconds for all but the part that a budget can change, and for one unit of that part: an epoch, or a record written."""

    fixed_seconds: float
    seconds_per_unit: float
    speed: float
    """Of a matrix product here, in operations a second."""

    def units_in(self, seconds: float) -> float:
        """How many units fit."""
        return max(0.0, (seconds - self.fixed_seconds) / self.seconds_per_unit)

    def total(self, units: float) -> float:
        """Seconds for so many units."""
        return self.fixed_seconds + units * self.seconds_per_unit


def shape_of(source: str, recipe: Recipe) -> Shape:
    """A model's shape, without its weights.

    Raises:
        ModelError: if it has no configuration that can be loaded.
    """
    config = load_config(without_weights(source))
    with torch.device("meta"):
        model: PreTrainedModel = untrained(config, recipe.task, dtype=torch.float32)
    parameters = parameter_count(model)
    flops = forward_flops(model, context_tokens=recipe.data.sequence_tokens // 2) or 2 * parameters
    layer = 2 * sum(weights.numel() for weights in layers_of(model)[0].parameters())
    return Shape(num_layers(config), parameters, flops, layer, most_tokens(config))


def matmul_speed() -> float:
    """Operations a second of a float32 matrix product on the device that models run on, the best of several."""
    one = torch.ones(MATMUL_SIDE, MATMUL_SIDE, device=device())
    best, end = 0.0, time.monotonic() + MATMUL_SECONDS
    while best == 0.0 or time.monotonic() < end:
        started = time.perf_counter()
        _ = (one @ one).sum().item()  # waits for a GPU, too
        best = max(best, 2 * MATMUL_SIDE**3 / (time.perf_counter() - started))
    return best


def estimate(recipe: Recipe, teacher: Shape, *, speed: float) -> Estimate | None:
    """Of a recipe whose data is a file, by epochs; of one whose teacher writes it, by records (or by tokens of text). None
    where neither says how much there is."""
    student_flops = _student_flops(recipe, teacher)
    num_learning = 1 + {"none": 0, "both": 2}.get(recipe.control, 1)
    learn = 3 * student_flops * num_learning + (0 if recipe.labels else teacher.read_flops)
    label = teacher.read_flops if recipe.labels else 0
    judge = 2 * (teacher.read_flops + (1 + num_learning) * student_flops)
    held_out = recipe.data.held_out if recipe.data.held_out_path is None else 0.0
    once = (1 - held_out) * label + held_out * judge
    fixed = FIXED_SECONDS + _choice_flops(recipe, teacher) / (READING_SHARE * speed)
    wanted = recipe.synthesis
    if isinstance(recipe.data, RagDataConfig):
        return None
    if recipe.data.path is not None and Path(recipe.data.path).is_file():
        tokens = Path(recipe.data.path).stat().st_size / BYTES_PER_TOKEN
        per_epoch = tokens * (1 - held_out) * learn / (READING_SHARE * speed)
        return Estimate(fixed + tokens * once / (READING_SHARE * speed), per_epoch, speed)
    if wanted is None or recipe.data.kind not in ("text", "chat"):
        return None
    per_token = teacher.read_flops / (WRITING_SHARE * speed)
    per_token += (once + recipe.training.epochs * (1 - held_out) * learn) / (READING_SHARE * speed)
    per_unit = 1 if isinstance(wanted, PromptSynthesisConfig) else _record_tokens(recipe)
    return Estimate(fixed, per_unit * per_token, speed)


def _student_flops(recipe: Recipe, teacher: Shape) -> float:
    student = recipe.student
    if not isinstance(student, FromLayersConfig):
        return teacher.read_flops
    kept = student.keep if isinstance(student.keep, int) else len(student.keep)
    return teacher.read_flops - (teacher.layers - kept) * teacher.layer_flops


def _choice_flops(recipe: Recipe, teacher: Shape) -> float:
    """What the greedy choice of layers takes, where it is made."""
    student = recipe.student
    if not isinstance(student, FromLayersConfig) or not isinstance(student.keep, int) or student.choose != "greedy":
        return 0.0
    removed = teacher.layers - student.keep
    return removed * GREEDY_SHORTLIST * student.calibration_tokens * teacher.read_flops


def _record_tokens(recipe: Recipe) -> int:
    """The most that is written for one record: a question and its answer."""
    asks = getattr(recipe.synthesis, "sampling", None)
    answers = getattr(getattr(recipe.synthesis, "answers", None), "sampling", None)
    return sum(int(one.max_new_tokens) for one in (asks, answers) if one is not None)
