"""A watchdog: ends a process that makes no progress, and writes the stacks of all its threads."""

import contextlib
import faulthandler
import os
import pathlib
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

STUCK = 124  # the exit code, as of `timeout`
USUAL = 20  # usual updates; the limit is at least the time that so many take


class Watchdog(contextlib.AbstractContextManager):
    """A thread that expects progress every `seconds`.

    A loop that waits for another process, or for a device, cannot itself notice that it waits for
    ever.
    """

    def __init__(self, seconds: float, trace: pathlib.Path, say: Callable[[str], None]) -> None:
        """Prepares the watchdog; it starts to count at the first `beat`.

        Args:
          seconds: the limit without progress; it is higher if usual updates are long.
          trace: a file for the stacks of all threads.
          say: reports a line before the process ends.
        """
        self._seconds, self._trace, self._say = seconds, trace, say
        self._times: deque[float] = deque(maxlen=50)
        self._last: float | None = None
        self._paused, self._at = 0, ""
        self._growing: Callable[[], Any] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def beat(self, at: str, updates: int = 1) -> None:
        """Notes progress.

        Args:
          at: the position in the work, for the last line before the process ends.
          updates: number of updates since the last beat; 0 for other progress, which is not part of
            the usual time of an update.
        """
        now = time.monotonic()
        if updates and self._last is not None:
            self._times.append((now - self._last) / updates)
        self._last, self._at = now, at

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Suspends the limit during work of any length: compiling, drawing, reading."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1
            if self._last is not None:
                self._last = time.monotonic()

    @contextlib.contextmanager
    def while_growing(self, measure: Callable[[], Any]) -> Iterator[None]:
        """Counts a change of the measure as progress during a block: of a save's bytes, say."""
        self._growing = measure
        try:
            yield
        finally:
            self._growing = None
            if self._last is not None:
                self._last = time.monotonic()

    def limit(self) -> float:
        """Returns how many seconds without progress are too many now."""
        usual = statistics.median(self._times) if self._times else 0.0
        return max(self._seconds, USUAL * usual)

    def _watch(self) -> None:
        measured = None
        while not self._over.wait(min(1.0, self._seconds / 4)):
            last, growing = self._last, self._growing
            if last is None or self._paused:
                continue
            if growing is not None and (now := growing()) != measured:
                measured, self._last = now, time.monotonic()
                continue
            if (passed := time.monotonic() - last) > self.limit():
                self._end(passed)

    def _end(self, passed: float) -> None:
        where = f"; the stacks of its threads are in {self._trace}"
        try:
            with self._trace.open("w") as file:
                file.write(f"{self._at}: no progress for {passed:.0f} s\n")
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            where = f" (its stacks could not be written: {error})"
        self._say(
            f"{self._at}: no progress for {passed:.0f} s (stuck_after_seconds){where}; "
            "run again to go on from the last checkpoint"
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STUCK)
