"""Questions with right answers, from files of the user's: what every model makes of the same ones."""

from stillhouse.evaluation.tasks.config import TaskConfig
from stillhouse.evaluation.tasks.judge import judge_tasks

__all__ = ["TaskConfig", "judge_tasks"]
