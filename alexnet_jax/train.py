"""Training: a config and a workdir to a summary."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from alexnet_jax.config import Config, num_train_steps
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.errors import Interrupted, in_notebook, interruptible, printable
from alexnet_jax.feed import choice, resident
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.feed.protocol import Feeding
from alexnet_jax.host import files, paths
from alexnet_jax.host import mirror as mirrors
from alexnet_jax.host.progress import Progress, waiting
from alexnet_jax.host.signals import Remembered
from alexnet_jax.host.stopwatch import Stopwatch
from alexnet_jax.host.watchdog import Watchdog
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import processes
from alexnet_jax.steps import communication, training
from alexnet_jax.steps.digests import StateDigests
from alexnet_jax.steps.replay import Replay
from alexnet_jax.steps.setup import IMAGENET_TRAIN, Setup
from alexnet_jax.steps.state import create_state, with_weights
from alexnet_jax.training import checkpoint, crash, opening, report, run_files
from alexnet_jax.training import start as starts
from alexnet_jax.training.checks import Checks
from alexnet_jax.training.history import History
from alexnet_jax.training.loop import Loop, NonFiniteError
from alexnet_jax.training.preview import preview
from alexnet_jax.training.profiler import Profiler
from alexnet_jax.training.run import Run
from alexnet_jax.training.writers import (
    METRICS,
    MetricsWriter,
    NoWriters,
    OtherWriters,
    Writers,
    read_rows,
)

__all__ = ["Interrupted", "NonFiniteError", "compile_train_step", "preview", "train"]


def compile_train_step(config: Config) -> jax.stages.Compiled:
    """Compiles (state, batch) -> (state, metrics) for the mesh that the config asks for.

    Opens no data set where `num_classes` is set; schedules over epochs then count ImageNet's
    1,281,167 images. The batch is the host's, of one update, unless `feed` = resident.

    Raises:
      ConfigError: a field that cannot be used.
      DataError: a data set that is to be opened and cannot be.
    """
    opening.validate(config)
    begun_with = starts.read(config)
    config = begun_with.config if begun_with else config
    mesh = opening.build_mesh(config)
    classes, examples = config.num_classes, IMAGENET_TRAIN
    if not classes:
        dataset = open_dataset(config)
        classes, examples = len(dataset.class_names), dataset.size(config.train_split)
    setup = Setup.of(config, classes, examples, mesh)
    return training.compile_train_step(setup, _feeding(setup))


def _feeding(setup: Setup) -> Feeding:
    """Returns how a run of a config would be fed, where it says so itself; else by the host."""
    config, mesh, examples = setup.config, setup.mesh, setup.num_examples
    passes, steps = config.optimizer.fc_updates, config.steps_per_dispatch
    if config.feed != "resident":
        return HostBatches(config.mesh, config.batch_size, config.resize)
    kind = choice.kind_of_feed(config, mesh, examples, choice.resident_budget(config))
    return resident.resident_split(
        config, mesh, examples, config.batch_size, kind == "whole", passes, steps
    )


def train(
    config: Config,
    workdir: str | os.PathLike[str],
    overwrite: bool = False,
    profiled: range = range(0),
    writers: Sequence[MetricsWriter] = (),
) -> dict[str, Any]:
    """Trains, or continues the run in `workdir`, and evaluates the whole validation split.

    Works in a notebook, in any thread, and several times in a process. The command makes the run's
    page too (report.html); here `alexnet_jax.report.make` does.

    Args:
      config: of the run, from `configs.get`.
      workdir: the folder that the run is kept in.
      overwrite: begin anew: removes what a run left in `workdir`, and nothing else.
      profiled: updates that JAX's profiler records, in `workdir`/profile.
      writers: which get every row too (`training.writers.MetricsWriter`), in the first process.

    Returns:
      What summary.json holds: `step`, `split`, `count`, `views`, `loss`, `top1_error`,
      `top5_error`, and `time`, which is what `history.account` tells.

    Raises:
      ConfigError: a field that cannot be used, or that differs from the run in `workdir`.
      DataError: a data set, split or image that cannot be used.
      CheckpointError: there are checkpoints, and none is whole; or one cannot be saved.
      ReplicaError: devices do not hold, or do not compute, the same bits.
      NonFiniteError: the loss became NaN or Inf.
      Interrupted: SIGINT or SIGTERM; the run was saved. A SystemExit, but a
        KeyboardInterrupt in a notebook.
      ProcessesError: what ended the first of several processes.

    >>> config = small_config()
    >>> train(config, "runs/first", overwrite=True)["step"]
    2
    """
    if in_notebook():
        compilation.keep_programs()  # for the next kernel, as commands do
    stopwatch = Stopwatch("start")
    with interruptible("training"), contextlib.ExitStack() as held:
        others = held.enter_context(OtherWriters(writers))
        folder = paths.local(workdir, "--workdir")
        processes.agree(config, str(folder))
        if mirrors.of(folder):
            processes.on_one_machine(f"--workdir: {os.fspath(workdir)}")
        opening.validate(config)
        run_files.refuse_nested(folder, config)
        mesh = opening.build_mesh(config)
        opened: list[mirrors.Mirror | None] = [None]
        processes.first_does(lambda: opened.append(held.enter_context(_holding(folder))))
        mirror = opened[-1]
        run, start = _open(config, folder, mesh, overwrite, mirror, stopwatch, held)
        if start < run.last_step:
            summary = _train(run, start, profiled, others)
        else:
            if profiled:
                processes.say("profile: nothing is left to train; nothing is recorded")
            evaluated = _is_evaluated(run, start)
            summary = run.finish(start) if evaluated else _evaluate_last(run, start, others)
        if mirrors.of(folder):  # the others wait: who leaves early ends the first
            processes.first_does(lambda: mirror and mirror.push())
        return summary


def _open(
    config: Config,
    folder: pathlib.Path,
    mesh: Mesh,
    overwrite: bool,
    mirror: mirrors.Mirror | None,
    stopwatch: Stopwatch,
    held: contextlib.ExitStack,
) -> tuple[Run, int]:
    """Opens the run that is in a workdir, or a new one.

    Args:
      config: that is asked for.
      folder: the workdir, which this run holds.
      mesh: that it is computed on.
      overwrite: is what is there removed?
      mirror: of the bucket that the workdir is a copy of.
      stopwatch: of this start.
      held: closes what is opened here.

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
    checkpoints = held.enter_context(checkpoint.Checkpoints(folder, keep, mirror=mirror))
    held.enter_context(crash.told_of(folder))
    history = held.enter_context(History(folder, stopwatch, processes.is_first()))
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


@contextlib.contextmanager
def _holding(folder: pathlib.Path) -> Iterator[mirrors.Mirror | None]:
    """Holds a workdir for this process, and the bucket that it is a copy of."""
    with files.only_process(folder), mirrors.held(folder) as mirror:
        yield mirror


def _clear_or_keep(folder: pathlib.Path, overwrite: bool) -> None:
    """Removes what a run left, if that is asked for; else nothing that is lost is begun over.

    Raises:
      ConfigError: there are rows, and no folder of checkpoints.
    """
    if overwrite:
        run_files.remove_run(folder)
    run_files.refuse_lost_checkpoints(folder)


def _say_changes(run: Run, before: Config, start: int) -> None:
    """Says what else than before a run goes on with.

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
    """Returns the step to go on from, 0 for none, and moves aside what is damaged.

    Raises:
      CheckpointError: there are checkpoints, and none is whole.
      ProcessesError: processes do not see the same checkpoints.
    """

    def find() -> None:
        step, wrong = checkpoints.newest_whole()
        for at, why in sorted(wrong.items()):
            told = f"{checkpoints.path / str(at)}: {why}"
            if at in checkpoints.steps():
                told += f"; it is kept as {checkpoints.set_aside(at).name}"
            told = printable(f"warning: {told}; going on from step {step:,}")
            print(told, file=sys.stderr, flush=True)
        checkpoints.begin_after(step)

    processes.first_does(find)
    start = (checkpoints.steps() or [0])[-1]
    processes.same_workdir(checkpoints.workdir, start)
    if start and checkpoints.newest_seal() is None:
        processes.say(f"{checkpoints.path / str(start)} has no digests (older code); none compared")
    return start


def _is_evaluated(run: Run, step: int) -> bool:
    """Does metrics.jsonl have the rows that end a run, and the record its error?"""
    own: list[int] = []

    def find() -> None:
        if step not in run.checkpoints.record.errors:
            return
        for row in read_rows(run.workdir / METRICS):
            if row["step"] == step and row["split"] == run.eval_split:
                own.append(row.get("views", 1))

    processes.first_does(find)
    views = json.loads(processes.told_by_all(json.dumps(own))[0])
    # Older code wrote the rows first.
    return run.checkpoints.newest_seal() is None or {1, run.config.eval_views} <= set(views)


def _open_dataset(config: Config) -> Dataset:
    """Opens the data set in every process, and the splits that the run needs.

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


@contextlib.contextmanager
def _loop(
    run: Run,
    start: int,
    update: jax.stages.Compiled | None,
    checks: Checks | None,
    others: OtherWriters,
    profiled: range = range(0),
) -> Iterator[Loop]:
    """Opens what the hot loop writes to, and lets it decide when signals end it."""
    sealed = run.checkpoints.newest_seal() if start else None
    opened: list[Writers] = []
    processes.first_does(
        lambda: opened.append(Writers(run.workdir, start, sealed.rows if sealed else None, others))
    )
    silent = not processes.is_first()
    trace = run.workdir / f"stuck.{jax.process_index()}.txt"
    with (
        opened[0] if opened else NoWriters() as writers,
        Progress("train", start, run.last_step, "step", silent) as progress,
        Remembered() as signals,
        Watchdog(run.config.stuck_after_seconds, trace, processes.tell_stuck) as watchdog,
        jax.transfer_guard("disallow"),
    ):
        own = profiled if processes.is_first() else range(0)
        text = (update.as_text() or "") if update and own else ""
        profiler = Profiler(run.workdir, own, text, progress.say)
        loop = Loop(run, update, writers, progress, signals, checks, watchdog, profiler)
        try:
            yield loop
        finally:
            loop.page.stop()
            profiler.close()


def _describe(run: Run, start: int) -> None:
    devices = run.mesh.devices.ravel()
    kind = f"{devices.size} x {devices[0].device_kind}"
    run.history.begin(start, jax.process_count(), kind)
    run_files.write_config(run.workdir, run.config)
    if run.start and run.fitted:
        starts.write(run.start, run.fitted, run.workdir)
    report.write_environment(run.workdir)


def _train(run: Run, start: int, profiled: range, writers: OtherWriters) -> dict[str, Any]:
    """Runs updates start + 1 .. the last, and evaluates."""
    config = run.config
    processes.say(
        report.header(
            run.setup, run.sizes, start + 1, run.last_step, run.notes, run.describe_start()
        )
    )
    feed = run.train_feed
    _ = run.eval_feed  # what cannot be used is known before the first step
    processes.say(f"feed      {run.describe_feed()}")
    replay = Replay(run.setup, feed.feeding) if config.replay_every else None
    digests = run.checkpoints.prepare(run.stored_form.abstract)
    if not digests.fits(run.abstract):  # the copies that are compared are padded
        digests = StateDigests(run.abstract)
    checks = Checks(config, digests, replay)
    others = not processes.is_first()
    with run.history.stopwatch.on("compile"), waiting("compiling the step", silent=others):
        update = training.compile_train_step(run.setup, feed.feeding)
    sent = communication.compiled(update)
    processes.first_does(lambda: run_files.write_exchanges(run.workdir, dict(run.mesh.shape), sent))
    rate = report.expected_rate(update, run.abstract, feed.sample(), config.batch_size)
    processes.say(f"expected  about {rate:,.0f} images/s")
    if start:
        state = run.restore(start)
        processes.say(f"continuing {run.workdir} after step {start:,}")
    else:
        state = create_state(run.setup)
        if run.fitted:
            state = with_weights(state, run.fitted.params)
            run.start = run.fitted = None
    with _loop(run, start, update, checks, writers, profiled) as loop:
        try:
            last = loop.run(state, start)
        finally:
            for message in feed.bad_images:
                print(f"skipped: {message}", flush=True)  # whichever process read it
    return run.summarise(last)


def _evaluate_last(run: Run, start: int, writers: OtherWriters) -> dict[str, Any]:
    """Ends a run that was stopped between its last save and the evaluation of it."""
    processes.say(f"{run.workdir} is trained to step {start:,}; evaluating it")
    state = run.restore(start)
    with _loop(run, start, None, None, writers) as loop:
        _, last = loop.evaluate_if_due(state, start)
        loop.wait_for_save()
    return run.summarise(last)
