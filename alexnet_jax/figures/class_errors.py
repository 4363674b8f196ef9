"""Errors by class, and the worst confusions."""

from typing import Any

from alexnet_jax.figures.picture import Picture

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
    bars = left.barh([row["class"][:28] for row in rows], errors, color="tab:blue")
    left.bar_label(bars, fmt="%.0f", padding=3)
    left.set(title="classes with the largest top-1 error", xlabel="%", xlim=(0, 108))
    names = [f"{a[:22]} \N{RIGHTWARDS ARROW} {b[:22]}" for a, b, _ in confusions]
    bars = right.barh(names, [times for _, _, times in confusions], color="tab:red")
    right.bar_label(bars, padding=3)
    right.set(title="commonest confusions: what it is, what it is taken for", xlabel="images")
    right.margins(x=0.1)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure
