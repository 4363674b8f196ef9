"""Writers of a run: rows of metrics, TensorBoard, learning curves."""

import contextlib
import json
import os
import pathlib
import time
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from alexnet_jax.errors import UserError
from alexnet_jax.host import files

Row = dict[str, Any]

# Protobuf makes these as the modules are imported, where a type checker does not see them.
_events: Any = event_pb2
_summaries: Any = summary_pb2


class MetricsError(UserError, RuntimeError):
    """A metrics.jsonl that cannot be continued; the message names the line."""


class MetricsFile:
    """metrics.jsonl: one object a line, in the order of steps."""

    def __init__(self, path: pathlib.Path, last_step: int) -> None:
        """Opens the file to go on after `last_step`; later and half-written rows are dropped."""
        kept = [row for row in read_rows(path) if row["step"] <= last_step]
        files.replace_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.rows, self._path = kept, path
        self._file = path.open("a")

    def write(self, row: Row) -> None:
        """Appends a row."""
        self.rows.append(row)
        with files.named(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Returns when the rows are on the disk."""
        with files.named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self.sync()
        self._file.close()


def read_rows(path: pathlib.Path) -> list[Row]:
    """Returns the whole rows of a metrics.jsonl; a last line cut short is left out.

    Raises:
      MetricsError: a broken line that is not the last.
    """
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is cut short
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise MetricsError(
                f"{path}: line {number} is not JSON; restore or remove it"
            ) from error
    return rows


class Board:
    """A file of TensorBoard's events, written by who calls: a full disk is an error of that row.

    tensorboardX's own SummaryWriter has a thread for it; where that cannot write it ends, and the
    run then waits for ever for a place in its queue.
    """

    FLUSH_SECONDS = 30  # a picture of the run may be as old as that

    def __init__(self, folder: pathlib.Path, last_step: int) -> None:
        """Begins a file; TensorBoard then forgets what earlier ones say of later steps."""
        self._folder, self._flushed = folder, time.monotonic()
        with files.named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Its name has the second; another start may be as quick.
            self._events = EventsWriter(str(folder / f"events.{last_step}.{os.getpid()}"))
        self._add(last_step + 1, session_log=_events.SessionLog(status=_events.SessionLog.START))

    def write(self, row: Row) -> None:
        """Adds a row's numbers, each named SPLIT/NAME."""
        split = row["split"]
        numbers = [
            _summaries.Summary.Value(tag=f"{split}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in ("step", "split")
        ]
        self._add(row["step"], summary=_summaries.Summary(value=numbers))
        if time.monotonic() > self._flushed + self.FLUSH_SECONDS:
            self.sync()

    def _add(self, step: int, **about: Any) -> None:
        with files.named(self._folder):
            self._events.write_event(_events.Event(step=step, wall_time=time.time(), **about))

    def sync(self) -> None:
        """Returns when the events are on the disk."""
        with files.named(self._folder):
            self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Closes the file."""
        with files.named(self._folder):
            self._events.close()


class Writers:
    """metrics.jsonl, tensorboard/ and plots/ of one workdir, kept together."""

    def __init__(self, workdir: pathlib.Path, last_step: int) -> None:
        self._metrics = MetricsFile(workdir / "metrics.jsonl", last_step)
        self._board = Board(workdir / "tensorboard", last_step)
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

    def sync(self) -> None:
        """Returns when every row is on the disk."""
        self._metrics.sync()
        self._board.sync()

    def draw(self) -> None:
        """Redraws plots/learning_curves.png."""
        from alexnet_jax.figures import curves  # matplotlib takes a second to import

        curves.draw_run(self._metrics.rows).save(self._picture)


class NoWriters(contextlib.AbstractContextManager):
    """What the other processes of a run have instead of `Writers`."""

    def write(self, row: Row) -> None:
        """Leaves the row to the first process."""

    def sync(self) -> None:
        """Has nothing to wait for."""

    def draw(self) -> None:
        """Draws nothing."""

    def __exit__(self, *_: object) -> None:
        return None
