"""Curves of runs as plain numbers for the page's charts, which uPlot draws in the browser.

uPlot 1.6.32 (MIT) is in templates/: its 53 kB fit in a page, and it has hover, zoom and
logarithmic axes. Plotly's smallest bundle is twenty times as large.
"""

import dataclasses
import math
from typing import Any

from alexnet_jax.pages.run import Run
from alexnet_jax.steps.metrics import series_of

COLOURS = 7  # of the page
MOST_POINTS = 1500  # of one curve; more are thinned out


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve of one run.

    Attributes:
      label: what it is called.
      x: steps.
      y: as many values.
      points: is it of evaluations, which are few, drawn as points and never smoothed?
      colour: its number. With several runs, each run has its own.
      dash: 0 for a solid line. With several runs, each series has its own.
    """

    label: str
    x: list[float]
    y: list[float]
    points: bool
    colour: int = 0
    dash: int = 0

    def described(self) -> str:
        """Says the curve in words."""
        if not self.y:
            return f"{self.label}: no values"
        least = min(range(len(self.y)), key=self.y.__getitem__)
        return (
            f"{self.label}: {self.y[0]:.4g} at step {self.x[0]:,.0f}, {self.y[-1]:.4g} at step "
            f"{self.x[-1]:,.0f}; least {self.y[least]:.4g} at step {self.x[least]:,.0f}"
        )


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves on one pair of axes."""

    title: str
    unit: str
    curves: list[Curve]
    log: bool = False


KINDS = (
    ("loss", "loss", "nats", 1.0, False),
    ("top-1 error", "top1_error", "%", 100.0, False),
    ("top-5 error", "top5_error", "%", 100.0, False),
    ("learning rate", "learning_rate", "", 1.0, True),
    ("gradient norm", "gradient_norm", "", 1.0, True),
    ("images/s", "images_per_second", "", 1.0, False),
    ("waiting for data", "data_wait_fraction", "% of the time", 100.0, False),
)
SIZES = (("mean |weight| by layer", "weights/"), ("mean |update| by layer", "updates/"))


def charts(runs: list[Run]) -> list[Chart]:
    """Returns the charts, each with all runs on the same axes; charts without data are left out."""
    made = []
    for title, name, unit, scale, log in KINDS:
        of_runs = [_curves(run, name, scale, len(runs) > 1) for run in runs]
        made.append(Chart(title, unit, _told_apart(of_runs), log))
    for title, prefix in SIZES if len(runs) == 1 else ():
        names = sorted({n for row in runs[0].rows for n in row if n.startswith(prefix)})
        kernels = [n for n in names if n.endswith(".kernel")]
        curves = [
            curve
            for n in kernels
            for curve in _curves(runs[0], n, 1.0, False, n.removeprefix(prefix).split(".")[0])
        ]
        made.append(Chart(title, "", _told_apart([curves]), True))
    return [chart for chart in made if chart.curves]


def _told_apart(of_runs: list[list[Curve]]) -> list[Curve]:
    """Gives each run a colour and each series a dash; with one run, each series gets a colour."""
    if len(of_runs) == 1:
        return [
            dataclasses.replace(curve, colour=i, dash=i // COLOURS)
            for i, curve in enumerate(of_runs[0])
        ]
    return [
        dataclasses.replace(curve, colour=run, dash=series)
        for run, curves in enumerate(of_runs)
        for series, curve in enumerate(curves)
    ]


def _curves(run: Run, name: str, scale: float, several: bool, label: str = "") -> list[Curve]:
    """One curve for training, and one for each number of views."""
    parts: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in run.rows:
        if name in row and math.isfinite(row[name]):
            parts.setdefault((series_of(row), row["split"] != "train"), []).append(row)
    curves = []
    for (series, measured), rows in parts.items():
        points = rows[:: max(1, -(-len(rows) // MOST_POINTS))]
        points = points if points[-1] is rows[-1] else [*points, rows[-1]]
        legend = f"{run.name}: {series}" if several else series
        x = [float(row["step"]) for row in points]
        y = [scale * float(row[name]) for row in points]
        curves.append(Curve(label or legend, x, y, measured))
    return curves
