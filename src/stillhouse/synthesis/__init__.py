"""The teacher writes the training text: no data set needed."""

from stillhouse.synthesis.prompts import filled_templates
from stillhouse.synthesis.write import SynthesisOutcome, synthesize

__all__ = ["SynthesisOutcome", "filled_templates", "synthesize"]
