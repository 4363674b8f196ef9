"""Test images and the training images nearest to them inside the network (figure 4, right)."""

import textwrap

import numpy as np

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture, as_drawn, shortened


def draw(
    queries: list[tuple[np.ndarray, str]],
    rows: list[list[tuple[np.ndarray, str]]],
    title: str,
) -> Picture:
    """Draws a row for each query: the image, then its neighbours, nearest first.

    Args:
      queries: (R, R, 3) uint8 and the class's name.
      rows: of each query, images and names of the same kind.
      title: above it.
    """
    across = 1 + len(rows[0])
    figure = Picture(
        figsize=(1.7 * across, 1.95 * len(queries) + 0.5), layout="constrained", dpi=120
    )
    figure.suptitle(textwrap.fill(title, 15 * across))
    axes = figure.subplots(
        len(queries), across, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02}
    )
    for row, query, others in zip(axes, queries, rows, strict=True):
        for axis, (image, name) in zip(row, [query, *others], strict=True):
            axis.imshow(image)
            axis.set(xticks=[], yticks=[])
            right = name == query[1]
            axis.set_title(
                as_drawn(shortened([name], 22)[0]),
                fontsize=8,
                color="black" if right else colours.VERMILION,
            )
            for side in axis.spines.values():
                side.set_visible(axis is row[0])
                side.set_linewidth(3)
    return figure
