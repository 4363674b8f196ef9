"""Checkpoints of a workdir, and which one a person means; works before JAX is imported."""

import pathlib
import re

from alexnet_jax.config import ConfigError
from alexnet_jax.host import files, wholeness
from alexnet_jax.training.record import Record

FOLDER, SEAL = wholeness.CHECKPOINTS, wholeness.SEAL
STEP = re.compile(r"0|[1-9][0-9]*", re.ASCII)


def steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps that have a name in the folder, in order; they may be damaged."""
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if STEP.fullmatch(path.name))


def in_order(workdir: pathlib.Path, record: Record, which: str) -> list[int]:
    """Returns the steps that `which` can mean, the first choice first.

    Args:
      workdir: of the run.
      record: of the workdir.
      which: best (least validation error), latest, or a step.

    Raises:
      ConfigError: there is none, or not that one.
    """
    known = steps(workdir)
    if not known:
        raise ConfigError(f"{workdir} has no checkpoint yet; train first")
    if which == "latest":
        return known[::-1]
    if which == "best":
        errors = record.errors
        return sorted(known, key=lambda step: (errors.get(step, float("inf")), -step))
    if STEP.fullmatch(which) and int(which) in known:
        return [int(which)]
    raise ConfigError(
        f"checkpoint: {which} is not best, latest or one of {', '.join(map(str, known))}"
    )


def hash_ahead(workdir: pathlib.Path, which: str) -> None:
    """Hashes the first choice's files in a thread, for `seal.check`, while other threads import.

    It ignores errors: whoever reads the files reports what is wrong with them.
    """
    try:
        step = in_order(workdir, Record.read(workdir), which)[0]
        inside = sorted((workdir / FOLDER / str(step)).rglob("*"))
        files.hash_ahead(path for path in inside if path.is_file() and path.name != SEAL)
    except (ConfigError, OSError, ValueError):
        return
