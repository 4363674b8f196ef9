"""Curves that move while a run trains, in a notebook."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from alexnet_jax.errors import in_notebook
from alexnet_jax.figures import curves
from alexnet_jax.figures.picture import Picture
from alexnet_jax.host import paths
from alexnet_jax.training.run_files import read_rows


@contextlib.contextmanager
def moving_curves(workdir: str | os.PathLike[str], seconds: float = 3.0) -> Iterator[None]:
    """Draws a run's curves below the cell, again every few seconds, while the block trains it.

    Outside a notebook it draws nothing.

    Args:
      workdir: of the run; it may not exist yet.
      seconds: between two drawings.

    >>> with moving_curves("runs/first"):
    ...     pass  # train.train(config, "runs/first")
    """
    if not in_notebook():
        yield
        return
    from IPython.display import display  # pyright: ignore[reportMissingImports]

    rows = paths.local(os.fspath(workdir), "workdir") / "metrics.jsonl"
    handle: Any = display(Picture(figsize=(12, 4)), display_id=True)
    over, seen = threading.Event(), [0]

    def draw() -> None:
        written = read_rows(rows) if rows.exists() else []
        if len(written) != seen[0]:
            handle.update(curves.draw_run(written))
            seen[0] = len(written)

    def again() -> None:
        while not over.wait(seconds):
            draw()

    thread = threading.Thread(target=again, daemon=True, name="curves")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        draw()
