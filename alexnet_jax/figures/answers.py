"""Test images with their five likeliest classes (figure 4 of the paper, left)."""

import pathlib
import textwrap

import numpy as np
from matplotlib.figure import Figure

BARS = 5


def draw(
    images: list[np.ndarray],
    labels: list[str],
    answers: list[list[tuple[str, float]]],
    path: pathlib.Path,
) -> None:
    """Draws each image above bars of its likeliest classes; the right one's is red.

    Args:
      images: (R, R, 3) uint8 each.
      labels: name of each image's class; empty where it is not known.
      answers: of each image: (class, probability), likeliest first.
      path: of the picture.
    """
    across = min(4, len(images))
    down = -(-len(images) // across)
    figure = Figure(figsize=(3.1 * across, 4.3 * down), layout="constrained")
    parts = figure.subfigures(down, across, squeeze=False).ravel()
    for part in parts[len(images) :]:
        part.set_visible(False)
    for part, image, label, rows in zip(parts, images, labels, answers, strict=False):
        top, bottom = part.subplots(2, 1, height_ratios=(3, 1.3))
        top.imshow(image)
        top.set_axis_off()
        top.set_title(textwrap.fill(label, 26) or "?", fontsize=11)
        names = [name for name, _ in rows[:BARS]][::-1]
        values = [p for _, p in rows[:BARS]][::-1]
        places = np.arange(len(names))
        colours = ["tab:red" if name == label else "lightsteelblue" for name in names]
        bottom.barh(places, values, color=colours)
        for place, name in zip(places, names, strict=True):
            bottom.text(0.02, place, name[:30], va="center", fontsize=8)
        bottom.set(xlim=(0, 1), xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
