"""What training sees of one photograph: crops, mirror images, colours (paper section 4.1)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.patches import Rectangle

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture, as_drawn


def draw(image: np.ndarray, size: int, rows: Mapping[str, np.ndarray], title: str) -> Picture:
    """Draws the photograph with its outermost crops, and rows of views.

    Args:
      image: (R, R, 3) uint8.
      size: side of the crops.
      rows: title -> views, (N, S, S, 3) uint8, with the same N in each row.
      title: above all.
    """
    across = max(len(views) for views in rows.values())
    figure = Picture(
        figsize=(1.35 * (across + 2.2), 1.6 * len(rows) + 0.5), layout="constrained", dpi=110
    )
    figure.suptitle(as_drawn(title), fontsize=11)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(2.4, across))[0]
    whole = left.subplots()
    whole.imshow(image)
    whole.set_axis_off()
    border = image.shape[0] - size
    for corner, colour in (((0, 0), colours.ORANGE), ((border, border), colours.SKY)):
        whole.add_patch(Rectangle(corner, size - 1, size - 1, fill=False, ec=colour, lw=2))
    whole.set_title(f"{image.shape[0]} pixels, the first and the last crop of {size}", fontsize=9)
    axes = right.subplots(len(rows), across, squeeze=False)
    for row, (name, views) in zip(axes, rows.items(), strict=True):
        for axis, view in zip(row, views, strict=True):
            axis.imshow(view)
            axis.set_axis_off()
        label = row[0].annotate(as_drawn(name), (0, 1.05), xycoords="axes fraction", fontsize=9)
        label.set_in_layout(False)  # it is wider than its view
    return figure
