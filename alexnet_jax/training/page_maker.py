"""report.html of a run, made by another process: while it trains, and once it has ended."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import alexnet_jax
from alexnet_jax.errors import printable
from alexnet_jax.ops import platform
from alexnet_jax.parallel import processes

PAGE = "report.html"
MOST_SECONDS = 300  # for the page at the end


class PageMaker:
    """Starts processes that make the page, at most one every `every_minutes`; waits for none."""

    def __init__(self, workdir: pathlib.Path, every_minutes: float) -> None:
        """Prepares it; the first page is due after that time. 0 minutes: never."""
        self._workdir, self._seconds = workdir, 60 * every_minutes
        self._last = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    def make_if_due(self) -> None:
        """Starts the process, if the last page is old and no process is at it."""
        if not self._seconds or not processes.is_first():
            return
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() - self._last < self._seconds:
            return
        self._last = time.monotonic()
        # Without answers, and at low priority: the devices and the processor belong to the run.
        nice = [path] if (path := shutil.which("nice")) else []
        try:
            self._process = subprocess.Popen(
                [*nice, *_command(self._workdir), "--noanswers"],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:  # a page is no part of the run
            print(printable(f"{self._workdir / PAGE}: {error}"), file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Ends the process if it still runs: another one makes the final page."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def make_page(workdir: pathlib.Path) -> str:
    """Makes the page of a run that has ended; returns its path, or "" on failure.

    The run does not depend on the page: a failure prints one line, and the run stays finished.
    """
    try:
        done = subprocess.run(
            _command(workdir),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MOST_SECONDS,
            check=False,
        )
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        failed = done.returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        lines, failed = [str(error)], 1
    for line in lines[-1:]:
        print(printable(f"{workdir / PAGE}: {line}"), file=sys.stderr, flush=True)
    return "" if failed else str(workdir / PAGE)


def _command(workdir: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "alexnet_jax.report", f"--workdir={workdir}"]


def _environment() -> dict[str, str]:
    """Returns an environment that finds this copy of the package, and no devices: they are the
    run's."""
    there = str(pathlib.Path(alexnet_jax.__file__).parents[1])
    known = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([there, *filter(None, known.split(os.pathsep))])
    return os.environ | {"PYTHONPATH": path} | platform.WITHOUT_DEVICES
