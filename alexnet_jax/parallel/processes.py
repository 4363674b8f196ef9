"""Several processes as one run: start-up, agreement, and work for the first one alone."""

import contextlib
import inspect
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax import cli
from alexnet_jax.config import Config, ConfigError, flatten, from_json, to_json
from alexnet_jax.errors import Interrupted, UserError, printable
from alexnet_jax.host import signals
from alexnet_jax.host.watchdog import STUCK
from alexnet_jax.parallel import launchers
from alexnet_jax.parallel.meeting import ProcessesError, address_of
from alexnet_jax.parallel.peers import Peers
from alexnet_jax.parallel.relay import Relay

__all__ = ["ProcessesError"]

T = TypeVar("T")
SHUTDOWN_SECONDS = 20  # how long shutdown waits for the other processes
A_DAY = 24 * 3600


# At most one, like JAX's own state: a process joins one run, or none.
_peers: list[Peers] = []


def start(
    coordinator: str,
    num_processes: int,
    process_id: int,
    join_seconds: float = 300.0,
    method: str = "",
) -> None:
    """Joins this process with the others; call it before anything asks for devices.

    Args:
      coordinator: HOST:PORT of the first process. Empty: read everything from the environment that
        a launcher sets (`launchers`).
      num_processes: how many the run has; ignored if coordinator is empty.
      process_id: of this process, from 0; ignored if coordinator is empty.
      join_seconds: how long to wait for the others.
      method: how to find the others if coordinator is empty; one of `launchers.METHODS`.

    Raises:
      ConfigError: the flags do not fit together.
      ProcessesError: no launcher's environment is found, or the others do not come.
    """
    launch: dict[str, Any] = {}
    if coordinator:
        if not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--process_id: {process_id} must be at least 0 and less than --num_processes = "
                f"{num_processes}"
            )
        address_of(coordinator)
        launch = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
        if coordinator.rpartition(":")[0] in ("localhost", "127.0.0.1") and not process_id:
            launch["coordinator_bind_address"] = coordinator  # closed to other machines
    try:
        launch = launch or launchers.detect(join_seconds, method)
        count, number = launch["num_processes"], launch["process_id"]
        if count == 1 and not coordinator:
            return  # nobody else to join
        if count > 1:  # JAX alone would wait silently, then end the process
            peers = Peers.meet(launch["coordinator_address"], count, number, join_seconds)
            signals.also_tell(peers.leave_by_signal)
            _peers.append(peers)
        _initialize(launch)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, UserError) and not isinstance(error, launchers.LauncherError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ProcessesError(
            f"--distributed: this process cannot join the others ({reason}); start each with "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def _initialize(launch: dict[str, Any]) -> None:
    known = inspect.signature(jax.distributed.initialize).parameters
    if "shutdown_timeout_seconds" in known:  # jax 0.8
        launch = launch | {"shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    if "heartbeat_timeout_seconds" in known:  # `peers` finds lost processes, the watchdog hung ones
        launch = launch | {"heartbeat_timeout_seconds": A_DAY}
    if launch["process_id"]:
        relay = Relay(address_of(launch["coordinator_address"]))
        launch = launch | {"coordinator_address": relay.address}
    before = signal.getsignal(signal.SIGTERM)
    if "jax_enable_preemption_service" in jax.config.values:
        # Its handler for SIGTERM replaces ours, and nothing here reads what it records.
        jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(**launch)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGTERM, before)  # older versions install theirs all the same


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends a command's process without waiting for the others, and tells them why.

    A failure that another process's end caused becomes one line that names that process.
    """
    if not _peers:
        yield
        return
    peers = _peers[0]
    try:
        yield
    except Interrupted:
        peers.leave()
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        # Another process's end may have caused this; its connection shows it within seconds.
        if isinstance(error, Exception) and peers.is_to_blame(error):
            peers.leave_with_blame()
        code = error.code if isinstance(error, SystemExit) else 130
        code = code if isinstance(code, int) and not isinstance(error, Exception) else 1
        lines = str(error).strip().splitlines() or [""]
        why = f"ended ({type(error).__name__}: {lines[0][:200]})"
        if not isinstance(error, Exception):
            why = f"was ended by {signal.Signals(code - 128).name}" if code > 128 else "ended"
        if isinstance(error, UserError | OSError):
            print(f"error: {cli.line_of(error)}", file=sys.stderr)
        elif isinstance(error, Exception):
            traceback.print_exc()
        peers.leave(why, code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # JAX's own end would wait for processes that are not coming
    else:
        peers.leave()


def tell_stuck(line: str) -> None:
    """Says that this process stands still, here and to the others."""
    speaker = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    print(f"error: {speaker}{line}", file=sys.stderr, flush=True)
    for peers in _peers:
        peers.leave(f"stands still ({line.split(';')[0]})", STUCK)


def tell_figures(**figures: float) -> None:
    """Sends this process's figures to the first one: over the network, not through devices."""
    for peers in _peers:
        peers.tell(**figures)


def spread(name: str) -> dict[str, float]:
    """In the first process: a figure's minimum, median and maximum over all that sent it."""
    return {key: value for peers in _peers for key, value in peers.spread(name).items()}


def is_first() -> bool:
    """Is this the process that writes and speaks?"""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, or several, in the first process."""
    if is_first():
        print("\n".join(map(printable, text.split("\n"))), flush=True)


def _from_all(value: Any) -> np.ndarray:
    """Gathers each process's value, in process order along a new first axis."""
    # This goes through devices; the training loop's transfer guard is not meant to stop that.
    with jax.transfer_guard("allow"):
        gathered = np.asarray(multihost_utils.process_allgather(value))
    return gathered.reshape(jax.process_count(), *np.shape(value))


def told_by_all(text: str) -> list[str]:
    """Gathers each process's text, in process order; all of them must call it."""
    encoded = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
    lengths = _from_all(np.int32(len(encoded)))
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: len(encoded)] = encoded
    rows = _from_all(padded)
    encoded_texts = (row[:n].tobytes() for row, n in zip(rows, lengths, strict=True))
    return [text.decode(errors="surrogateescape") for text in encoded_texts]


def agree(config: Config, workdir: str) -> None:
    """Checks that every process was started with the same config and workdir.

    Raises:
      ConfigError: in all of them; names a field, with both values.
    """
    if jax.process_count() == 1:
        return
    pairs = [json.loads(text) for text in told_by_all(json.dumps([to_json(config), workdir]))]
    fields = [flatten(from_json(text)) | {"--workdir": folder} for text, folder in pairs]
    for process, values in enumerate(fields):
        for name, value in values.items():
            if value != fields[0][name]:
                raise ConfigError(
                    f"{name}: {value!r} in process {process}, {fields[0][name]!r} in process 0; "
                    "start every process with the same flags"
                )


def first_does(action: Callable[[], Any]) -> None:
    """Runs `action` in the first process, while the others wait; all of them must call it.

    Raises:
      ProcessesError: in the others, with what the first one raises.
    """
    if jax.process_count() == 1:
        action()
        return
    problem: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as error:  # not handled here: first told to all, then raised
            problem = error
    failure = told_by_all(f"{type(problem).__name__}: {problem}" if problem else "")[0]
    if problem:
        raise problem
    if failure:
        raise ProcessesError(f"process 0 ended with {failure}")


def first_then_all(action: Callable[[], T]) -> T:
    """Runs `action` in the first process and then in the others, which find what it prepared.

    Raises:
      ProcessesError: if one process fails, in all that have no error of their own.
    """
    results: list[T] = []
    first_does(lambda: results.append(action()))
    if jax.process_count() == 1:
        return results[0]
    problem: Exception | None = None
    if not results:
        try:
            results.append(action())
        except Exception as error:  # not handled here: first told to all, then raised
            problem = error
    failures = told_by_all(f"{type(problem).__name__}: {problem}" if problem else "")
    if problem:
        raise problem
    for process, text in enumerate(failures):
        if text:
            raise ProcessesError(f"process {process} ended with {text}")
    return results[0]


def filled_in(arrays: list[np.ndarray], spans: list[tuple[int, int]]) -> list[np.ndarray]:
    """Fills in what other processes know; all of them must call it.

    Args:
      arrays: of the same length in all processes, correct within the spans.
      spans: rows that this process knows; others may know the same rows, with the same values.

    Returns:
      The arrays with the rows of every span known.
    """
    if jax.process_count() == 1:
        return arrays
    known = np.zeros(len(arrays[0]), bool)
    for first, last in spans:
        known[first:last] = True
    knows = _from_all(known).argmax(axis=0)
    return [_from_all(array)[knows, np.arange(len(known))] for array in arrays]


def same_data(name: str, fingerprint: Callable[[], str]) -> None:
    """Checks that every process opened the same data set, which may be a copy on its own disk.

    Args:
      name: of the data set.
      fingerprint: identifies the data as this process sees it; called if there are several.

    Raises:
      ConfigError: in all of them; names a process that sees others.
    """
    if jax.process_count() == 1:
        return
    for process, text in enumerate(seen := told_by_all(fingerprint())):
        if text != seen[0]:
            raise ConfigError(
                f"dataset: {name} is not the same in process {process} as in process 0; give every "
                "process the same files"
            )


def on_one_machine(what: str) -> None:
    """Refuses processes on several machines.

    Args:
      what: cannot be shared by them.

    Raises:
      ProcessesError: in all of them.
    """
    if jax.process_count() > 1 and len(set(told_by_all(socket.gethostname()))) > 1:
        raise ProcessesError(
            f"{what} is copied to one machine's disk, and these processes are on several; mount "
            "the bucket as a folder on all of them (gcsfuse), and name that"
        )


def same_workdir(workdir: pathlib.Path, latest_step: int) -> None:
    """Checks that every process sees the same checkpoints.

    Raises:
      ProcessesError: in all of them.
    """
    if jax.process_count() > 1 and len(set(told_by_all(str(latest_step)))) > 1:
        raise ProcessesError(
            f"--workdir: processes see different checkpoints in {workdir}; it must be one folder "
            "that all of them share"
        )
