"""Opening of a run in a workdir: a new one, or one resumed from its newest whole checkpoint."""

import contextlib
import json
import pathlib
import sys

import jax
from jax.sharding import Mesh

from alexnet_jax.config import Config, num_train_steps
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.errors import printable
from alexnet_jax.host import mirror as mirrors
from alexnet_jax.host.stopwatch import Stopwatch
from alexnet_jax.parallel import processes
from alexnet_jax.training import checkpoint, crash, report, run_files
from alexnet_jax.training import start as starts
from alexnet_jax.training.history import History
from alexnet_jax.training.rows import METRICS, read_rows
from alexnet_jax.training.run import Run


def opened(
    config: Config,
    folder: pathlib.Path,
    mesh: Mesh,
    overwrite: bool,
    mirror: mirrors.Mirror | None,
    stopwatch: Stopwatch,
    stack: contextlib.ExitStack,
) -> tuple[Run, int]:
    """Opens the run that is in a workdir, or a new one.

    Args:
      config: that is asked for.
      folder: the workdir, which this run holds.
      mesh: that it is computed on.
      overwrite: is what is there removed?
      mirror: of the bucket that the workdir is a copy of.
      stopwatch: of this start.
      stack: closes what is opened here.

    Returns:
      The run, and its finished updates.
    """
    dataset, weights = None, None
    if overwrite:  # before anything is removed
        weights = starts.read(config, folder)
        config = weights.config if weights else config
        dataset = _open_dataset(config)
    processes.first_does(lambda: _clear_or_keep(folder, overwrite))
    if mirror and overwrite:
        mirror.push()
    keep = config.keep_checkpoints
    checkpoints = stack.enter_context(checkpoint.Checkpoints(folder, keep, mirror=mirror))
    stack.enter_context(crash.told_of(folder))
    history = stack.enter_context(History(folder, stopwatch, processes.is_first()))
    before = None
    if checkpoints.steps() or checkpoints.record.newest is not None:
        config = starts.as_begun(config, folder)
        before = run_files.refuse_changes(folder, config)
        checkpoints.run = run_files.identity(folder, before)
    elif not overwrite:
        weights = starts.read(config, folder)
        config = weights.config if weights else config
    start = _resume_point(checkpoints)
    dataset = dataset or _open_dataset(config)
    run = Run(config, mesh, folder, checkpoints, dataset, history, weights)
    if before is not None and start:
        _say_changes(run, before, start)
    processes.first_does(lambda: _describe(run, start))
    return run, start


def _clear_or_keep(folder: pathlib.Path, overwrite: bool) -> None:
    """Removes an old run if `overwrite`; else refuses to restart one that lost its checkpoints.

    Raises:
      ConfigError: there are rows, but no checkpoint folder.
    """
    if overwrite:
        run_files.remove_run(folder)
    run_files.refuse_lost_checkpoints(folder)


def _say_changes(run: Run, before: Config, start: int) -> None:
    """Reports what changes when a run resumes.

    Raises:
      ConfigError: it is past its new end.
    """
    now = run.config
    run_files.refuse_past_end(run.workdir, start, run.last_step)
    for name in ("kernels", "matmul_precision"):
        was, will = getattr(before, name), getattr(now, name)
        if was != will:
            processes.say(f"{name} changes from {was} to {will}: the last bits change from here on")
    length = num_train_steps(before, run.num_train)
    if length != run.last_step:
        run.say_stretched(length)


def _resume_point(checkpoints: checkpoint.Checkpoints) -> int:
    """Returns the step to resume from, or 0, and moves damaged checkpoints aside.

    Raises:
      CheckpointError: there are checkpoints, and none is whole.
      ProcessesError: processes do not see the same checkpoints.
    """

    def find() -> None:  # every process reads its results below
        step, wrong = checkpoints.newest_whole()
        for at, why in sorted(wrong.items()):
            damage = f"{checkpoints.path / str(at)}: {why}"
            if at in checkpoints.steps():
                damage += f"; it is kept as {checkpoints.set_aside(at).name}"
            damage = printable(f"warning: {damage}; going on from step {step:,}")
            print(damage, file=sys.stderr, flush=True)
        checkpoints.begin_after(step)

    processes.first_does(find)
    start = (checkpoints.steps() or [0])[-1]
    processes.same_workdir(checkpoints.workdir, start)
    if start and checkpoints.newest_seal() is None:
        processes.say(f"{checkpoints.path / str(start)} has no digests (older code); none compared")
    return start


def is_evaluated(run: Run, step: int) -> bool:
    """Does metrics.jsonl have the rows that end a run, and the record its error?"""
    views_here: list[int] = []

    def find() -> None:
        if step not in run.checkpoints.record.errors:
            return
        for row in read_rows(run.workdir / METRICS):
            if row["step"] == step and row["split"] == run.eval_split:
                views_here.append(row.get("views", 1))

    processes.first_does(find)
    views = json.loads(processes.told_by_all(json.dumps(views_here))[0])
    # Older code wrote the rows first.
    return run.checkpoints.newest_seal() is None or {1, run.config.eval_views} <= set(views)


def _open_dataset(config: Config) -> Dataset:
    """Opens the data set in every process, and checks that it has the splits that the run needs.

    Raises:
      DataError: there is no such data set or split.
    """
    dataset = processes.first_then_all(
        lambda: open_dataset(config, silent=not processes.is_first())
    )
    processes.same_data(config.dataset, dataset.fingerprint)
    for split in (config.train_split, config.eval_split or dataset.eval_split()):
        dataset.size(split)
    return dataset


def _describe(run: Run, start: int) -> None:
    devices = run.mesh.devices.ravel()
    kind = f"{devices.size} x {devices[0].device_kind}"
    run.history.begin(start, jax.process_count(), kind)
    run_files.write_config(run.workdir, run.config)
    if run.start and run.fitted:
        starts.write(run.start, run.fitted, run.workdir)
    report.write_environment(run.workdir)
