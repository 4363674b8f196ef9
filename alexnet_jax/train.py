"""Training: the loop around the compiled step, from a config and a workdir to a summary."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from alexnet_jax import checkpoint, evaluate, metrics, model, optimizer, report, step
from alexnet_jax import mesh as meshes
from alexnet_jax.config import (
    Config,
    ConfigError,
    num_train_steps,
    validate,
)
from alexnet_jax.data.loader import ImageReader, Loader, training_positions
from alexnet_jax.data.sources import Dataset, open_dataset
from alexnet_jax.state import TrainState, abstract_state, create_state
from alexnet_jax.writers import Progress, Writers

IMAGENET_TRAIN = 1_281_167  # what a schedule assumes where no data set is opened


class NonFiniteError(RuntimeError):
    """The loss or the gradient became NaN or Inf; the message names the step and the layer."""


class Interrupted(SystemExit):
    """A signal ended the run after a step; it was saved, and the same command goes on."""


def compile_train_step(config: Config) -> jax.stages.Compiled:
    """Compiles (state, batch) -> (state, metrics) for the mesh that the config asks for.

    Opens no data set where `num_classes` is set; schedules over epochs then count ImageNet's.

    Raises:
      ConfigError: a field that cannot be used.
    """
    validate(config)
    mesh = _build_mesh(config)
    network = model.build(config.model, evaluate.num_classes(config), config.precision)
    return step.compile_step(config, network, mesh, IMAGENET_TRAIN)


def _build_mesh(config: Config) -> Mesh:
    mesh = meshes.build(config.mesh)
    meshes.check_batch("batch_size", config.batch_size, config.optimizer.accumulate_steps, mesh)
    meshes.check_batch("eval_batch_size", evaluate.eval_batch_size(config), 1, mesh)
    return mesh


def train(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains, or continues the run in `workdir`, and evaluates the whole validation split.

    Returns:
      What summary.json holds: `step`, `split`, `count`, `views`, `loss`, `top1_error`,
      `top5_error`.

    Raises:
      ConfigError: a field that cannot be used, or that differs from the run in `workdir`.
      DataError: a data set, split or image that cannot be used.
      NonFiniteError: the loss became NaN or Inf.
      Interrupted: SIGINT or SIGTERM; the run was saved.
    """
    validate(config)
    mesh = _build_mesh(config)
    folder = pathlib.Path(workdir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with checkpoint.Checkpoints(folder, config.keep_checkpoints) as checkpoints:
        start = checkpoints.latest_step() or 0
        before = checkpoint.refuse_changes(folder, config) if start else config
        run = Run(config, mesh, folder, checkpoints, open_dataset(config))
        if start and run.last_step < start:
            raise ConfigError(
                f"num_steps: {folder} is at step {start:,}, past the end at {run.last_step:,}; "
                f"ask for at least {start:,}"
            )
        checkpoint.write_config(folder, config)
        report.write_environment(folder)
        if start and num_train_steps(before, run.num_train) != run.last_step:
            run.say_stretched(num_train_steps(before, run.num_train))
        return run.finish(start) if start == run.last_step else run.train(start)


@dataclasses.dataclass
class Clock:
    """Times the loop between two rows; evaluation and saving stop it."""

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


class Run:
    """One run in one workdir: what is compiled and opened once, and the loop over it."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        workdir: pathlib.Path,
        checkpoints: checkpoint.Checkpoints,
        dataset: Dataset,
    ) -> None:
        self.config, self.mesh, self.workdir = config, mesh, workdir
        self.checkpoints = checkpoints
        self.eval_split = config.eval_split or dataset.eval_split()
        self.sizes = {s: dataset.size(s) for s in (config.train_split, self.eval_split)}
        self.num_train = self.sizes[config.train_split]
        self.last_step = num_train_steps(config, self.num_train)
        classes = len(dataset.class_names)
        if config.num_classes and config.num_classes < classes:
            raise ConfigError(
                f"num_classes: {config.num_classes} is less than the {classes} of {config.dataset}"
            )
        self.network = model.build(config.model, config.num_classes or classes, config.precision)
        self.abstract = abstract_state(config, self.network, mesh)
        self._dataset = dataset
        self._eval_steps: dict[int, jax.stages.Compiled] = {}
        self._eval_reader = self._reader(self.eval_split)
        self._last_evaluation: dict[str, Any] = {}
        names = json.dumps(dataset.class_names, indent=0, ensure_ascii=False)
        checkpoint.replace_text(workdir / "class_names.json", names + "\n")

    def _reader(self, split: str) -> ImageReader:
        c, source = self.config, self._dataset.open(split)
        return ImageReader(source, c.resize, c.exif_orientation, c.on_bad_image, c.cache_gib)

    def say_stretched(self, before: int) -> None:
        """Says what another length than before means to the schedule."""
        kind = self.config.optimizer.schedule.kind
        over_all = kind in ("dexp", "polynomial", "cosine")
        print(
            f"the run's length changes from {before:,} to {self.last_step:,} steps"
            + (f"; its {kind} schedule is stretched to the new length" if over_all else "")
        )

    def evaluate(self, state: TrainState, views: int, progress: Progress) -> dict[str, Any]:
        """Evaluates the whole split; returns the row for metrics.jsonl."""
        if views not in self._eval_steps:
            self._eval_steps[views] = evaluate.compile_step(
                self.config, self.network, self.mesh, self.abstract.params, views
            )
        result = evaluate.evaluate(
            self._eval_steps[views], state.params, self._eval_reader, self.config, self.mesh
        )
        at = int(jax.device_get(state.step))
        row = {"step": at, "split": self.eval_split, "views": views} | result
        bad = f", {result['bad_images']} unreadable" if "bad_images" in result else ""
        progress.say(
            f"step {at:,}: {self.eval_split} top-1 error {100 * row['top1_error']:.2f} %, "
            f"top-5 {100 * row['top5_error']:.2f} %, loss {row['loss']:.4f} "
            f"({row['count']:,} images{bad}, {views} view{'s' if views > 1 else ''})"
        )
        return row

    def finish(self, step_done: int) -> dict[str, Any]:
        """Evaluates a run that has nothing left to train."""
        print(f"{self.workdir} is finished at step {step_done:,}; evaluating it, not training")
        state = self.checkpoints.restore(step_done, self.abstract)
        with Progress("evaluate", 0, 0, "image") as progress:
            return self._summarise(self.evaluate(state, self.config.eval_views, progress))

    def _summarise(self, row: dict[str, Any]) -> dict[str, Any]:
        checkpoint.replace_text(self.workdir / "summary.json", json.dumps(row, indent=2) + "\n")
        return row

    def _is_epoch_end(self, at: int) -> bool:
        """Does update `at` consume the last example of an epoch that is evaluated?"""
        size, every = self.config.batch_size, self.config.eval_every_epochs * self.num_train
        return at * size // every > (at - 1) * size // every

    def train(self, start: int) -> dict[str, Any]:
        """Runs updates start + 1 .. the last, and evaluates."""
        config = self.config
        print(
            report.header(config, self.network, self.mesh, self.sizes, start + 1, self.last_step),
            flush=True,
        )
        update = step.compile_step(config, self.network, self.mesh, self.num_train)
        if start:
            state = self.checkpoints.restore(start, self.abstract)
            print(f"continuing {self.workdir} after step {start:,}", flush=True)
        else:
            state = create_state(config, self.network, self.mesh)
        reader = self._reader(config.train_split)
        positions = training_positions(
            config.seed, start + 1, self.last_step, config.batch_size, self.num_train
        )
        with (
            Loader(reader, config.resize, config.read_threads, config.read_ahead) as loader,
            Writers(self.workdir, start) as writers,
            Progress("train", start, self.last_step, "step") as progress,
            Signals() as signals,
            jax.transfer_guard("disallow"),
        ):
            loop = Loop(self, update, writers, progress, signals)
            loop.run(state, loader.batches(positions, config.batch_size), start)
            for message in reader.bad_images:
                progress.say(f"skipped: {message}")
        return self._summarise(self._last_evaluation)

    def evaluate_and_write(self, state: TrainState, writers: Writers, progress: Progress) -> dict:
        """Evaluates with one view, at the end with the config's; returns the last row."""
        at = int(jax.device_get(state.step))
        ending = at == self.last_step
        row: dict[str, Any] = {}
        for views in sorted({1, self.config.eval_views} if ending else {1}):
            row = self.evaluate(state, views, progress)
            writers.write(row)
        writers.draw()
        self._last_evaluation = row
        return row


class Loop:
    """The hot loop. Figures of a step are fetched after the next one is dispatched."""

    def __init__(
        self,
        run: Run,
        update: jax.stages.Compiled,
        writers: Writers,
        progress: Progress,
        signals: "Signals",
    ) -> None:
        self.run_, self.update, self.writers = run, update, writers
        self.progress, self.signals = progress, signals
        self.clock = Clock()
        self._pending: tuple[int, Any, Any] | None = None

    def run(self, state: TrainState, batches: Iterator[Any], start: int) -> None:
        """Updates, writes, evaluates and saves, in that order: a checkpoint commits only after
        every row up to its step is on the disk."""
        run, config = self.run_, self.run_.config
        self.clock.restart()
        for at in range(start + 1, run.last_step + 1):
            waiting = time.perf_counter()
            batch = next(batches)
            self.clock.waited += time.perf_counter() - waiting
            device_batch = meshes.put_batch(batch, run.mesh)
            state, figures = self.update(state, device_batch)
            self._write_pending(state)
            self._pending = (at, figures, device_batch)
            if at == start + 1:
                self._write_pending(state)  # the first step also pays for warming up
                self.clock.restart()

            last = at == run.last_step
            evaluates = last or run._is_epoch_end(at)
            stops = self.signals.received
            if evaluates or stops or at % config.checkpoint_every_steps == 0:
                self._write_pending(state)
                evaluation = None
                if evaluates:
                    evaluation = run.evaluate_and_write(state, self.writers, self.progress)
                    state = self._follow_plateau(state, evaluation)
                self.writers.sync()
                run.checkpoints.save(at, state, evaluation)
                self.clock.restart()
            if stops and not last:
                run.checkpoints.wait()
                self.progress.say(f"stopped and saved after step {at:,}; run again to go on")
                raise Interrupted(128 + stops)
        run.checkpoints.wait()

    def _follow_plateau(self, state: TrainState, evaluation: dict[str, Any]) -> TrainState:
        schedule = self.run_.config.optimizer.schedule
        if schedule.kind != "plateau":
            return state
        before = optimizer.Plateau(*jax.device_get(state.plateau))
        after = optimizer.plateau_update(before, evaluation["top1_error"], schedule)
        if after.drops > before.drops:
            self.progress.say(
                f"validation error has not improved for {schedule.patience} evaluations: "
                f"learning rate divided by ten ({after.drops} of {schedule.most_drops})"
            )
        sharding = meshes.replicated(self.run_.mesh)
        return dataclasses.replace(state, plateau=jax.device_put(after, sharding))

    def _write_pending(self, state: TrainState) -> None:
        if self._pending is None:
            return
        (at, figures, batch), self._pending = self._pending, None
        figures = jax.device_get(figures)
        self.clock.steps += 1
        self.progress.advance()
        config = self.run_.config
        if not figures["finite"]:
            raise self._nonfinite(at, state, batch)
        if at % config.log_every_steps and at != self.run_.last_step:
            return
        means = metrics.compute(figures["sums"])
        row = {
            "step": at,
            "split": "train",
            "epoch": at * config.batch_size / self.run_.num_train,
            "loss": means["loss"],
            "top1_error": means["top1_error"],
            "top5_error": means["top5_error"],
            "learning_rate": float(figures["learning_rate"]),
            "gradient_norm": float(figures["gradient_norm"]),
        } | self.clock.rates(config.batch_size)
        self.writers.write(row)
        speed = f", {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
        self.progress.show(
            f"step {at:,}/{self.run_.last_step:,}: loss {row['loss']:.4f}, "
            f"top-1 error {100 * row['top1_error']:.1f} %{speed}"
        )

    def _nonfinite(self, at: int, state: TrainState, batch: Any) -> NonFiniteError:
        run = self.run_
        with jax.transfer_guard("allow"):
            layer = step.first_nonfinite_layer(run.config, run.network, state.params, batch)
        self.writers.sync()
        kept = run.checkpoints.latest_step()
        return NonFiniteError(
            f"step {at}: the loss or gradient is NaN or Inf, first in {layer}; "
            + (f"the checkpoint of step {kept} is kept" if kept else "no checkpoint was due yet")
            + "; try a smaller optimizer.learning_rate, in another workdir"
        )


class Signals(contextlib.AbstractContextManager):
    """Remembers SIGINT and SIGTERM until the step is over; a second one ends at once."""

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
