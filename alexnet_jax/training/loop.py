"""The hot loop around the compiled step: update, write, evaluate, save."""

import contextlib
import dataclasses
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from alexnet_jax.config import flatten
from alexnet_jax.errors import Interrupted, UserError, in_notebook
from alexnet_jax.feed.protocol import Dispatches
from alexnet_jax.host.progress import Progress
from alexnet_jax.host.signals import Remembered
from alexnet_jax.host.watchdog import Watchdog
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel import processes
from alexnet_jax.steps import evaluation, optimizer
from alexnet_jax.steps.digests import ReplicaError, at_step
from alexnet_jax.steps.nonfinite import first_nonfinite_layer
from alexnet_jax.steps.state import TrainState
from alexnet_jax.training.checks import Checks
from alexnet_jax.training.means import Means
from alexnet_jax.training.page_maker import PageMaker
from alexnet_jax.training.profiler import Profiler
from alexnet_jax.training.run import Run
from alexnet_jax.training.writers import NoWriters, Writers

MEANS = "since the last row"  # key in a seal's `rows`, beside metrics.jsonl's digest


class NonFiniteError(UserError, RuntimeError):
    """The loss or the gradient became NaN or Inf; the message names the step and the layer."""


@dataclasses.dataclass
class Clock:
    """Times the loop since the last row.

    Evaluating and saving restart the span: steps between the last row and them count in no rate.
    """

    started: float = 0.0
    steps: int = 0
    waited: float = 0.0

    def restart(self) -> None:
        """Begins a new span."""
        self.started, self.steps, self.waited = time.perf_counter(), 0, 0.0

    def rates(self, batch_size: int) -> dict[str, float]:
        """Returns the span's figures and begins the next; empty where it holds no whole step."""
        passed = time.perf_counter() - self.started
        steps, waited = self.steps, self.waited
        self.restart()
        if not steps:
            return {}
        return {
            "images_per_second": steps * batch_size / passed,
            "step_seconds": passed / steps,
            "data_wait_fraction": waited / passed,
        }


class Loop:
    """The hot loop. It fetches a dispatch's figures only once the next dispatch is under way."""

    def __init__(
        self,
        run: Run,
        update: jax.stages.Compiled | None,
        writers: Writers | NoWriters,
        progress: Progress,
        signals: Remembered,
        checks: Checks | None,
        watchdog: Watchdog,
        profiler: Profiler,
    ) -> None:
        """Prepares a loop; one that only evaluates has no update, and no checks of it."""
        self._run, self.update, self.writers = run, update, writers
        self.progress, self.signals, self.checks = progress, signals, checks
        self.watchdog, self.profiler = watchdog, profiler
        self.history, self._time = run.history, run.history.stopwatch
        self.means = Means()
        self.page = PageMaker(run.workdir, run.config.report_every_minutes)
        self.clock = Clock()
        self._pending: tuple[range, Any, Any, list[Callable[[], None]]] | None = None
        self._stop = False

    def run(self, state: TrainState, start: int) -> dict[str, Any]:
        """Updates, writes, saves and evaluates, in that order.

        A save begins once every row up to its step is on the disk. It precedes the evaluation, so
        that a signal or a kill during the evaluation costs only that.

        Returns:
          The last evaluation.

        Raises:
          NonFiniteError: the loss or the gradient became NaN or Inf.
          Interrupted: a signal came; the run was saved.
        """
        run, config = self._run, self._run.config
        result: dict[str, Any] = {}
        assert self.update is not None and self.checks is not None
        if start:
            sealed = run.checkpoints.newest_seal()
            self.means = Means(sealed.rows.get(MEANS) if sealed else None)
            state, result = self.evaluate_if_due(state, start)
        # The first step is dispatched alone, for it also pays for warming up.
        dispatches = Dispatches(
            start + 1, run.last_step, config.steps_per_dispatch, True, self._is_due
        )
        feed = run.train_feed.training(dispatches, lambda: self.signals.received > 0)
        # Its threads end with it, however the run ends.
        with self._time.on("step"), self._explaining(), contextlib.closing(feed) as fed_steps:
            self.clock.restart()
            for updates in dispatches:
                waiting = time.perf_counter()
                with self._time.on("input"):
                    fed = next(fed_steps)
                self.clock.waited += time.perf_counter() - waiting
                replayed = self.checks.replay(state, fed, updates)
                with self.profiler.around(updates, state):
                    state, figures = self.update(state, fed)
                self._write_pending(state)
                run.checkpoints.raise_failure()
                at = updates[-1]
                compared = replayed + self.checks.compare_replicas(state, updates)
                self._pending = (updates, figures, fed, compared)
                if at == start + 1:
                    self._write_pending(state)
                    self.clock.restart()

                # `_stop` is from the last fetched figures, which are the same in all processes.
                stops = self._stop
                if stops or self._is_due(at):
                    self.profiler.stop(state)
                    self._write_pending(state)
                    self._save(state, at)
                    if stops:
                        self._interrupt(at)
                    if at == run.last_step or self._is_epoch_end(at):
                        state, result = self._evaluate(state, at, {})
                    self.clock.restart()
            self.wait_for_save()
        return result

    def _save(self, state: TrainState, at: int) -> None:
        """Begins a checkpoint; its seal keeps the sums so far for the next row (`Means`)."""
        checkpoints = self._run.checkpoints
        with self.watchdog.while_growing(checkpoints.bytes_written), self._time.on("save"):
            known = self.writers.sync() | {MEANS: self.means.state()}
            checkpoints.save(at, self._run.stored_form.of(state), known)
        self.history.saved(at)
        self.page.make_if_due()

    def wait_for_save(self) -> None:
        """Returns when every process has its part of the last checkpoint on the disk.

        Each process waits for its own part: if one has failed, it ends, and the others with it.
        """
        checkpoints = self._run.checkpoints
        with self.watchdog.while_growing(checkpoints.bytes_written), self._time.on("save"):
            checkpoints.wait()
            with self._time.on("wait"):
                processes.first_does(lambda: None)

    def _interrupt(self, at: int) -> NoReturn:
        """Ends the run once its state is on the disk.

        Raises:
          Interrupted: always.
        """
        self.wait_for_save()
        message = f"stopped and saved after step {at:,}; run again to go on"
        if not in_notebook():  # which shows the exception's line
            self.progress.say(message)
        raise Interrupted(message, 128 + (self.signals.received or signal.SIGTERM))

    def _is_due(self, at: int) -> bool:
        """Is a save or an evaluation due after update `at`?"""
        saves = at % self._run.config.checkpoint_every_steps == 0
        return saves or at == self._run.last_step or self._is_epoch_end(at)

    def _is_epoch_end(self, at: int) -> bool:
        """Does update `at` consume the last example of an epoch that is evaluated?"""
        run, size = self._run, self._run.config.batch_size
        every = run.config.eval_every_epochs * run.num_train
        return at * size // every > (at - 1) * size // every

    def evaluate_if_due(self, state: TrainState, at: int) -> tuple[TrainState, dict[str, Any]]:
        """Evaluates a restored checkpoint if a kill left some of its evaluation rows unwritten.

        Returns:
          The state to go on with, and the last row.
        """
        run, sealed = self._run, self._run.checkpoints.newest_seal()
        if sealed is None or not (at == run.last_step or self._is_epoch_end(at)):
            return state, {}  # older code evaluated before it saved
        written = [
            row for row in self.writers.rows if row["step"] == at and row["split"] == run.eval_split
        ]
        rows = json.loads(processes.told_by_all(json.dumps(written))[0])
        return self._evaluate(state, at, {row["views"]: row for row in rows})

    def _evaluate(
        self, state: TrainState, at: int, known: dict[int, dict[str, Any]]
    ) -> tuple[TrainState, dict[str, Any]]:
        """Evaluates with one view; after the last update also with the config's views.

        Args:
          state: the saved one.
          at: its step.
          known: the rows that are written already, by their views.

        Returns:
          The state to go on with, and the last row. The plateau schedule follows the one-view
          errors, because these are comparable between all evaluations.

        Raises:
          NonFiniteError: the loss is NaN or Inf; the checkpoint of this state is moved aside.
          Interrupted: a signal came; the state was saved before.
        """
        run = self._run
        views = sorted({1, run.config.eval_views} if at == run.last_step else {1})
        with self._time.on("evaluate"):
            rows = [known.get(count) or self._evaluate_views(state, at, count) for count in views]
            if len(known) < len(views):
                with self.watchdog.paused():
                    self.writers.draw()
                self.page.make_if_due()
        run.checkpoints.evaluated(at, rows[0]["top1_error"])
        if at == run.last_step and isinstance(self.writers, Writers):
            from alexnet_jax.training import last_pictures  # matplotlib takes a second to import

            self.writers.conclude(flatten(run.config), rows, last_pictures.draw(run, state))
        return self._follow_plateau(state, rows[0]), rows[-1]

    def _evaluate_views(self, state: TrainState, at: int, views: int) -> dict[str, Any]:
        size, batches = evaluation.eval_batch_size(self._run.config), itertools.count(1)

        def stop() -> bool:
            self.watchdog.beat(f"evaluation of step {at:,}", updates=0)
            self.progress.about(f"evaluate {next(batches) * size:,}")
            return self.signals.received > 0

        try:
            with self.watchdog.paused(), self._time.on("compile"):
                self.progress.about("compile")
                self._run.compile_evaluation(views)
            row = self._run.evaluate(state, views, self.progress, stop)
        except evaluation.EvaluationStopped:
            self._interrupt(at)
        finally:
            self.progress.about("train")
        if not math.isfinite(row["loss"]):
            self._run.checkpoints.wait()
            processes.first_does(lambda: self._run.checkpoints.set_aside(at))
            raise self._ended(at, "the evaluation's loss is NaN or Inf")
        if views == 1:
            row |= self._run.mean_sizes(state)
            if processes.is_first():
                self.writers.histograms(at, self._run.samples(state))
        self.writers.write(row)
        self.history.evaluated(at)
        return row

    def _follow_plateau(self, state: TrainState, evaluation: dict[str, Any]) -> TrainState:
        schedule = self._run.config.optimizer.schedule
        if schedule.kind != "plateau":
            return state
        before = optimizer.Plateau(*jax.device_get(state.plateau))
        after = optimizer.plateau_update(before, evaluation["top1_error"], schedule)
        if after.drops > before.drops:
            self.progress.say(
                f"validation error has not improved for {schedule.patience} evaluations: "
                f"learning rate divided by ten ({after.drops} of {schedule.most_drops})"
            )
        plateau = meshes.put_everywhere(after, self._run.mesh)
        return dataclasses.replace(state, plateau=plateau)

    def _write_pending(self, state: TrainState) -> None:
        if self._pending is None:
            return
        (updates, figures, fed, compared), self._pending = self._pending, None
        figures = jax.device_get(figures)
        with at_step(updates[-1]):
            for check in compared:
                check()
        self._stop = bool(figures["stop"].any())
        self.clock.steps += len(updates)
        self.watchdog.beat(f"step {updates[-1]:,}", len(updates))
        self.progress.advance(len(updates))
        self.history.reached(updates[-1])
        each = [figures]
        if self._run.config.steps_per_dispatch > 1:
            each = [jax.tree.map(lambda f, i=i: f[i], figures) for i in range(len(updates))]
        rates = (
            self.clock.rates(self._run.config.batch_size)
            if any(map(self._has_row, updates))
            else {}
        )
        if rates:
            processes.tell_figures(step_seconds=rates["step_seconds"])
            rates |= processes.spread("step_seconds")
            rates |= self._run.utilisation(rates["images_per_second"])
        for at, one in zip(updates, each, strict=True):
            if not one["finite"]:
                raise self._nonfinite(at, state, fed)
            self.means.add(one)
            if self._has_row(at):
                self._write_row(at, float(one["learning_rate"]), rates)

    def _has_row(self, at: int) -> bool:
        return at % self._run.config.log_every_steps == 0 or at == self._run.last_step

    def _write_row(self, at: int, learning_rate: float, rates: dict[str, float]) -> None:
        config, means = self._run.config, self.means.take()
        if not means["images"]:
            self.progress.say(f"step {at:,}: every image since the last row is unreadable")
            return
        row = {
            "step": at,
            "split": "train",
            "time_of_day": time.time(),
            "epoch": at * config.batch_size / self._run.num_train,
            "loss": means["loss"],
            "top1_error": means["top1_error"],
            "top5_error": means["top5_error"],
            "learning_rate": learning_rate,
            "gradient_norm": means["gradient_norm"],
        } | rates
        if bad := means["updates"] * config.batch_size - means["images"]:
            row["bad_images"] = bad
        self.writers.write(row)
        speed = f", {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
        self.progress.show(
            f"step {at:,}/{self._run.last_step:,}",
            f"loss {row['loss']:.4f}, top-1 error {100 * row['top1_error']:.1f} %{speed}",
        )

    def _nonfinite(self, at: int, state: TrainState, fed: Any) -> NonFiniteError:
        run = self._run
        with jax.transfer_guard("allow"):
            layer = first_nonfinite_layer(run.setup, run.train_feed.feeding, state.weights, fed, at)
        return self._ended(at, f"the loss or gradient is NaN or Inf, first in {layer}")

    def _ended(self, at: int, why: str) -> NonFiniteError:
        self.writers.sync()
        return NonFiniteError(
            f"step {at}: {why}; {self._kept()}; try a smaller optimizer.learning_rate, in another "
            "workdir"
        )

    def _kept(self) -> str:
        self._run.checkpoints.wait()
        steps = self._run.checkpoints.steps()
        return (
            f"the checkpoint of step {steps[-1]} is kept" if steps else "no checkpoint was due yet"
        )

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Adds to a ReplicaError what it means and which checkpoint is kept.

        Raises:
          ReplicaError: replaces the original one.
        """
        try:
            yield
        except ReplicaError as error:
            self.writers.sync()
            raise ReplicaError(
                f"{error}: a device, its memory or a link is faulty; nothing after the "
                f"last good save is kept: {self._kept()}; run again, and leave that device out if "
                "it comes again"
            ) from error
