"""SIGINT and SIGTERM: they end a command in one line at once, or a training loop once it has saved.

Python's own handlers run only when the main thread is back from native code, and a compilation
takes many seconds; besides, a callback can swallow the exception that a handler raises. So a
command also has a thread, which C's handler wakes up: it ends the process if nothing else did.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

GRACE_SECONDS = 3.0  # for an orderly end, which closes files and removes temporary ones
NUMBERS = (signal.SIGINT, signal.SIGTERM)

# One process has one set of handlers. `_remembering` holds whoever saves first, if anybody does.
_remembering: list["Remembered"] = []
_handled: set[int] = set()  # by `handled`
_listeners: list[Callable[[int], None]] = []
_told = threading.Event()
_name = ""


def end_in_one_line(name: str) -> None:
    """Makes SIGINT and SIGTERM end this process with one line and exit code 128 + the signal.

    Args:
      name: the module's `__name__`; does nothing if another module imports it.
    """
    global _name
    if name != "__main__" or threading.current_thread() is not threading.main_thread():
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    _name = f"{spec.name}: " if spec else ""
    ours, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    for number in NUMBERS:
        signal.signal(number, _end)
    os.register_at_fork(after_in_child=_as_ever)  # a child's signals are not this process's
    thread = threading.Thread(target=_watch, args=(ours, woken), daemon=True, name="signals")
    thread.start()


def also_tell(listener: Callable[[int], None]) -> None:
    """Calls a function with the signal that ends this process, before it ends.

    Open `with` and `finally` blocks do not always run: not while a module is loaded, and not while
    the main thread is in native code.

    Args:
      listener: called in a signal handler or a thread; it must be short and raise nothing.
    """
    _listeners.append(listener)


def _as_ever() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _say(number: int) -> None:
    if _told.is_set():
        return
    _told.set()
    line = f"{_name}ended by {signal.Signals(number).name}\n"
    with contextlib.suppress(OSError):  # a terminal that is gone: nobody is there to be told
        os.write(2, line.encode())
    for listener in _listeners:
        listener(number)


def _end(number: int, frame: types.FrameType | None) -> None:
    _say(number)
    _ignore_more()
    if _is_importing(frame):
        # An exception could interrupt a native module while it is loaded, and some then crash: one
        # SIGINT in a few hundred ended in a SIGSEGV in jaxlib.
        os._exit(128 + number)
    # A destructor or a callback may swallow the exception, and says so with a traceback; then the
    # thread ends the process.
    sys.unraisablehook = lambda _: None
    raise SystemExit(128 + number)


def _is_importing(frame: types.FrameType | None) -> bool:
    """Is a module being loaded, in a frame or one that called it?"""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _ignore_more() -> None:
    """Ignores later signals: Python restores their default effect before the process has ended,
    which would change its exit code."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _watch(ours: socket.socket, woken: socket.socket) -> None:
    """Ends the process some seconds after a signal, where the main thread cannot."""
    while data := ours.recv(1):
        number = data[0]
        if number not in NUMBERS or number in _handled:
            continue
        if _remembering and not _remembering[-1].at_once:
            continue
        _say(number)
        threading.Event().wait(GRACE_SECONDS)
        os._exit(128 + number)


@contextlib.contextmanager
def handled(number: int, handler: Callable[..., None]) -> Iterator[None]:
    """Leaves a signal to the caller's own handler, however long the work then takes to end.

    Args:
      number: of the signal.
      handler: as for `signal.signal`; only in the main thread.
    """
    before = signal.signal(number, handler)
    _handled.add(number)
    yield
    # Not undone after an exception: the process ends, and the thread may not have seen the signal.
    _handled.discard(number)
    signal.signal(number, before)


class Remembered(contextlib.AbstractContextManager):
    """Remembers SIGINT and SIGTERM for whoever asks; a second SIGINT, from a user, ends at once.

    Further SIGTERMs are only remembered: Slurm, mpirun and `timeout` send several, and a save that
    is under way must finish. Only the main thread gets signals.
    """

    def __init__(self) -> None:
        self.received = 0
        self.at_once = False  # was the second SIGINT seen?
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Remembered":
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                self._before[number] = signal.signal(number, self._remember)
            _remembering.append(self)
        return self

    def _remember(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            self.at_once = True
            before = self._before[number]
            if callable(before):
                before(number, None)
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received and self._before.get(signal.SIGTERM) is _end:
            _ignore_more()  # what was asked for is under way
        if self in _remembering:
            _remembering.remove(self)
