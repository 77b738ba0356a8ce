"""Run a teacher over data once and keep what it said."""

from stillhouse.labelling.label import LabelOutcome, label

__all__ = ["LabelOutcome", "label"]
