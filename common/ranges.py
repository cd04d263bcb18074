"""Ranges of configuration values."""

from __future__ import annotations


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `low` <= `value` <= `high`; NaN lies in no range."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:,} and {high:,}, got {value}")
