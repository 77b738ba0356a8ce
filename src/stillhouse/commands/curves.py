"""What a recipe can say about curves on held-out text."""

from pydantic import PositiveInt

from stillhouse.core.config import Config


class CurvesConfig(Config):
    """Held-out divergences while a model learns."""

    every_steps: PositiveInt | None = None
    """How often; ten times if left out, and always before the first step and after the last."""
    documents: PositiveInt = 8
    """Held-out documents that they are over, the first: the more, the longer each look takes."""
