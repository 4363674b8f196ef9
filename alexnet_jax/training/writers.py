"""Writers of a run: rows of metrics, TensorBoard, learning curves."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from alexnet_jax.errors import printable
from alexnet_jax.host import files
from alexnet_jax.steps.metrics import series_of
from alexnet_jax.training.rows import METRICS, Line, Row, read_lines


class MetricsWriter(Protocol):
    """A team's own log: passed to `train.train`, or returned by `get_writers(workdir)` of a
    --config file. Its rows have the fields of metrics.jsonl (`rows.FIELDS`)."""

    def write(self, row: Row) -> None:
        """Takes a row; a resumed run sends the rows after its checkpoint again."""
        ...

    def close(self) -> None:
        """Ends, however the run ended."""
        ...


class MetricsFile:
    """metrics.jsonl: one object a line, in the order of steps."""

    def __init__(
        self, path: pathlib.Path, last_step: int, known: dict[str, Any] | None = None
    ) -> None:
        """Opens the file to go on after `last_step`; later and half-written rows are dropped.

        Args:
          path: of the file.
          last_step: of the checkpoint that the run goes on from.
          known: `digest()` at that save; a warning reports what was lost since.
        """
        lines = [line for line in read_lines(path) if line.row["step"] <= last_step]
        # Evaluations of the last step came after its save.
        saved = [a for a in lines if a.row["step"] < last_step or a.row["split"] == "train"]
        _tell_of_losses(path, saved, known or {})
        self.rows = [line.row for line in lines]
        self._hash = hashlib.sha256("".join(line.text for line in lines).encode())
        files.replace_text(path, "".join(line.text for line in lines))
        self._path = path
        self._file = path.open("a")

    def write(self, row: Row) -> None:
        """Appends a row."""
        self.rows.append(row)
        text = json.dumps(row) + "\n"
        self._hash.update(text.encode())
        with files.named(self._path):
            self._file.write(text)
            self._file.flush()

    def digest(self) -> dict[str, Any]:
        """Returns how many lines there are, and their SHA-256."""
        return {"lines": len(self.rows), "sha256": self._hash.hexdigest()}

    def sync(self) -> None:
        """Returns when the rows are on the disk."""
        with files.named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        try:
            self.sync()
        finally:
            with files.named(self._path):
                self._file.close()


def _tell_of_losses(path: pathlib.Path, lines: list[Line], known: dict[str, Any]) -> None:
    """Says which rows are missing or changed, of those that were there at the last save."""
    wanted = known.get("lines", 0)
    digest = hashlib.sha256("".join(line.text for line in lines).encode()).hexdigest()
    if not wanted or digest == known["sha256"]:
        return
    warning = f"warning: {path}: "
    steps = [line.row["step"] for line in lines if line.row["split"] == "train"]
    if len(lines) < wanted:
        gaps = [after - before for before, after in itertools.pairwise(steps)]
        usual = min(gaps, default=0)
        first = next((i for i, gap in enumerate(gaps) if gap > usual), None)
        where = f", first after step {steps[first]}" if first is not None else ""
        warning += f"{wanted - len(lines)} of {wanted} rows are missing{where}"
    else:
        warning += f"some of its first {wanted} rows are not what was written"
    print(printable(f"{warning}; the run itself is whole and goes on"), file=sys.stderr, flush=True)


class OtherWriters:
    """A team's writers: one that fails is named and gets no more rows, and the run goes on."""

    def __init__(self, writers: Sequence[MetricsWriter]) -> None:
        self._others = list(writers)

    def __enter__(self) -> "OtherWriters":
        return self

    def __exit__(self, *_: object) -> None:
        for other in list(self._others):
            self._without_its_failure(other, other.close)

    def write(self, row: Row) -> None:
        """Hands each a copy of a row; a run waits for them."""
        for other in list(self._others):
            self._without_its_failure(other, lambda other=other: other.write(dict(row)))

    def _without_its_failure(self, other: MetricsWriter, action: Callable[[], None]) -> None:
        """Survives a service that fails: metrics.jsonl has the rows, and the run matters more."""
        try:
            action()
        except Exception as error:  # of whatever kind: it is somebody else's
            self._others.remove(other)
            warning = f"warning: {type(other).__name__}: {type(error).__name__}: {error}"
            warning = " ".join(warning.split())[:300]
            print(printable(f"{warning}; it gets no more rows"), file=sys.stderr, flush=True)


class Writers:
    """metrics.jsonl, tensorboard/ and plots/ of one workdir, kept together."""

    def __init__(
        self,
        workdir: pathlib.Path,
        last_step: int,
        known: dict[str, Any] | None = None,
        others: OtherWriters | None = None,
    ) -> None:
        """Opens all of them.

        Args:
          workdir: of the run.
          last_step: of the checkpoint that it goes on from.
          known: what its seal says of metrics.jsonl.
          others: which get every row too; not closed with this.
        """
        self._others = others or OtherWriters(())
        self._metrics = MetricsFile(workdir / METRICS, last_step, known)
        from alexnet_jax.training.board import Board  # it loads PyTorch, where that is installed

        self._board = Board(workdir / "tensorboard", last_step)
        with contextlib.suppress(FileNotFoundError):  # every run has it
            text = (workdir / "config.json").read_text("utf-8", errors="replace")
            self._board.write_text("config", text, last_step)
        self._picture = workdir / "plots" / "learning_curves.png"

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._metrics.close()
        finally:
            self._board.close()

    def write(self, row: Row) -> None:
        """Writes a row of numbers that belong to `step` and `split`."""
        self._metrics.write(row)
        self._board.write(row)
        self._others.write(row)

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds histograms of values to TensorBoard."""
        for name, values in arrays.items():
            self._board.write_histogram(name, values, step)

    def conclude(
        self, fields: dict[str, Any], rows: Sequence[Row], pictures: Mapping[str, bytes]
    ) -> None:
        """Adds the settings, the results and pictures of them to TensorBoard.

        Args:
          fields: of the config.
          rows: of the last evaluation.
          pictures: PNGs by their names.
        """
        step = rows[-1]["step"]
        results = {
            f"{series_of(row)}/{name}": row[name]
            for row in rows
            for name in ("loss", "top1_error", "top5_error")
        }
        self._board.write_settings(fields, results, step)
        for name, png in pictures.items():
            self._board.write_picture(name, png, step)

    @property
    def rows(self) -> list[Row]:
        """What metrics.jsonl holds."""
        return self._metrics.rows

    def sync(self) -> dict[str, Any]:
        """Returns once every row is on the disk, with what a seal records of metrics.jsonl."""
        self._metrics.sync()
        self._board.sync()
        return self._metrics.digest()

    def draw(self) -> None:
        """Redraws plots/learning_curves.png."""
        from alexnet_jax.figures import curves  # matplotlib takes a second to import

        curves.draw_run(self._metrics.rows).save(self._picture)


class NoWriters(contextlib.AbstractContextManager):
    """Stand-in for `Writers` in all processes but the first."""

    def write(self, row: Row) -> None:
        """Leaves the row to the first process."""

    @property
    def rows(self) -> list[Row]:
        """The first process has them."""
        return []

    def sync(self) -> dict[str, Any]:
        """Has nothing to wait for."""
        return {}

    def draw(self) -> None:
        """Draws nothing."""

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Leaves them to the first process."""

    def __exit__(self, *_: object) -> None:
        return None
