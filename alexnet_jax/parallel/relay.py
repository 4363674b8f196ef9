"""A relay between this process's JAX and the coordination service in process 0.

If its connection to that service closes, JAX ends a process at once, with a C++ stack trace, before
anything can report which process died. The relay never passes such a close on to JAX, so that
`peers` can report it.
"""

import contextlib
import socket
import threading


class Relay:
    """Listens on a port of this machine alone, and passes on what comes to an address.

    Attributes:
      address: HOST:PORT to connect to in the place of the real one.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True, name="relay").start()

    def _accept(self) -> None:
        while True:
            below, _ = self._listening.accept()
            try:
                above = socket.create_connection(self._upstream, timeout=30)
                above.settimeout(None)
            except OSError:
                below.close()  # not there yet: JAX tries again
                continue
            for connection in (above, below):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target, ends in ((below, above, True), (above, below, False)):
                threading.Thread(
                    target=_pass_on, args=(source, target, ends), daemon=True, name="relay"
                ).start()


def _pass_on(source: socket.socket, target: socket.socket, ends: bool) -> None:
    """Passes bytes on until the source ends; `ends`: then the target ends too."""
    with contextlib.suppress(OSError):  # treated as an end: `peers` reports who is gone
        while data := source.recv(1 << 16):
            target.sendall(data)
    if ends:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
