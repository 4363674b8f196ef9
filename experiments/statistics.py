"""Means of paired differences with their intervals."""

import math

from alexnet_jax.pages.comparison import interval

__all__ = ["interval", "shown"]


def shown(values: list[float]) -> str:
    """Returns `interval` as text, with a sign."""
    mean, half = interval(values)
    return f"{mean:+.2f}" if math.isnan(half) else f"{mean:+.2f} ± {half:.2f}"
