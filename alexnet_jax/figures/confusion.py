"""The confusion matrix of a split."""

import numpy as np

from alexnet_jax.figures.picture import Picture, as_drawn, shortened

NUMBERED = 20  # classes up to which cells say their number


def matrix(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Counts images by their class (row) and the one they are taken for: (K, K) int64."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def draw(counts: np.ndarray, names: list[str], title: str) -> Picture:
    """Draws a confusion matrix as shares of each row.

    Args:
      counts: from `matrix`.
      names: of the classes.
      title: above it.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(14.0, 3 + 0.45 * len(names))
    figure = Picture(figsize=(size + 1, size), layout="constrained", dpi=120)
    axis = figure.subplots()
    image = axis.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, label="% of the class's images", shrink=0.8)
    if len(names) <= NUMBERED:
        for (row, column), value in np.ndenumerate(counts):
            if value:
                dark = share[row, column] > 0.5
                axis.text(
                    column,
                    row,
                    str(value),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
    if len(names) <= 60:
        labels = [as_drawn(name) for name in shortened(names, 20)]
        axis.set_xticks(range(len(names)), labels, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), labels, fontsize=8)
    axis.set(title=as_drawn(title), xlabel="taken for", ylabel="is")
    return figure
