"""A stopwatch that gives every second to one kind of work."""

import contextlib
import time
from collections.abc import Callable, Iterator


class Stopwatch:
    """All the time since the start, split by kind of work; every second counts exactly once.

    >>> seconds = iter([0.0, 1.0, 4.0, 5.0])
    >>> watch = Stopwatch("start", lambda: next(seconds))
    >>> with watch.on("compile"):
    ...     pass
    >>> watch.spent()
    {'start': 2.0, 'compile': 3.0}
    """

    def __init__(self, kind: str, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begins with a kind of work, on a clock in seconds."""
        self._kind, self._clock = kind, clock
        self._since = clock()
        self._spent = {kind: 0.0}

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Counts the time of a block as another kind of work; blocks can be nested."""
        before = self._switch(kind)
        try:
            yield
        finally:
            self._switch(before)

    def spent(self) -> dict[str, float]:
        """Returns the seconds of each kind until now."""
        self._switch(self._kind)
        return dict(self._spent)

    def _switch(self, kind: str) -> str:
        now, before = self._clock(), self._kind
        self._spent[before] += now - self._since
        self._spent.setdefault(kind, 0.0)
        self._kind, self._since = kind, now
        return before
