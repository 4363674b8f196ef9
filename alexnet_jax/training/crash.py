"""Traces of crashes in native code, and the line about them at the next start."""

import contextlib
import faulthandler
import pathlib
import threading
from collections.abc import Iterator

import jax

from alexnet_jax.parallel import processes

NAME = "native_crash"
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def told_of(workdir: pathlib.Path) -> Iterator[None]:
    """Reports a native crash of the previous run, and leaves a trace if this one crashes.

    At a SIGSEGV, SIGILL, SIGBUS, SIGFPE or SIGABRT Python's faulthandler writes the stacks of all
    threads to a file of the workdir; an empty one is removed at the end.
    """
    path = workdir / f"{NAME}.{jax.process_index()}.txt"
    processes.first_does(lambda: _tell(workdir))
    if not _one_at_a_time.acquire(blocking=False):
        yield  # faulthandler has one file: another run of this process has it
        return
    enabled_before = faulthandler.is_enabled()
    try:
        with path.open("w") as file:
            faulthandler.enable(file)
            try:
                yield
            finally:
                faulthandler.disable()
                if enabled_before:
                    faulthandler.enable(2)  # standard error, which a notebook's sys.stderr is not
                path.unlink(missing_ok=True)
    finally:
        _one_at_a_time.release()


def _tell(workdir: pathlib.Path) -> None:
    traces = [path for path in sorted(workdir.glob(f"{NAME}.*.txt")) if path.stat().st_size]
    if not traces:
        return
    kept = workdir / f"{NAME}.txt"
    text = traces[0].read_text(errors="replace")
    for trace in reversed(traces):  # the first trace is renamed last, and stays
        trace.replace(kept)
    first = text.splitlines()[0].removeprefix("Fatal Python error: ")
    processes.say(
        f"the run in {workdir} was ended in native code before ({first}; {kept.name} has where); "
        "if that happens again, --config.kernels=reference computes with XLA's own kernels alone"
    )
