"""Training: a config and a workdir to a summary."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from alexnet_jax.config import Config
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.errors import Interrupted, in_notebook, interruptible
from alexnet_jax.feed import choice, resident
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.feed.protocol import Cut, Feeding
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
from alexnet_jax.training import opening, report, resume, run_files
from alexnet_jax.training import start as starts
from alexnet_jax.training.checks import Checks
from alexnet_jax.training.loop import Loop, NonFiniteError
from alexnet_jax.training.preview import preview
from alexnet_jax.training.profiler import Profiler
from alexnet_jax.training.run import Run
from alexnet_jax.training.writers import MetricsWriter, NoWriters, OtherWriters, Writers

__all__ = ["Interrupted", "NonFiniteError", "compile_train_step", "preview", "train"]


def compile_train_step(config: Config) -> jax.stages.Compiled:
    """Compiles (state, batch) -> (state, metrics) for the mesh that the config asks for.

    Opens no data set if `num_classes` is set; schedules over epochs then assume ImageNet's
    1,281,167 images. The batch is the host's, for one update, unless `feed` = resident.

    Raises:
      ConfigError: an invalid field.
      DataError: it needs the data set, and cannot open it.
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
    """Returns the feeding of a run: resident if the config says so, else by the host."""
    config, mesh, examples = setup.config, setup.mesh, setup.num_examples
    if config.feed != "resident":
        return HostBatches(config.mesh, config.batch_size, config.resize)
    kind = choice.kind_of_feed(config, mesh, examples, choice.resident_budget(config))
    cut = Cut.for_training(config)
    return resident.resident_split(config, mesh, examples, cut, kind == "whole")


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
      writers: also get every row, in the first process (`training.writers.MetricsWriter`).

    Returns:
      What summary.json holds: `step`, `split`, `count`, `views`, `loss`, `top1_error`,
      `top5_error`, and `time`, from `history.account`.

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
    with interruptible("training"), contextlib.ExitStack() as stack:
        others = stack.enter_context(OtherWriters(writers))
        folder = paths.local(workdir, "--workdir")
        processes.agree(config, str(folder))
        if mirrors.of(folder):
            processes.on_one_machine(f"--workdir: {os.fspath(workdir)}")
        opening.validate(config)
        run_files.refuse_nested(folder, config)
        mesh = opening.build_mesh(config)
        opened: list[mirrors.Mirror | None] = [None]
        processes.first_does(lambda: opened.append(stack.enter_context(_holding(folder))))
        mirror = opened[-1]
        run, start = resume.opened(config, folder, mesh, overwrite, mirror, stopwatch, stack)
        if start < run.last_step:
            summary = _train(run, start, profiled, others)
        else:
            if profiled:
                processes.say("profile: nothing is left to train; nothing is recorded")
            evaluated = resume.is_evaluated(run, start)
            summary = run.finish(start) if evaluated else _evaluate_last(run, start, others)
        if mirrors.of(folder):  # all wait: an early exit would end process 0
            processes.first_does(lambda: mirror and mirror.push())
        return summary


@contextlib.contextmanager
def _holding(folder: pathlib.Path) -> Iterator[mirrors.Mirror | None]:
    """Holds a workdir for this process, and the bucket that it is a copy of."""
    with files.only_process(folder), mirrors.held(folder) as mirror:
        yield mirror


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
        traced = profiled if processes.is_first() else range(0)
        text = (update.as_text() or "") if update and traced else ""
        profiler = Profiler(run.workdir, traced, text, progress.say)
        loop = Loop(run, update, writers, progress, signals, checks, watchdog, profiler)
        try:
            yield loop
        finally:
            loop.page.stop()
            profiler.close()


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
    """Finishes a run that stopped between its last save and the evaluation of that state."""
    processes.say(f"{run.workdir} is trained to step {start:,}; evaluating it")
    state = run.restore(start)
    with _loop(run, start, None, None, writers) as loop:
        _, last = loop.evaluate_if_due(state, start)
        loop.wait_for_save()
    return run.summarise(last)
