"""The teacher writes the training text: no data set needed."""

from stillhouse.synthesis.history import HistoryOutcome, rewrite
from stillhouse.synthesis.prompts import filled_templates
from stillhouse.synthesis.write import SynthesisOutcome, synthesize

__all__ = ["HistoryOutcome", "SynthesisOutcome", "filled_templates", "rewrite", "synthesize"]
