"""The confusion matrix of a split."""

from collections.abc import Sequence

import numpy as np

from alexnet_jax.data.words import name_of
from alexnet_jax.figures.picture import Picture, as_drawn, shortened
from alexnet_jax.steps.answers import Answers

NUMBERED = 20  # classes up to which cells say their number
READABLE = 100  # classes up to which a matrix can be read


def matrix(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Counts images by their class (row) and the one they are taken for: (K, K) int64."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def of_answers(answers: Answers, names: Sequence[str], title: str) -> Picture | None:
    """Draws the confusion matrix of a split; returns None for one class, or too many to read.

    Args:
      answers: of its images.
      names: of the classes, as far as they have some.
      title: above it.
    """
    labels, taken_for = answers.labels[answers.counted], answers.classes[answers.counted, 0]
    classes = max(len(names), int(taken_for.max(initial=0)) + 1)
    if not 1 < classes <= READABLE:
        return None
    named = [name_of(names, label) for label in range(classes)]
    return draw(matrix(labels, taken_for, classes), named, title)


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
