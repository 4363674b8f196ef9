"""The parts of a photograph that the answer depends on: its log odds as a square covers each."""

import dataclasses

import numpy as np
from matplotlib.patches import Rectangle

from alexnet_jax.figures.picture import Picture, as_drawn


@dataclasses.dataclass(frozen=True)
class Covered:
    """A photograph, and the odds of its answer with one square covered at a time.

    Attributes:
      image: (R, R, 3) uint8.
      answer: the class whose odds are measured.
      odds: its log odds with nothing covered.
      left: (n, n) its log odds with a square covered, by the square's position.
      patch: side of the square, in pixels.
    """

    image: np.ndarray
    answer: str
    odds: float
    left: np.ndarray
    patch: int


def draw(covered: list[Covered]) -> Picture:
    """Draws a row for each photograph: the image with the square's size, a heat map of the
    remaining log odds, and the image darkened where covering costs nothing.

    Log odds, because the probability of a near-certain answer stays at one for every square.
    """
    rows = len(covered)
    figure = Picture(figsize=(9.6, 3.2 * rows + 0.3), layout="constrained", dpi=110)
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, one in zip(axes, covered, strict=True):
        side = one.image.shape[0]
        for axis in row:
            axis.set_axis_off()
        row[0].imshow(one.image)
        square = Rectangle((0, 0), one.patch, one.patch, facecolor="0.5", edgecolor="white")
        row[0].add_patch(square)
        row[0].set_title(as_drawn(f"{one.answer}: {_probability(one.odds)}"), fontsize=10)
        middles = _middles(one)
        half = (middles[1] - middles[0]) / 2
        near, far = middles[0] - half, middles[-1] + half
        heat = row[1].imshow(one.left, cmap="viridis", extent=(near, far, far, near))
        row[1].set(xlim=(0, side), ylim=(side, 0))
        least = _probability(one.left.min())
        lowest = f"down to {least}" if least != _probability(one.odds) else f"still {least}"
        row[1].set_title(f"covered there, {lowest}", fontsize=10)
        bar = figure.colorbar(heat, ax=row[1], shrink=0.85)
        bar.ax.set_title("log odds", fontsize=8)
        row[2].imshow(one.image)
        lost = np.clip(one.odds - one.left, 0, None)
        shade = 0.85 * (1 - _over_pixels(lost, one) / max(float(lost.max()), 1e-6))
        row[2].imshow(np.dstack([np.zeros((side, side, 3)), shade]))
        row[2].set_title("what the answer needs", fontsize=10)
    return figure


def _middles(one: Covered) -> np.ndarray:
    """Returns where the middles of the squares are, in pixels, the same in both directions."""
    side, half = one.image.shape[0], one.patch / 2
    return np.linspace(half, side - half, one.left.shape[0])


def _over_pixels(values: np.ndarray, one: Covered) -> np.ndarray:
    """Interpolates values at the squares' centres linearly over the photograph, (R, R)."""
    pixels, known = np.arange(one.image.shape[0]) + 0.5, _middles(one)
    rows = np.stack([np.interp(pixels, known, row) for row in values])
    return np.stack([np.interp(pixels, known, column) for column in rows.T], axis=1)


def _probability(odds: float) -> str:
    """Returns the probability for log odds in per cent, never rounded to 0 or to 100."""
    p = 1 / (1 + np.exp(-odds))
    return (
        f"{100 * p:.1f} %" if 0.0005 < p < 0.9995 else "over 99.9 %" if p > 0.5 else "under 0.1 %"
    )
