"""The kernels of conv1 by column (figure 3 of the paper), and their colour selectivity."""

import numpy as np

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture

ACROSS = 16  # kernels in a row; the paper's picture has 16 across


def colour_selectivity(kernels: np.ndarray) -> np.ndarray:
    """Returns for each kernel the share of its energy that is colour, in [0, 1].

    A kernel whose three channels are equal sees light and dark alone: 0. One whose channels sum to
    zero at every pixel sees colour alone: 1.

    Args:
      kernels: (h, w, 3, K).
    """
    grey = kernels.mean(axis=2, keepdims=True)
    energy = (kernels**2).sum(axis=(0, 1, 2))
    return ((kernels - grey) ** 2).sum(axis=(0, 1, 2)) / np.maximum(energy, 1e-30)


def by_column(values: np.ndarray, columns: int) -> np.ndarray:
    """Splits the last axis into columns: (..., K) to (columns, ..., K / columns)."""
    return np.stack(np.split(values, columns, axis=-1))


def specialisation(kernels: np.ndarray, columns: int = 2) -> float:
    """Returns how far apart two halves of the kernels are in mean colour selectivity, in [0, 1].

    Args:
      kernels: (h, w, 3, K).
      columns: halves to compare; those of a one-column network are a control.
    """
    means = by_column(colour_selectivity(kernels), columns).mean(axis=1)
    return float(means.max() - means.min())


def draw(kernels: np.ndarray, columns: int, title: str) -> Picture:
    """Draws each column's kernels, in their order, and their colour selectivity.

    Args:
      kernels: (h, w, 3, K).
      columns: of the network.
      title: above it.
    """
    groups, shares = by_column(kernels, columns), by_column(colour_selectivity(kernels), columns)
    per_column = kernels.shape[-1] // columns
    rows = -(-per_column // ACROSS)
    figure = Picture(
        figsize=(11, 1.2 + columns * (0.55 * rows + 0.6)), layout="constrained", dpi=130
    )
    axes = figure.subplots(columns, 2, width_ratios=(4, 1), squeeze=False)
    figure.suptitle(title)
    for column, (left, right) in enumerate(axes):
        left.imshow(_mosaic(groups[column]), interpolation="nearest")
        left.set_axis_off()
        name = f"column {column + 1}" if columns > 1 else "one column"
        left.set_title(f"{name}: colour selectivity {shares[column].mean():.2f}", fontsize=10)
        right.hist(shares[column], bins=np.linspace(0, 1, 21), color=colours.of(column))
        right.set(xlim=(0, 1), ylabel="kernels")
        right.spines[["top", "right"]].set_visible(False)
    axes[-1][1].set_xlabel("colour selectivity")
    return figure


def _mosaic(kernels: np.ndarray, gap: int = 1) -> np.ndarray:
    """Lays kernels side by side, each stretched to its own range, zero at mid grey."""
    h, w, _, count = kernels.shape
    rows = -(-count // ACROSS)
    canvas = np.ones((rows * (h + gap) + gap, ACROSS * (w + gap) + gap, 3))
    for i, tile in enumerate(np.moveaxis(kernels, -1, 0)):
        top, left = (i // ACROSS) * (h + gap) + gap, (i % ACROSS) * (w + gap) + gap
        canvas[top : top + h, left : left + w] = 0.5 + 0.5 * tile / max(np.abs(tile).max(), 1e-30)
    return canvas


def draw_distribution(indices: dict[str, list[float]]) -> Picture:
    """Draws the specialisation of several runs, a row for each kind of network.

    Args:
      indices: kind -> `specialisation` of each of its runs.
    """
    figure = Picture(figsize=(7, 1.2 + 0.6 * len(indices)), layout="constrained", dpi=130)
    axis = figure.subplots()
    for row, values in enumerate(indices.values()):
        beside = row + np.linspace(-0.15, 0.15, len(values))  # equal ones are seen apart
        axis.plot(values, beside, "o", alpha=0.6, color=colours.of(row), clip_on=False)
        axis.plot([np.mean(values)], [row], "|", ms=24, color=colours.of(row))
    axis.set_yticks(range(len(indices)), [f"{name} ({len(v)})" for name, v in indices.items()])
    axis.set(
        xlabel="difference of the halves' mean colour selectivity", ylim=(-0.6, len(indices) - 0.4)
    )
    axis.set_xlim(left=0)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
