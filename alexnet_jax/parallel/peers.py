"""The processes of a run know of each other: who has come, who has ended, and why.

Each keeps a connection to the first one, from before JAX joins them until the end. JAX waits for
minutes without a word, and ends a process with a stack of C++; a collective whose partner is gone
fails with whatever the network says, or never. The kernel closes a dead process's connection at
once, and keep-alives find a machine that is gone within `GONE_SECONDS`.
"""

import contextlib
import json
import os
import selectors
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from alexnet_jax.errors import UserError

SAY_SECONDS = 10.0  # between lines about who is awaited
GONE_SECONDS = 15  # after which a silent machine counts as gone
WITHOUT_A_WORD = ("died", "stands still")
GRACE_SECONDS = 4.0  # in which a process whose partner has ended may say something of its own


class ProcessesError(UserError, RuntimeError):
    """Processes that cannot start together, or what ended one of them."""


def address_of(coordinator: str) -> tuple[str, int]:
    """Returns the host and the port of HOST:PORT.

    Raises:
      ProcessesError: it is not of that form.
    """
    host, colon, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ProcessesError(
            f"--coordinator: {coordinator!r} must be HOST:PORT of process 0, such as 10.0.0.1:1234"
        )
    return host, int(port)


class _Line:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket, self._read = connection, b""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", GONE_SECONDS // 3),
            ("TCP_KEEPINTVL", GONE_SECONDS // 3),
            ("TCP_KEEPCNT", 2),
            ("TCP_USER_TIMEOUT", GONE_SECONDS * 1000),
        ):
            if hasattr(socket, name):  # not everywhere
                self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, **about: Any) -> None:
        with contextlib.suppress(OSError):  # who is gone is found by reading
            self.socket.sendall(json.dumps(about).encode() + b"\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns what has come, or None at the end; a stranger's bytes are an end too."""
        try:
            data = self.socket.recv(65536)
        except (BlockingIOError, InterruptedError, TimeoutError):
            return []
        except OSError:
            return None
        if not data or len(self._read) > 1 << 20:
            return None
        *lines, self._read = (self._read + data).split(b"\n")
        try:
            found = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return found if all(isinstance(one, dict) for one in found) else None


class Peers:
    """This process's connections to the others of its run."""

    def __init__(self, process: int, count: int) -> None:
        self.process, self.count = process, count
        self._lines: dict[int, _Line] = {}
        self._ended: dict[str, Any] | None = None  # of the first process that ended
        self._found = threading.Event()
        self._leaving = False
        self._lock = threading.Lock()
        self._figures: dict[int, dict[str, float]] = {}

    # --- coming together

    @classmethod
    def meet(cls, coordinator: str, count: int, process: int, seconds: float) -> "Peers":
        """Waits until all processes have come, and says every ten seconds who has not.

        Args:
          coordinator: HOST:PORT of process 0; JAX listens there afterwards.
          count: of processes.
          process: this one, from 0.
          seconds: to wait at most.

        Raises:
          ProcessesError: the port is taken, or some have not come; the message says which.
        """
        peers, address = cls(process, count), address_of(coordinator)
        started = time.monotonic()
        try:
            if process == 0:
                peers._gather(address, coordinator, started, seconds)
            else:
                peers._come(address, coordinator, started, seconds)
        except BaseException:
            for line in peers._lines.values():
                line.close()
            raise
        thread = threading.Thread(target=peers._listen, daemon=True, name="peers")
        thread.start()
        return peers

    def _gather(self, address: tuple[str, int], name: str, started: float, seconds: float) -> None:
        host = address[0]
        local = host in ("localhost", "127.0.0.1", "::1")
        both = not local and socket.has_dualstack_ipv6()
        six = both or host == "::1"
        try:
            listening = socket.create_server(
                (host if local else "", address[1]),
                family=socket.AF_INET6 if six else socket.AF_INET,
                backlog=self.count,
                dualstack_ipv6=both,
            )
        except OSError as error:
            raise ProcessesError(
                f"--coordinator: {name} cannot be listened on ({os.strerror(error.errno or 0)}); "
                "choose another port, the same for every process"
            ) from error
        coming: list[_Line] = []
        with listening, selectors.DefaultSelector() as ready:
            listening.setblocking(False)
            ready.register(listening, selectors.EVENT_READ)
            for waited in self._waits(ready, started, seconds):
                if waited is None:
                    missing = [p for p in range(1, self.count) if p not in self._lines]
                    if not missing:
                        break
                    told = f"{_those(missing)} of {self.count} at {name}"
                    if time.monotonic() - started > seconds:
                        for line in self._lines.values():
                            line.send(refused=f"process 0 waits no longer for {told}")
                        for line in coming:
                            line.close()
                        raise ProcessesError(
                            f"--coordinator: {told} did not come within {seconds:.0f} s "
                            "(join_seconds); start each with the same address"
                        )
                    self._say(f"waiting for {told}", started)
                    for line in self._lines.values():
                        line.send(missing=missing)
                elif waited is listening:
                    with contextlib.suppress(OSError):
                        line = _Line(listening.accept()[0])
                        line.socket.setblocking(False)
                        coming.append(line)
                        ready.register(line.socket, selectors.EVENT_READ, line)
                else:
                    self._welcome(ready, waited)
                if len(self._lines) == self.count - 1:
                    break
        for line in coming:
            if line not in self._lines.values():
                line.close()
        for line in self._lines.values():
            line.send(go=True)

    def _welcome(self, ready: selectors.BaseSelector, line: _Line) -> None:
        told = line.receive()
        known = [process for process, own in self._lines.items() if own is line]
        if told is None:
            ready.unregister(line.socket)
            line.close()
            for process in known:  # it may come again
                del self._lines[process]
        for about in told or []:
            process, count = about.get("process"), about.get("count")
            if count != self.count:
                line.send(refused=f"--num_processes: {count} here, {self.count} in process 0")
            elif type(process) is not int or not 0 < process < self.count:
                line.send(refused=f"--process_id: there is no process {process} of {self.count}")
            elif process in self._lines:
                line.send(refused=f"--process_id: process {process} is there already")
            else:
                self._lines[process] = line

    def _come(self, address: tuple[str, int], name: str, started: float, seconds: float) -> None:
        why = ""
        said = started
        while True:
            try:
                line = _Line(socket.create_connection(address, timeout=5))
                break
            except OSError as error:
                why = error.strerror or str(error) or type(error).__name__
            now = time.monotonic()
            if now - started > seconds:
                raise ProcessesError(
                    f"--coordinator: process 0 was not found at {name} within {seconds:.0f} s "
                    f"({why}; join_seconds); start it, with the same address"
                )
            if now - said >= SAY_SECONDS:
                self._say(f"waiting for process 0 at {name} ({why})", started)
                said = now
            threading.Event().wait(0.3)
        line.send(process=self.process, count=self.count)
        line.socket.settimeout(SAY_SECONDS * 1.5)  # process 0 says something more often
        self._lines[0] = line
        while True:
            told = line.receive()
            if told == [] and time.monotonic() - started > seconds:
                raise ProcessesError(
                    f"--coordinator: whoever listens at {name} does not answer as process 0 of "
                    "this run does; is the port another program's? Choose another"
                )
            if told is None:
                raise ProcessesError(
                    f"--coordinator: process 0 at {name} ended before all had come; see what it "
                    "said (is it this run's?)"
                )
            for about in told:
                if "refused" in about:
                    raise ProcessesError(str(about["refused"]))
                if "missing" in about:
                    self._say(f"waiting for {_those(about['missing'])}", started)
                if about.get("go"):
                    return

    def _waits(
        self, ready: selectors.BaseSelector, started: float, seconds: float
    ) -> Iterator[Any]:
        """Yields what can be read, and None every ten seconds and at the end."""
        said = started
        while True:
            now = time.monotonic()
            until = min(said + SAY_SECONDS, started + seconds)
            events = ready.select(max(0.0, until - now) + 0.01)
            for key, _ in events:
                yield key.data if key.data is not None else key.fileobj
            if time.monotonic() >= until:
                said = time.monotonic()
                yield None

    def _say(self, text: str, started: float) -> None:
        passed = time.monotonic() - started
        print(f"process {self.process}: {text}, {passed:.0f} s", file=sys.stderr, flush=True)

    # --- while they work

    def _listen(self) -> None:
        """Reads what the others say, until one of them ends."""
        with selectors.DefaultSelector() as ready:
            for process, line in self._lines.items():
                line.socket.settimeout(None)
                line.socket.setblocking(True)
                ready.register(line.socket, selectors.EVENT_READ, process)
            while len(ready.get_map()):
                for key, _ in ready.select():
                    process, line = key.data, self._lines[key.data]
                    told = line.receive()
                    for about in told or []:
                        self._hear(process, about)
                    if told is None:
                        ready.unregister(line.socket)
                        line.socket.close()
                        if not self._leaving and process not in self._left():
                            self._end(process, "died", 1)

    def _left(self) -> set[int]:
        return {process for process, own in self._figures.items() if own.get("left")}

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
        """Does an error here come from another process's end? Waits for the news of one.

        A wrong flag or file is found by every process itself, and each says so.
        """
        own = isinstance(error, UserError)
        self._found.wait(1.0 if own else GONE_SECONDS)
        return self._ended is not None and (
            not own or self._ended["why"].startswith(WITHOUT_A_WORD)
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
        """Tells the others that this process ends, in order or not; they are not surprised then.

        Args:
          why: what ended it, as the end of a sentence; empty where all went well.
          code: that it ends with.
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

    # --- figures

    def tell(self, **figures: float) -> None:
        """Tells the first process this one's latest figures; it costs no device anything."""
        if self.process == 0:
            self._figures[0] = figures
        else:
            self._lines[0].send(figures=figures)

    def spread(self, name: str) -> dict[str, float]:
        """Returns the least, median and most of a figure over the processes, as last told."""
        values = [own[name] for own in list(self._figures.values()) if name in own]
        if len(values) < 2:
            return {}
        return {
            f"{name}_least": min(values),
            f"{name}_median": statistics.median(values),
            f"{name}_most": max(values),
        }


def _those(processes: list[int]) -> str:
    names = ", ".join(map(str, processes[:8])) + (", ..." if len(processes) > 8 else "")
    return f"process{'es' if len(processes) > 1 else ''} {names}"
