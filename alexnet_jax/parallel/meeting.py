"""The rendezvous of processes: they find each other before JAX joins them, and say who is missing.

JAX waits silently for minutes, and then ends the process with a C++ stack trace.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from alexnet_jax.errors import UserError

SAY_SECONDS = 10.0  # between lines about who is awaited
GONE_SECONDS = 15  # after which a silent machine counts as gone


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


class Line:
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
        """Sends an object."""
        with contextlib.suppress(OSError):  # reading detects a lost peer
            self.socket.sendall(json.dumps(about).encode() + b"\n")

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns the messages that came; None if the connection ended or sent foreign bytes."""
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
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return messages if all(isinstance(one, dict) for one in messages) else None


class Meeting:
    """One process's part in the rendezvous.

    `lines` connect the first process to all others, and every other one to the first.
    """

    def __init__(self, coordinator: str, count: int, process: int, seconds: float) -> None:
        """Prepares to meet.

        Args:
          coordinator: HOST:PORT of process 0; JAX listens there afterwards.
          count: of processes.
          process: this one, from 0.
          seconds: to wait at most.

        Raises:
          ProcessesError: the coordinator is not of that form.
        """
        self._name, self._address = coordinator, address_of(coordinator)
        self._count, self._process, self._seconds = count, process, seconds
        self._started = time.monotonic()
        self.lines: dict[int, Line] = {}

    def meet(self) -> dict[int, Line]:
        """Waits until all processes have come, and says every ten seconds who has not.

        Returns:
          Connections by process: the first one's to all others, the others' to the first.

        Raises:
          ProcessesError: the port is taken, or some have not come; the message says which.
        """
        try:
            self._come() if self._process else self._gather()
        except BaseException:
            for line in self.lines.values():
                line.close()
            raise
        return self.lines

    def _gather(self) -> None:
        (host, port), name = self._address, self._name
        local = host in ("localhost", "127.0.0.1", "::1")
        both = not local and socket.has_dualstack_ipv6()
        six = both or host == "::1"
        try:
            listening = socket.create_server(
                (host if local else "", port),
                family=socket.AF_INET6 if six else socket.AF_INET,
                backlog=self._count,
                dualstack_ipv6=both,
            )
        except OSError as error:
            raise ProcessesError(
                f"--coordinator: {name} cannot be listened on ({os.strerror(error.errno or 0)}); "
                "choose another port, the same for every process"
            ) from error
        coming: list[Line] = []
        with listening, selectors.DefaultSelector() as ready:
            listening.setblocking(False)
            ready.register(listening, selectors.EVENT_READ)
            for waited in self._waits(ready):
                if waited is None:
                    missing = [p for p in range(1, self._count) if p not in self.lines]
                    if not missing:
                        break
                    arrived = f"{_those(missing)} of {self._count} at {name}"
                    if time.monotonic() - self._started > self._seconds:
                        for line in self.lines.values():
                            line.send(refused=f"process 0 waits no longer for {arrived}")
                        for line in coming:
                            line.close()
                        raise ProcessesError(
                            f"--coordinator: {arrived} did not come within {self._seconds:.0f} s "
                            "(join_seconds); start each with the same address"
                        )
                    self._say(f"waiting for {arrived}")
                    for line in self.lines.values():
                        line.send(missing=missing)
                elif waited is listening:
                    with contextlib.suppress(OSError):
                        line = Line(listening.accept()[0])
                        line.socket.setblocking(False)
                        coming.append(line)
                        ready.register(line.socket, selectors.EVENT_READ, line)
                else:
                    self._welcome(ready, waited)
                if len(self.lines) == self._count - 1:
                    break
        for line in coming:
            if line not in self.lines.values():
                line.close()
        for line in self.lines.values():
            line.send(go=True)

    def _welcome(self, ready: selectors.BaseSelector, line: Line) -> None:
        messages = line.receive()
        known = [process for process, other in self.lines.items() if other is line]
        if messages is None:
            ready.unregister(line.socket)
            line.close()
            for process in known:  # it may come again
                del self.lines[process]
        for about in messages or []:
            process, count = about.get("process"), about.get("count")
            if count != self._count:
                line.send(refused=f"--num_processes: {count} here, {self._count} in process 0")
            elif type(process) is not int or not 0 < process < self._count:
                line.send(refused=f"--process_id: there is no process {process} of {self._count}")
            elif process in self.lines:
                line.send(refused=f"--process_id: process {process} is there already")
            else:
                self.lines[process] = line

    def _come(self) -> None:
        name, started, seconds = self._name, self._started, self._seconds
        why, last_said = "", started
        while True:
            try:
                line = Line(socket.create_connection(self._address, timeout=5))
                break
            except OSError as error:
                why = error.strerror or str(error) or type(error).__name__
            now = time.monotonic()
            if now - started > seconds:
                raise ProcessesError(
                    f"--coordinator: process 0 was not found at {name} within {seconds:.0f} s "
                    f"({why}; join_seconds); start it, with the same address"
                )
            if now - last_said >= SAY_SECONDS:
                self._say(f"waiting for process 0 at {name} ({why})")
                last_said = now
            threading.Event().wait(0.3)
        line.send(process=self._process, count=self._count)
        line.socket.settimeout(SAY_SECONDS * 1.5)  # process 0 says something more often
        self.lines[0] = line
        while True:
            messages = line.receive()
            if messages == [] and time.monotonic() - started > seconds:
                raise ProcessesError(
                    f"--coordinator: the program at {name} does not answer as process 0 of this "
                    "run; is the port another program's? Choose another port"
                )
            if messages is None:
                raise ProcessesError(
                    f"--coordinator: process 0 at {name} ended before all had come; see what it "
                    "said (is it this run's?)"
                )
            for about in messages:
                if "refused" in about:
                    raise ProcessesError(str(about["refused"]))
                if "missing" in about:
                    self._say(f"waiting for {_those(about['missing'])}")
                if about.get("go"):
                    return

    def _waits(self, ready: selectors.BaseSelector) -> Iterator[Any]:
        """Yields each readable line or socket, and None every ten seconds and at the deadline."""
        last_said = self._started
        while True:
            now = time.monotonic()
            until = min(last_said + SAY_SECONDS, self._started + self._seconds)
            events = ready.select(max(0.0, until - now) + 0.01)
            for key, _ in events:
                yield key.data if key.data is not None else key.fileobj
            if time.monotonic() >= until:
                last_said = time.monotonic()
                yield None

    def _say(self, text: str) -> None:
        passed = time.monotonic() - self._started
        print(f"process {self._process}: {text}, {passed:.0f} s", file=sys.stderr, flush=True)


def _those(processes: list[int]) -> str:
    names = ", ".join(map(str, processes[:8])) + (", ..." if len(processes) > 8 else "")
    return f"process{'es' if len(processes) > 1 else ''} {names}"
