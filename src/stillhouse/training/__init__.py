"""Train a student: ask each objective what it reads, run teacher and student once, sum, divide once, log each term."""

from stillhouse.training.trainer import DistillationTrainer, train

__all__ = ["DistillationTrainer", "train"]
