"""The hot loop around the compiled step: update, write, evaluate, save."""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from typing import Any

import jax

from alexnet_jax.errors import Interrupted, UserError, in_notebook
from alexnet_jax.feed.protocol import Dispatches
from alexnet_jax.host.progress import Progress
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import metrics, optimizer
from alexnet_jax.steps.nonfinite import first_nonfinite_layer
from alexnet_jax.steps.state import TrainState
from alexnet_jax.training.run import Run
from alexnet_jax.training.writers import NoWriters, Writers


class NonFiniteError(UserError, RuntimeError):
    """The loss or the gradient became NaN or Inf; the message names the step and the layer."""


@dataclasses.dataclass
class Clock:
    """Times the loop since the last row.

    Evaluation and saving begin a new span: steps between that row and them are in no rate.
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
    """The hot loop. Figures of a dispatch are fetched after the next one is on its way."""

    def __init__(
        self,
        run: Run,
        update: jax.stages.Compiled,
        writers: Writers | NoWriters,
        progress: Progress,
        signals: "Signals",
    ) -> None:
        self._run, self.update, self.writers = run, update, writers
        self.progress, self.signals = progress, signals
        self.clock = Clock()
        self._pending: tuple[range, Any, Any] | None = None
        self._stop = False

    def run(self, state: TrainState, start: int) -> dict[str, Any]:
        """Updates, writes, evaluates and saves, in that order: a checkpoint commits only after
        every row up to its step is on the disk.

        Returns:
          The last evaluation.

        Raises:
          NonFiniteError: the loss or the gradient became NaN or Inf.
          Interrupted: a signal came; the run was saved.
        """
        result: dict[str, Any] = {}
        run, config = self._run, self._run.config
        # The first step is dispatched alone, for it also pays for warming up.
        dispatches = Dispatches(
            start + 1, run.last_step, config.steps_per_dispatch, True, self._is_due
        )
        feed = run.train_feed.training(dispatches, lambda: self.signals.received > 0)
        with contextlib.closing(feed) as fed_steps:  # with its threads, however the run ends
            self.clock.restart()
            for updates in dispatches:
                waiting = time.perf_counter()
                fed = next(fed_steps)
                self.clock.waited += time.perf_counter() - waiting
                state, figures = self.update(state, fed)
                self._write_pending(state)
                self._pending = (updates, figures, fed)
                at = updates[-1]
                if at == start + 1:
                    self._write_pending(state)
                    self.clock.restart()

                last = at == run.last_step
                evaluates = last or self._is_epoch_end(at)
                # Of the dispatch before: every process sees it after the same one.
                stops = self._stop
                if stops or self._is_due(at):
                    self._write_pending(state)
                    evaluation = None
                    if evaluates:
                        evaluation, result = self._evaluate(state, at)
                        state = self._follow_plateau(state, evaluation)
                    self.writers.sync()
                    run.checkpoints.save(at, state, evaluation)
                    self.clock.restart()
                if stops and not last:
                    run.checkpoints.wait()
                    told = f"stopped and saved after step {at:,}; run again to go on"
                    if not in_notebook():  # which shows the exception's line
                        self.progress.say(told)
                    raise Interrupted(told, 128 + (self.signals.received or signal.SIGTERM))
        run.checkpoints.wait()
        return result

    def _is_due(self, at: int) -> bool:
        """Is there something to do after update `at` but for writing a row?"""
        saves = at % self._run.config.checkpoint_every_steps == 0
        return saves or at == self._run.last_step or self._is_epoch_end(at)

    def _is_epoch_end(self, at: int) -> bool:
        """Does update `at` consume the last example of an epoch that is evaluated?"""
        run, size = self._run, self._run.config.batch_size
        every = run.config.eval_every_epochs * run.num_train
        return at * size // every > (at - 1) * size // every

    def _evaluate(self, state: TrainState, at: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Evaluates with one view, at the end with the config's too.

        Returns:
          The row with one view, which compares with every other evaluation's, and the last row.

        Raises:
          NonFiniteError: the loss is NaN or Inf; nothing of this state is kept.
        """
        rows = []
        ending = at == self._run.last_step
        for views in sorted({1, self._run.config.eval_views} if ending else {1}):
            row = self._run.evaluate(state, views, self.progress)
            if not math.isfinite(row["loss"]):
                raise self._stopped(at, "the evaluation's loss is NaN or Inf")
            rows.append(row)
            self.writers.write(row)
        self.writers.draw()
        return rows[0], rows[-1]

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
        (updates, figures, fed), self._pending = self._pending, None
        figures = jax.device_get(figures)
        self._stop = bool(figures["stop"].any())
        self.clock.steps += len(updates)
        self.progress.advance(len(updates))
        each = [figures]
        if self._run.config.steps_per_dispatch > 1:
            each = [jax.tree.map(lambda f, i=i: f[i], figures) for i in range(len(updates))]
        rates = (
            self.clock.rates(self._run.config.batch_size)
            if any(map(self._has_row, updates))
            else {}
        )
        for at, found in zip(updates, each, strict=True):
            if not found["finite"]:
                raise self._nonfinite(at, state, fed)
            if self._has_row(at):
                self._write_row(at, found, rates)

    def _has_row(self, at: int) -> bool:
        return at % self._run.config.log_every_steps == 0 or at == self._run.last_step

    def _write_row(self, at: int, figures: dict[str, Any], rates: dict[str, float]) -> None:
        config = self._run.config
        means = metrics.compute(figures["sums"])
        if not means["count"]:
            self.progress.say(f"step {at:,}: every image of the batch is unreadable; no figures")
            return
        row = {
            "step": at,
            "split": "train",
            "epoch": at * config.batch_size / self._run.num_train,
            "loss": means["loss"],
            "top1_error": means["top1_error"],
            "top5_error": means["top5_error"],
            "learning_rate": float(figures["learning_rate"]),
            "gradient_norm": float(figures["gradient_norm"]),
        } | rates
        if means["count"] < config.batch_size:
            row["bad_images"] = config.batch_size - means["count"]
        self.writers.write(row)
        speed = f", {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
        self.progress.show(
            f"step {at:,}/{self._run.last_step:,}: loss {row['loss']:.4f}, "
            f"top-1 error {100 * row['top1_error']:.1f} %{speed}"
        )

    def _nonfinite(self, at: int, state: TrainState, fed: Any) -> NonFiniteError:
        run = self._run
        with jax.transfer_guard("allow"):
            layer = first_nonfinite_layer(run.setup, run.train_feed.feeding, state.weights, fed, at)
        return self._stopped(at, f"the loss or gradient is NaN or Inf, first in {layer}")

    def _stopped(self, at: int, why: str) -> NonFiniteError:
        self.writers.sync()
        kept = self._run.checkpoints.latest_step()
        return NonFiniteError(
            f"step {at}: {why}; "
            + (f"the checkpoint of step {kept} is kept" if kept else "no checkpoint was due yet")
            + "; try a smaller optimizer.learning_rate, in another workdir"
        )


class Signals(contextlib.AbstractContextManager):
    """Remembers SIGINT and SIGTERM; a second one ends at once.

    The loop sends what was received along with the next batch, so that all processes of a run stop
    after the same step.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, _: Any) -> None:
        self.received = number
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
