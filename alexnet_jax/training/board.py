"""TensorBoard's file of events."""

import os
import pathlib
import time
from typing import Any

import numpy as np
from tensorboardX import summary as board_summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from alexnet_jax.errors import printable
from alexnet_jax.host import files
from alexnet_jax.steps.metrics import series_of

# Protobuf makes these as the modules are imported, where a type checker does not see them.
_events: Any = event_pb2
_summaries: Any = summary_pb2


class Board:
    """A TensorBoard event file, written in the caller's thread: a full disk raises at that row.

    tensorboardX's own SummaryWriter writes in a thread of its own. If that thread cannot write, it
    dies, and the run then blocks for ever on its full queue.
    """

    FLUSH_SECONDS = 30  # TensorBoard may lag behind the run by this much

    def __init__(self, folder: pathlib.Path, last_step: int) -> None:
        """Begins a file; TensorBoard then discards later steps from earlier files."""
        self._folder, self._flushed = folder, time.monotonic()
        with files.named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # The timestamp in the name has whole seconds: two starts could share one.
            self._events = EventsWriter(str(folder / f"events.{last_step}.{os.getpid()}"))
        self._add(last_step + 1, session_log=_events.SessionLog(status=_events.SessionLog.START))

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row's numbers, each named SERIES/NAME."""
        series = series_of(row)
        numbers = [
            _summaries.Summary.Value(tag=f"{series}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in ("step", "split", "views", "time_of_day")
        ]
        self._add(row["step"], summary=_summaries.Summary(value=numbers))
        if time.monotonic() > self._flushed + self.FLUSH_SECONDS:
            self.sync()

    def write_text(self, name: str, text: str, step: int) -> None:
        """Adds a text, shown verbatim; what UTF-8 cannot encode (in a path, say) is escaped."""
        shown = text.encode(errors="backslashreplace").decode()
        self._add(step, summary=board_summary.text(name, f"```\n{shown}\n```"))

    def write_picture(self, name: str, png: bytes, step: int) -> None:
        """Adds a picture."""
        height, width = (int.from_bytes(png[at : at + 4], "big") for at in (20, 16))
        image = _summaries.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png
        )
        value = _summaries.Summary.Value(tag=name, image=image)
        self._add(step, summary=_summaries.Summary(value=[value]))

    def write_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Adds a histogram of values: 30 equal bins from the least to the greatest."""
        self._add(step, summary=board_summary.histogram(name, values, bins=30))

    def write_settings(self, fields: dict[str, Any], results: dict[str, float], step: int) -> None:
        """Adds a row to TensorBoard's table of hyper-parameters.

        Args:
          fields: the settings: numbers, strings, booleans.
          results: the outcome, named like the rows' series.
          step: of the results.
        """
        known = {
            name: value if type(value) in (bool, int, float) else printable(value)
            for name, value in fields.items()
        }
        for summary in board_summary.hparams(known, results):
            self._add(step, summary=summary)

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
