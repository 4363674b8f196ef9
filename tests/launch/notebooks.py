"""A Jupyter kernel to run cells in, with this checkout's package."""

import contextlib
import os
import pathlib
import queue
import threading
from collections.abc import Iterator

from jupyter_client.manager import start_new_kernel

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 300.0  # for a cell, at most


class Kernel:
    """Runs cells one by one."""

    def __init__(self, manager, client) -> None:
        self._manager, self._client = manager, client

    def run(self, code: str, interrupted_after: str = "") -> tuple[str, str]:
        """Runs a cell.

        Args:
          code: the cell's code.
          interrupted_after: interrupt the cell once its output contains this text.

        Returns:
          The cell's output, and its error as a notebook shows it, without colours.
        """
        said, interrupted = [], threading.Event()
        error = ""

        def hook(message) -> None:
            nonlocal error
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                said.append(content["text"])
            elif kind in ("display_data", "execute_result", "update_display_data"):
                said.append(content["data"].get("text/plain", "") + "\n")
            elif kind == "error":
                error = "\n".join(content["traceback"])
            seen = interrupted_after and interrupted_after in "".join(said)
            if seen and not interrupted.is_set():
                interrupted.set()
                self._manager.interrupt_kernel()

        try:
            self._client.execute_interactive(code, timeout=SECONDS, output_hook=hook)
        except (TimeoutError, queue.Empty) as late:
            raise AssertionError(f"the cell did not end; it said {''.join(said)[-2000:]}") from late
        return "".join(said), error


@contextlib.contextmanager
def kernel(folder: pathlib.Path) -> Iterator[Kernel]:
    """Starts a kernel in a folder, and ends it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    manager, client = start_new_kernel(
        kernel_name="python3", cwd=str(folder), env=environment, startup_timeout=120
    )
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
