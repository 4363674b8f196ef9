"""Means of training figures between two rows, kept over a resume."""

import math
from typing import Any

SUMS = ("loss", "top1_error", "top5_error")


class Means:
    """Figures of the updates since the last row.

    Sums are Python floats, which JSON keeps to the last bit: a run that resumes between two rows
    writes the same next row as one that was never stopped.
    """

    def __init__(self, totals: dict[str, Any] | None = None) -> None:
        """Starts from zero, or from what `state` returned."""
        self._totals: dict[str, float] = dict.fromkeys((*SUMS, "gradient_norm"), 0.0)
        self._counts: dict[str, int] = dict.fromkeys(("images", "updates"), 0)
        if totals:
            self._totals = {name: float(totals[name]) for name in self._totals}
            self._counts = {name: int(totals[name]) for name in self._counts}

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {**self._totals, **self._counts}

    def add(self, figures: dict[str, Any]) -> None:
        """Adds an update's figures, fetched from the devices."""
        sums = figures["sums"]
        for name in SUMS:
            self._totals[name] += float(sums[name].total)
        self._totals["gradient_norm"] += float(figures["gradient_norm"])
        self._counts["images"] += int(sums["loss"].count)
        self._counts["updates"] += 1

    def take(self) -> dict[str, float]:
        """Returns the means and the counts `images` and `updates`, and resets all of them.

        Means over images are NaN if no image could be read.
        """
        images, updates = self._counts["images"], self._counts["updates"]
        means: dict[str, float] = {
            name: self._totals[name] / images if images else math.nan for name in SUMS
        }
        means["gradient_norm"] = self._totals["gradient_norm"] / updates if updates else math.nan
        self.__init__()
        return means | {"images": images, "updates": updates}
