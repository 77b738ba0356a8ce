"""Run a teacher over data once and keep what it said."""

from stillhouse.labelling.answers import load_weighed, save_weighed, weigh
from stillhouse.labelling.label import LabelOutcome, label
from stillhouse.labelling.recorders import Recorder, Sampled, Sparse, States

__all__ = ["LabelOutcome", "Recorder", "Sampled", "Sparse", "States", "label", "load_weighed", "save_weighed", "weigh"]
