"""Means of paired differences with their intervals."""

import math
import statistics

# Two-sided 95 % points of Student's t by degrees of freedom, from 1.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean of values and half the width of its 95 % interval; NaN for one value."""
    mean, n = statistics.mean(values), len(values)
    if n < 2:
        return mean, math.nan
    return mean, T95[min(n - 1, len(T95)) - 1] * statistics.stdev(values) / math.sqrt(n)


def shown(values: list[float]) -> str:
    """Returns `interval` as text, with a sign."""
    mean, half = interval(values)
    return f"{mean:+.2f}" if math.isnan(half) else f"{mean:+.2f} ± {half:.2f}"
