"""Test images with their five likeliest classes (figure 4 of the paper, left)."""

import textwrap

import numpy as np

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture, as_drawn, shortened

BARS = 5


def draw(
    images: list[np.ndarray],
    labels: list[str],
    answers: list[list[tuple[str, float]]],
) -> Picture:
    """Draws each image above bars of its likeliest classes; the right one's is red.

    Args:
      images: (R, R, 3) uint8 each.
      labels: name of each image's class; empty where it is not known.
      answers: of each image: (class, probability), likeliest first.
    """
    across = min(4, len(images))
    down = -(-len(images) // across)
    figure = Picture(figsize=(3.1 * across, 4.3 * down), layout="constrained", dpi=120)
    parts = figure.subfigures(down, across, squeeze=False).ravel()
    for part in parts[len(images) :]:
        part.set_visible(False)
    for part, image, label, rows in zip(parts, images, labels, answers, strict=False):
        top, bottom = part.subplots(2, 1, height_ratios=(3, 1.3))
        top.imshow(image)
        top.set_axis_off()
        top.set_title(as_drawn(textwrap.fill(label, 26)) or "?", fontsize=11)
        names = [name for name, _ in rows[:BARS]][::-1]
        values = [p for _, p in rows[:BARS]][::-1]
        places = np.arange(len(names))
        fills = [colours.VERMILION if name == label else "lightsteelblue" for name in names]
        bottom.barh(places, values, color=fills)
        for place, name in zip(places, names, strict=True):
            shown = as_drawn(shortened([name], 30)[0])
            bottom.text(0.02, place, shown, va="center", fontsize=8)
        bottom.set(xlim=(0, 1), xticks=[], yticks=[])
    return figure


def draw_one(image: np.ndarray, rows: list[tuple[str, float]]) -> Picture:
    """Draws a photograph with bars of its likeliest classes beside it.

    Args:
      image: (R, R, 3) uint8.
      rows: (class, probability), likeliest first.
    """
    figure = Picture(figsize=(8, 3.6), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    left.imshow(image)
    left.set_axis_off()
    names, values = [name for name, _ in rows][::-1], [100 * p for _, p in rows][::-1]
    fills = [colours.GREY] * (len(rows) - 1) + [colours.BLUE]
    bars = right.barh(range(len(rows)), values, color=fills)  # two names may be alike
    right.set_yticks(range(len(rows)), [as_drawn(name) for name in shortened(names, 40)])
    right.bar_label(bars, fmt="%.1f %%", padding=3)
    right.set(xlim=(0, 115), xlabel="probability, %")
    right.spines[["top", "right"]].set_visible(False)
    return figure
