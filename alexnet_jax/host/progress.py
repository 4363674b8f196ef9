"""Progress of long-running work: a bar on a terminal and in a notebook, plain lines elsewhere."""

import contextlib
import functools
import importlib.util
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import tqdm

from alexnet_jax.errors import in_notebook


class _OutputBar(tqdm.tqdm):
    """A bar in a notebook without widgets: one output that changes, in a saved notebook too.

    Carriage returns would be hundreds of lines there.
    """

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Returns what shows a text in the place of the one before."""
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        handle: Any = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda text: handle.update({"text/plain": text}, raw=True) if text else None


def _kind_of_bar() -> Callable[..., Any]:
    """Returns the kind of tqdm bar to use: in a notebook, one that updates in place."""
    if not in_notebook() or "IPython" not in sys.modules:  # not every front end has it
        return tqdm.tqdm
    if importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as of_notebook

        return of_notebook
    return functools.partial(_OutputBar, file=io.StringIO(), ncols=COLUMNS)


COLUMNS = 100  # of a notebook's output
SECONDS = 0.2  # between two updates of a bar
# For a run: all of the text fits into 80 columns, and the bar takes the rest.
_OF_STEPS = "{desc} {bar} {n_fmt}/{total_fmt}, {remaining} left{postfix}"


@contextlib.contextmanager
def waiting(text: str, silent: bool = False) -> Iterator[None]:
    """Says that something long goes on: with its seconds on a terminal, in a line elsewhere."""
    if silent or not _is_live():
        if not silent:
            print(text, flush=True)
        yield
        return
    bar, ended = _kind_of_bar()(desc=text, bar_format="{desc}, {elapsed}"), threading.Event()

    def tick() -> None:
        while not ended.wait(1.0):
            bar.refresh()

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield
    finally:
        ended.set()
        ticking.join()
        bar.close()


def _is_live() -> bool:
    """Is there somebody who sees a bar move?"""
    return sys.stderr.isatty() or in_notebook()


class Progress:
    """One bar on a terminal; plain lines elsewhere; nothing where it is silent."""

    def __init__(
        self, description: str, done: int, total: int, unit: str, silent: bool = False
    ) -> None:
        self.silent = silent
        self.live = not silent and _is_live()
        self._bar = _kind_of_bar()(
            desc=description,
            initial=done,
            total=total,
            unit=unit,
            disable=not self.live,
            mininterval=SECONDS,
            bar_format=_OF_STEPS if unit == "step" and not in_notebook() else None,
            **({} if in_notebook() else {"dynamic_ncols": True}),
        )
        self._about, self._told = "", 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Counts work done."""
        self._bar.update(min(count, (self._bar.total or count) - self._bar.n))

    def show(self, at: str, figures: str) -> None:
        """Puts the latest figures beside the bar, or on a line if there is no bar.

        Args:
          at: the position in the work, for the line; a bar shows it anyway.
          figures: the figures at that position.
        """
        if self.live:
            short = figures.replace("top-1 ", "")
            self._bar.set_postfix_str(short, refresh=False)  # at its own pace
        else:
            self.say(f"{at}: {figures}")

    def about(self, text: str) -> None:
        """Shows on the bar what is going on; does nothing elsewhere. A text with a new first word
        shows at once, one with the same first word at the bar's own pace."""
        if not self.live:
            return
        what, now = text.split(" ")[0], time.monotonic()
        due = what != self._about or now > self._told + SECONDS
        self._about, self._told = what, now if due else self._told
        self._bar.set_description_str(text, refresh=due)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if not self.silent:
            tqdm.tqdm.write(text) if self.live else print(text, flush=True)
