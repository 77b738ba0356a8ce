"""The answer of a language model alone: see `signals` for everything that can be read."""

from stillhouse.models.signals import factored_logits

__all__ = ["factored_logits"]
