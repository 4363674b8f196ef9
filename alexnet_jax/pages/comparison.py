"""Several runs beside each other: their errors, what differs, and means over seeds."""

import dataclasses
import math
import statistics
from typing import Any

from alexnet_jax.config import flatten
from alexnet_jax.pages.run import SILENT, Run

# Two-sided 95 % points of Student's t by degrees of freedom, from 1.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
      names: of the runs.
      steps: of their last evaluations, each once.
      errors: views -> mean top-1 error, and half of its 95 % interval (NaN for one run).
    """

    names: list[str]
    steps: list[int]
    errors: dict[int, tuple[float, float]]


def differences(runs: list[Run]) -> list[tuple[str, list[Any]]]:
    """Returns the fields that differ between runs, each with the runs' values."""
    configs = [flatten(run.config) for run in runs]
    return [
        (name, [config.get(name) for config in configs])
        for name in configs[0]
        if name not in SILENT and any(config.get(name) != configs[0][name] for config in configs)
    ]


def groups(runs: list[Run]) -> list[Group]:
    """Groups runs whose configs differ in the seed alone."""
    by_config: dict[str, list[Run]] = {}
    for run in runs:
        fields = flatten(run.config)
        key = repr([(n, v) for n, v in fields.items() if n != "seed" and n not in SILENT])
        by_config.setdefault(key, []).append(run)
    made = []
    for members in by_config.values():
        views = sorted({v for run in members for v in run.last})
        errors = {}
        for count in views:
            values = [run.last[count]["top1_error"] for run in members if count in run.last]
            errors[count] = interval(values)
        steps = sorted({row["step"] for run in members for row in run.last.values()})
        made.append(Group([run.name for run in members], steps, errors))
    return made


def interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean of values and half the width of its 95 % interval.

    >>> mean, half = interval([0.1, 0.2, 0.3])
    >>> round(mean, 3), round(half, 3)
    (0.2, 0.248)
    """
    mean, n = statistics.mean(values), len(values)
    if n < 2:
        return mean, math.nan
    return mean, T95[min(n - 1, len(T95)) - 1] * statistics.stdev(values) / math.sqrt(n)
