"""Connections between the processes of a run, which tell who has ended, and why.

Each process keeps a connection to the first one, from before JAX joins them until the end. A
collective with a dead partner fails with some error of the network, or hangs. The kernel closes a
dead process's connection at once, and keep-alives detect a lost machine within `GONE_SECONDS`.
"""

import contextlib
import os
import selectors
import signal
import socket
import statistics
import sys
import threading
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.parallel.meeting import GONE_SECONDS, Line, Meeting

WITHOUT_A_WORD = ("died", "stands still")
GRACE_SECONDS = 4.0  # in which a process may report an error of its own, after another ended


class Peers:
    """This process's connections to the others of its run."""

    def __init__(self, process: int, count: int, lines: dict[int, Line]) -> None:
        self.process, self.count, self._lines = process, count, lines
        self._ended: dict[str, Any] | None = None  # of the first process that ended
        self._found = threading.Event()
        self._leaving = False
        self._lock = threading.RLock()  # a signal handler may run in the thread that holds it
        self._figures: dict[int, dict[str, float]] = {}

    @classmethod
    def meet(cls, coordinator: str, count: int, process: int, seconds: float) -> "Peers":
        """Waits for the others; see `Meeting`.

        Raises:
          ProcessesError: the port is taken, or some have not come; the message says which.
        """
        peers = cls(process, count, Meeting(coordinator, count, process, seconds).meet())
        threading.Thread(target=peers._listen, daemon=True, name="peers").start()
        return peers

    def _listen(self) -> None:
        """Reads the others' messages until every connection is closed."""
        with selectors.DefaultSelector() as ready:
            for process, line in self._lines.items():
                line.socket.settimeout(None)
                line.socket.setblocking(True)
                ready.register(line.socket, selectors.EVENT_READ, process)
            while len(ready.get_map()):
                for key, _ in ready.select():
                    process, line = key.data, self._lines[key.data]
                    messages = line.receive()
                    for about in messages or []:
                        self._hear(process, about)
                    if messages is None:
                        ready.unregister(line.socket)
                        line.socket.close()
                        if not self._leaving and process not in self._left():
                            self._end(process, "died", 1)

    def _left(self) -> set[int]:
        return {process for process, figures in self._figures.items() if figures.get("left")}

    def _hear(self, process: int, about: dict[str, Any]) -> None:
        if "figures" in about:
            self._figures[process] = about["figures"]
        if about.get("left"):
            self._figures[process] = {"left": 1.0}
        if "ended" in about:
            self._end(about["ended"], about["why"], about["code"])

    def _end(self, process: int, why: str, code: int) -> None:
        """Ends this process too, after a moment in which it may end by itself."""
        with self._lock:
            if self._ended is not None or self._leaving:
                return
            self._ended = {"process": process, "why": why, "code": code}
        for other, line in self._lines.items():
            if other != process:
                line.send(ended=process, why=why, code=code)
        self._found.set()
        threading.Timer(GRACE_SECONDS, self.leave_with_blame).start()

    def is_to_blame(self, error: Exception) -> bool:
        """Did another process's end cause this error? Waits for news of such an end.

        Every process finds a wrong flag or file by itself, and reports it.
        """
        is_user_error = isinstance(error, UserError)
        self._found.wait(1.0 if is_user_error else GONE_SECONDS)
        return self._ended is not None and (
            not is_user_error or self._ended["why"].startswith(WITHOUT_A_WORD)
        )

    def blame(self) -> str:
        """Returns the line about the process that ended first."""
        assert self._ended is not None
        process, why = self._ended["process"], self._ended["why"]
        return (
            f"error: process {process} of {self.count} {why}; the others end too: start all of "
            "them again to go on from the last checkpoint"
        )

    def leave_with_blame(self) -> None:
        """Ends this process with the line about the one that ended first, and with its code."""
        with self._lock:
            if self._leaving or self._ended is None:
                return
            self._leaving = True
        print(self.blame(), file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(self._ended["code"])

    def leave(self, why: str = "", code: int = 0) -> None:
        """Tells the others that this process ends, normally or not, so that they expect it.

        Args:
          why: what ended it, as the end of a sentence; empty if all went well.
          code: its exit code.
        """
        with self._lock:
            self._leaving = True
        for line in self._lines.values():
            if why:
                line.send(ended=self.process, why=why, code=code)
            else:
                line.send(left=True)
            with contextlib.suppress(OSError):
                line.socket.shutdown(socket.SHUT_WR)  # the thread reads on until they leave too

    def leave_by_signal(self, number: int) -> None:
        """Tells the others which signal ends this process."""
        self.leave(f"was ended by {signal.Signals(number).name}", 128 + number)

    def tell(self, **figures: float) -> None:
        """Sends this process's latest figures to the first one, without using any device."""
        if self.process == 0:
            self._figures[0] = figures
        else:
            self._lines[0].send(figures=figures)

    def spread(self, name: str) -> dict[str, float]:
        """Returns a figure's minimum, median and maximum over the processes, as last sent."""
        values = [figures[name] for figures in list(self._figures.values()) if name in figures]
        if len(values) < 2:
            return {}
        return {
            f"{name}_least": min(values),
            f"{name}_median": statistics.median(values),
            f"{name}_most": max(values),
        }
