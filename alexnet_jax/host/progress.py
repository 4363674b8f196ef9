"""Progress of long-running work: a bar on a terminal and in a notebook, plain lines elsewhere."""

import importlib.util
import sys
from typing import Any

import tqdm

from alexnet_jax.errors import in_notebook


def _kind_of_bar() -> Any:
    """Returns tqdm's bar: in a notebook with widgets one that moves in its place."""
    if in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as of_notebook

        return of_notebook
    return tqdm.tqdm


# Of a run: on 80 columns all of it is seen, and what is left is the bar.
_OF_STEPS = "{desc} {bar} {n_fmt}/{total_fmt}, {remaining} left{postfix}"


class Progress:
    """One bar on a terminal; plain lines elsewhere; nothing where it is silent."""

    def __init__(
        self, description: str, done: int, total: int, unit: str, silent: bool = False
    ) -> None:
        self.silent = silent
        self.live = not silent and (sys.stderr.isatty() or in_notebook())
        self._bar = _kind_of_bar()(
            desc=description,
            initial=done,
            total=total,
            unit=unit,
            disable=not self.live,
            dynamic_ncols=True,
            mininterval=0.2,
            bar_format=_OF_STEPS if unit == "step" and not in_notebook() else None,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Counts work done."""
        self._bar.update(min(count, (self._bar.total or count) - self._bar.n))

    def show(self, at: str, figures: str) -> None:
        """Puts the latest figures beside the bar, or on a line where there is none.

        Args:
          at: where that is, which a bar shows itself.
          figures: of it.
        """
        if self.live:
            short = figures.replace("top-1 ", "")
            self._bar.set_postfix_str(short, refresh=False)  # at its own pace
        else:
            self.say(f"{at}: {figures}")

    def about(self, text: str) -> None:
        """Says on the bar what goes on; elsewhere nothing."""
        if self.live:
            self._bar.set_description_str(text)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if not self.silent:
            tqdm.tqdm.write(text) if self.live else print(text, flush=True)
