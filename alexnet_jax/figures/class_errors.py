"""Errors by class, and the worst confusions."""

from typing import Any

from matplotlib.ticker import MaxNLocator

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture, as_drawn, shortened

SHOWN = 20  # of each


def draw(rows: list[dict[str, Any]], confusions: list[tuple[str, str, int]]) -> Picture:
    """Draws the classes with the largest error and the commonest confusions.

    Args:
      rows: `class` and `top1_error` of each class.
      confusions: the class, what it is taken for, and how often; commonest last.
    """
    rows = sorted(rows, key=lambda row: row["top1_error"])[-SHOWN:]
    confusions = confusions[-SHOWN:]
    height = 1.4 + 0.26 * max(len(rows), len(confusions), 4)
    figure = Picture(figsize=(13, height), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    errors = [100 * row["top1_error"] for row in rows]
    names = shortened([row["class"] for row in rows], 28)
    bars = left.barh(range(len(rows)), errors, color=colours.BLUE)  # two classes may look alike
    left.set_yticks(range(len(rows)), [as_drawn(name) for name in names])
    left.bar_label(bars, fmt="%.0f", padding=3)
    left.set(title="classes with the largest top-1 error", xlabel="%", xlim=(0, 100))
    classes = shortened([a for a, _, _ in confusions], 22)
    others = shortened([b for _, b, _ in confusions], 22)
    pairs = [f"{a} \N{RIGHTWARDS ARROW} {b}" for a, b in zip(classes, others, strict=True)]
    bars = right.barh(
        range(len(pairs)), [times for _, _, times in confusions], color=colours.VERMILION
    )
    right.set_yticks(range(len(pairs)), [as_drawn(pair) for pair in pairs])
    right.bar_label(bars, padding=3)
    right.set(title="commonest confusions: class \N{RIGHTWARDS ARROW} answer", xlabel="images")
    right.margins(x=0.1)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure
