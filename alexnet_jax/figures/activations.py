"""What is left of a photograph after each layer: the strongest maps of each column."""

from collections.abc import Mapping

import numpy as np

from alexnet_jax.figures.picture import Picture, as_drawn

SHOWN = 4  # maps of a layer and column


def draw(image: np.ndarray, maps: Mapping[str, np.ndarray], columns: int, title: str) -> Picture:
    """Draws a row for each column: the photograph, then the strongest maps of each layer.

    Args:
      image: (R, R, 3) uint8.
      maps: by layer (H, W, C), in the order of the layers.
      columns: of the network; each has a contiguous block of channels.
      title: above it.
    """
    across = len(maps) + 1
    figure = Picture(figsize=(1.7 * across, 1.85 * columns + 0.5), layout="constrained", dpi=110)
    axes = figure.subplots(columns, across, squeeze=False)
    figure.suptitle(as_drawn(title), fontsize=11)
    for column, row in enumerate(axes):
        for axis in row:
            axis.set_axis_off()
        row[0].imshow(image)
        name = f"column {column + 1}" if columns > 1 else "photograph"
        row[0].set_title(name, fontsize=9)
        for axis, (layer, values) in zip(row[1:], maps.items(), strict=True):
            column_maps = np.split(values, columns, axis=-1)[column]
            axis.imshow(_strongest(column_maps), cmap="magma", interpolation="nearest")
            axis.set_title(
                f"{layer}, {column_maps.shape[0]}\N{MULTIPLICATION SIGN}{column_maps.shape[1]}",
                fontsize=9,
            )
    return figure


def _strongest(maps: np.ndarray) -> np.ndarray:
    """Lays the maps with the largest sums in a square, each to its own range."""
    order = np.argsort(-maps.sum(axis=(0, 1)), kind="stable")[:SHOWN]
    side = int(np.ceil(len(order) ** 0.5))
    height, width, gap = *maps.shape[:2], max(1, maps.shape[0] // 20)
    canvas = np.full((side * (height + gap) - gap, side * (width + gap) - gap), np.nan)
    for i, channel in enumerate(order):
        response = maps[:, :, channel]
        top, left = (i // side) * (height + gap), (i % side) * (width + gap)
        response = response / max(float(response.max()), 1e-30)
        canvas[top : top + height, left : left + width] = response
    return canvas
