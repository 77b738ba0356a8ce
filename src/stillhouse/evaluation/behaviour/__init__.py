"""How a student behaves beside its teacher: whether it refuses, answers, makes things up, repeats itself, and how it sounds."""

from stillhouse.evaluation.behaviour.config import BehaviourConfig
from stillhouse.evaluation.behaviour.suite import behaviour_of, check_behaviour, files_of, measure_behaviour

__all__ = ["BehaviourConfig", "behaviour_of", "check_behaviour", "files_of", "measure_behaviour"]
