"""What is dropped of what a teacher wrote, and why."""

from stillhouse.synthesis.filters.config import FilterConfig, build_filters, default_filters
from stillhouse.synthesis.filters.core import Dropped, NamedFilter, account_of, count_dropped, run_filters

__all__ = [
    "Dropped",
    "FilterConfig",
    "NamedFilter",
    "account_of",
    "build_filters",
    "count_dropped",
    "default_filters",
    "run_filters",
]
