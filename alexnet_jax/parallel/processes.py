"""Several processes as one run: start-up, agreement, and work for the first one alone."""

import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.config import Config, ConfigError, flatten, from_json, to_json
from alexnet_jax.errors import UserError

T = TypeVar("T")
SHUTDOWN_SECONDS = 20  # how long an end waits for the others'


class ProcessesError(UserError, RuntimeError):
    """Processes that cannot start together, or what went wrong in the first of them."""


def start(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins this process with the others; call it before anything asks for devices.

    Args:
      coordinator: HOST:PORT of the first process. Empty: everything is found in the environment
        that Slurm, OpenMPI, Kubernetes or a TPU pod sets.
      num_processes: how many the run has.
      process_id: of this one, from 0. Both are ignored where coordinator is empty.

    Raises:
      ConfigError: flags that do not fit together.
      ProcessesError: the environment is not one of those, or the others do not come.
    """
    found: dict[str, Any] = {}
    if coordinator:
        if not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--process_id: {process_id} must be at least 0 and less than --num_processes = "
                f"{num_processes}"
            )
        found = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
        if coordinator.rpartition(":")[0] in ("localhost", "127.0.0.1") and not process_id:
            found["coordinator_bind_address"] = coordinator  # nobody else's business
    try:
        jax.distributed.initialize(**found, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ProcessesError(
            f"--distributed: this process cannot join the others ({reason}); start each with "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def is_first() -> bool:
    """Is this the process that writes and speaks?"""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, in the first process."""
    if is_first():
        print(text, flush=True)


def _from_all(value: Any) -> np.ndarray:
    """Returns what each process has, in their order along a new first axis."""
    # Devices carry it, which is not what the guard of the training loop is for.
    with jax.transfer_guard("allow"):
        gathered = np.asarray(multihost_utils.process_allgather(value))
    return gathered.reshape(jax.process_count(), *np.shape(value))


def told_by_all(text: str) -> list[str]:
    """Returns what each process says, in their order; all of them must call it."""
    encoded = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
    lengths = _from_all(np.int32(len(encoded)))
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: len(encoded)] = encoded
    rows = _from_all(padded)
    told = (row[:n].tobytes() for row, n in zip(rows, lengths, strict=True))
    return [text.decode(errors="surrogateescape") for text in told]


def agree(config: Config, workdir: str) -> None:
    """Checks that every process was started with the same config and workdir.

    Raises:
      ConfigError: in all of them; names a field, with both values.
    """
    if jax.process_count() == 1:
        return
    told = [json.loads(text) for text in told_by_all(json.dumps([to_json(config), workdir]))]
    fields = [flatten(from_json(text)) | {"--workdir": folder} for text, folder in told]
    for process, own in enumerate(fields):
        for name, value in own.items():
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
    told = told_by_all(f"{type(problem).__name__}: {problem}" if problem else "")[0]
    if problem:
        raise problem
    if told:
        raise ProcessesError(f"process 0 ended with {told}")


def first_then_all(action: Callable[[], T]) -> T:
    """Runs `action` in the first process and then in the others, which find what it prepared.

    Raises:
      ProcessesError: in all that have no error of their own, where one has.
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
    told = told_by_all(f"{type(problem).__name__}: {problem}" if problem else "")
    if problem:
        raise problem
    for process, text in enumerate(told):
        if text:
            raise ProcessesError(f"process {process} ended with {text}")
    return results[0]


def filled_in(arrays: list[np.ndarray], spans: list[tuple[int, int]]) -> list[np.ndarray]:
    """Fills in what other processes know; all of them must call it.

    Args:
      arrays: equally long in all processes, right in the spans.
      spans: rows that this process knows; another may know them too, alike.

    Returns:
      The arrays with the rows of every span known.
    """
    if jax.process_count() == 1:
        return arrays
    known = np.zeros(len(arrays[0]), bool)
    for first, last in spans:
        known[first:last] = True
    knows = _from_all(known).argmax(axis=0)
    return [_from_all(own)[knows, np.arange(len(known))] for own in arrays]


def same_data(name: str, fingerprint: Callable[[], str]) -> None:
    """Checks that every process opened the same data set, which may be a copy on its own disk.

    Args:
      name: of the data set.
      fingerprint: says what it is, as this process sees it; asked for where there are several.

    Raises:
      ConfigError: in all of them; names a process that sees others.
    """
    if jax.process_count() == 1:
        return
    for process, told in enumerate(seen := told_by_all(fingerprint())):
        if told != seen[0]:
            raise ConfigError(
                f"dataset: {name} is not the same in process {process} as in process 0; give every "
                "process the same files"
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
