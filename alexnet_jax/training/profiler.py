"""A trace of some updates by JAX's profiler, for `--profile=FROM:TO`."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from alexnet_jax.config import ConfigError
from alexnet_jax.host import files

FOLDER = "profile"  # of a workdir; TensorBoard's profile plugin and Perfetto open what is in it
PROGRAM = "step.hlo.txt"  # beside the trace; maps its instructions to layers


def steps_of(text: str) -> range:
    """Returns the updates FROM to TO, both included; none for an empty text.

    Raises:
      ConfigError: it is not FROM:TO.

    >>> steps_of("20:24")
    range(20, 25)
    """
    if not text:
        return range(0)
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ConfigError(f"--profile: {text!r} must be FROM:TO, two updates such as 20:24")
    return range(int(first), int(last) + 1)


class Profiler:
    """Records the updates that were asked for; elsewhere it costs nothing.

    The loop waits for the devices twice: before the first of them and after the last.
    """

    def __init__(
        self, workdir: pathlib.Path, steps: range, text: str, say: Callable[[str], None]
    ) -> None:
        """Prepares.

        Args:
          workdir: of the run.
          steps: to record; none in processes but the first.
          text: of the compiled step.
          say: prints a line.
        """
        self._folder, self._steps, self._text, self._say = workdir / FOLDER, steps, text, say
        self._first = self._last = 0

    @contextlib.contextmanager
    def around(self, updates: range, state: Any) -> Iterator[None]:
        """Marks a dispatch of updates.

        Args:
          updates: that are dispatched.
          state: that they begin with.
        """
        wanted = self._steps and updates[0] <= self._steps[-1] and updates[-1] >= self._steps[0]
        if self._first and not wanted:
            self.stop(state)
        elif not self._first and wanted:
            jax.block_until_ready(state)
            self._start(updates[0])
        if not self._first:
            yield
            return
        self._last = updates[-1]
        # One mark covers all updates of the dispatch.
        with jax.profiler.StepTraceAnnotation("update", step_num=updates[0], updates=len(updates)):
            yield

    def _start(self, at: int) -> None:
        self._folder.mkdir(exist_ok=True)
        files.replace_text(self._folder / PROGRAM, self._text)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # a line for each call, which slows the loop down
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._first = at

    def stop(self, state: Any = None) -> None:
        """Ends the recording, if one runs; saves and evaluations are not recorded.

        Args:
          state: that the last update leaves; None after an error.
        """
        if not self._first:
            return
        if state is not None:
            jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self._say(
            f"profile: updates {self._first:,} to {self._last:,} are in {self._folder}; python -m "
            "alexnet_jax.benchmark trace --workdir=... makes a table of it"
        )
        self._first, self._steps = 0, range(0)

    def close(self) -> None:
        """Ends a recording that still runs; reports one that never began."""
        self.stop()
        if self._steps:
            first, last = self._steps[0], self._steps[-1]
            self._say(f"profile: this start had no update from {first:,} to {last:,}; none is kept")
            self._steps = range(0)
