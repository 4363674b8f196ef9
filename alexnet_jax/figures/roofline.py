"""The roofline: what each part of a network reaches, beside what its machine can do."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture

MARKS = {"forward": "o", "input": "s", "kernel": "^"}


class Point(NamedTuple):
    """A pass of a layer.

    Attributes:
      name: the layer first, the pass last: "conv2 gradient of kernel".
      intensity: FLOP for each byte that must move.
      flops: that it reaches a second.
    """

    name: str
    intensity: float
    flops: float


def draw(points: Sequence[Point], flops: float, bandwidth: float, title: str) -> Picture:
    """Draws FLOP/s against FLOP for each byte that must move.

    Args:
      points: those without products are left out.
      flops: the machine's peak, FLOP/s.
      bandwidth: of its memory, bytes/s.
      title: which machine, and what it computes.
    """
    figure = Picture(figsize=(8, 5.2), layout="constrained", dpi=130)
    axes = figure.subplots()
    shown = [point for point in points if point.flops > 0]
    unit, name = (1e12, "TFLOP/s") if flops >= 1e13 else (1e9, "GFLOP/s")
    least, most = min(p.intensity for p in shown) / 2, max(p.intensity for p in shown) * 4
    x = np.geomspace(least, most, 200)
    axes.loglog(x, np.minimum(flops, x * bandwidth) / unit, color="0.3")
    layers = list(dict.fromkeys(point.name.split()[0] for point in shown))
    for point in shown:
        layer, *_, kind = point.name.split()
        axes.plot(
            point.intensity,
            point.flops / unit,
            MARKS[kind],
            color=colours.of(layers.index(layer)),
            ms=7,
            label=layer if kind == "forward" else None,
        )
    shares = [100 * p.flops / min(flops, p.intensity * bandwidth) for p in shown]
    summary = f"products reach {min(shares):.0f} to {max(shares):.0f} % of the roofline"
    axes.set_title(f"{title}\n{summary}", fontsize=11)
    axes.set(
        xlabel="FLOP for each byte that must move\n"
        "circles: forward; squares: gradient of the input; triangles: of the kernel",
        ylabel=name,
    )
    lowest = min(flops / 10, *(p.flops for p in shown))
    axes.set_ylim(lowest / unit / 1.2, flops / unit * 1.2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="both", alpha=0.2)
    axes.legend(frameon=False, ncols=2)
    return figure
