"""One run in one workdir: its data, network, mesh and evaluation."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.config import Config, ConfigError, num_train_steps
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.types import DataError, Source
from alexnet_jax.feed import choice
from alexnet_jax.feed.host import HostFeed
from alexnet_jax.feed.protocol import Cut
from alexnet_jax.feed.resident import ResidentFeed
from alexnet_jax.host.progress import Progress
from alexnet_jax.ops import peaks
from alexnet_jax.ops.compilation import Numerics
from alexnet_jax.parallel import processes
from alexnet_jax.steps import evaluation, norms
from alexnet_jax.steps.flops import training_flops
from alexnet_jax.steps.packing import Packing
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import TrainState, abstract_state
from alexnet_jax.steps.stored_form import StoredForm
from alexnet_jax.training import answers_file, checkpoint, run_files
from alexnet_jax.training.history import History
from alexnet_jax.training.history import described as described_time
from alexnet_jax.training.start import Start, described, fit, lines

SAMPLED = 50_000  # values of a tensor, for its histogram


class Run:
    """What a run opens and compiles once.

    Raises:
      ConfigError: a config that does not fit its data set.
      DataError: no such split.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        workdir: pathlib.Path,
        checkpoints: checkpoint.Checkpoints,
        dataset: Dataset,
        history: History,
        start: Start | None = None,
    ) -> None:
        """Fits a config to its data set.

        Args:
          config: of the run, with the network and input of its initial weights, if any.
          mesh: to compute on.
          workdir: of the run.
          checkpoints: of the workdir.
          dataset: to read.
          history: of the run.
          start: its initial weights; None for random ones, or if the run has begun already.
        """
        self.config, self.mesh, self.workdir = config, mesh, workdir
        self.checkpoints, self.history = checkpoints, history
        self.eval_split = config.eval_split or dataset.eval_split()
        self.sizes = {s: dataset.size(s) for s in (config.train_split, self.eval_split)}
        self.num_train = self.sizes[config.train_split]
        self.last_step = num_train_steps(config, self.num_train)
        classes = len(dataset.class_names)
        if config.num_classes and config.num_classes < classes:
            raise ConfigError(
                f"num_classes: {config.num_classes} is less than the {classes} of {config.dataset}"
            )
        statistics = dataset.statistics
        if config.init.weights:  # they bring the colours of their own data
            pinned = run_files.read_own_statistics
            statistics = start.weights.statistics if start else pinned(workdir, config)
        self.setup = Setup.of(
            config, config.num_classes or classes, self.num_train, mesh, statistics
        )
        self.start = start
        self.fitted = fit(start, self.setup, dataset.class_names) if start else None
        self.abstract = abstract_state(self.setup)
        self.stored_form = StoredForm(self.setup)
        self._dataset, self.notes = dataset, dataset.notes
        self.class_names = dataset.class_names
        self._eval_steps: dict[int, jax.stages.Compiled] = {}
        self._told_bad: set[str] = set()
        self._mean_sizes = jax.jit(norms.mean_sizes)
        self._resident_budget = choice.resident_budget(config)
        begun, sealed = bool(checkpoints.steps()), checkpoints.newest_seal()
        known = sealed.run.get(run_files.FINGERPRINT) if sealed else None
        processes.first_does(
            lambda: run_files.pin_dataset(
                workdir, dataset, self.num_train, begun, known, statistics
            )
        )
        checkpoints.run = run_files.identity(workdir, config)

    def restore(self, step: int) -> TrainState:
        """Reads the state of a checkpoint.

        Raises:
          CheckpointError: it is damaged, or of another network.
        """
        form = self.stored_form
        return form.state(self.checkpoints.restore(step, form.abstract))

    @functools.cached_property
    def train_feed(self) -> HostFeed | ResidentFeed:
        """The training split, opened once."""
        c = self.config
        feed = self._feed(c.train_split, Cut.for_training(c))
        if feed.feeding.steps != c.steps_per_dispatch:
            raise ConfigError(
                f"steps_per_dispatch: {c.steps_per_dispatch} updates in one dispatch need images "
                f"that stay on the devices, and {c.train_split} is {feed.describe()}; use 1, or "
                "feed=resident"
            )
        return feed

    @functools.cached_property
    def eval_feed(self) -> HostFeed | ResidentFeed:
        """The evaluation split, opened once."""
        return self._feed(self.eval_split, Cut(evaluation.eval_batch_size(self.config)))

    def _feed(self, split: str, cut: Cut) -> HostFeed | ResidentFeed:
        """Opens a split with the feed that suits its size.

        Raises:
          DataError: no such split, or an image that cannot be read.
          ConfigError: `feed` = resident, and the split does not fit.
        """
        c, source = self.config, self._dataset.open(split)
        _refuse_unlabelled(source, f"split {split} of {c.dataset}")
        reader = ImageReader(source, c.resize, c.exif_orientation, c.on_bad_image, c.kernels)
        kind = choice.kind_of_feed(c, self.mesh, len(reader), self._resident_budget)
        if kind == "host":
            return HostFeed(c, self.mesh, reader, cut)
        with Progress(f"read {split}", 0, len(reader), "image", not processes.is_first()) as bar:
            feed = ResidentFeed(c, self.mesh, reader, cut, kind == "whole", bar.advance)
        self._resident_budget -= feed.bytes_per_device
        return feed

    def describe_feed(self) -> str:
        """Describes the source of the training images, and whose colours normalise them."""
        where = "the store" if self._dataset.prepared else "the original images"
        kind = self.config.augment.mean_image
        mean = "mean" if self.setup.views.mean.ndim == 1 else f"mean image ({kind})"
        stored = self._dataset.statistics and self.config.augment.statistics == "auto"
        whose = "the store's" if stored else "ImageNet's"
        if self.config.init.weights:
            whose = "the weights'"
        return f"from {where}, {self.train_feed.describe()}; {whose} {mean} and colour axes"

    def describe_start(self) -> list[str]:
        """Says what the run begins with, or began with, other than random weights."""
        if self.start and self.fitted:
            return lines(self.start, self.fitted)
        return described(self.workdir) if self.config.init.weights else []

    def say_stretched(self, before: int) -> None:
        """Reports a changed run length and its effect on the schedule."""
        kind = self.config.optimizer.schedule.kind
        over_all = kind in ("dexp", "polynomial", "cosine")
        processes.say(
            f"the run's length changes from {before:,} to {self.last_step:,} steps"
            + (f"; its {kind} schedule is stretched to the new length" if over_all else "")
        )

    def compile_evaluation(self, views: int) -> None:
        """Compiles an evaluation with so many views, once."""
        if views not in self._eval_steps:
            self._eval_steps[views] = evaluation.compile_eval_step(
                self.setup, self.eval_feed.feeding, self._packing.abstract, views
            )

    @functools.cached_property
    def _packing(self) -> Packing:
        return Packing(self.setup, self.abstract.weights)

    @functools.cached_property
    def _best_rate(self) -> float | None:
        """Images per second at the peak FLOP/s that the devices' makers state; None if unknown."""
        numbers = Numerics.of(self.config).multiplied_in(self.config.precision)
        best = peaks.flops(self.mesh.devices.flat[0].device_kind, numbers or self.config.precision)
        flops = training_flops(self.config, self.setup.network.num_classes)
        return best and best * self.mesh.devices.size / flops

    def utilisation(self, images_per_second: float) -> dict[str, float]:
        """Returns the share of the devices' peak rate as `mfu`; nothing if that is unknown."""
        return {"mfu": images_per_second / self._best_rate} if self._best_rate else {}

    def mean_sizes(self, state: TrainState) -> dict[str, float]:
        """Returns the mean absolute weights and updates of each tensor."""
        sizes = jax.device_get(self._mean_sizes(self.stored_form.of(state)))
        return {name: float(size) for name, size in sizes.items()}

    def samples(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns evenly spaced values of every tensor, from this process's first device."""
        by_layer = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            values = jax.device_get(leaf.addressable_shards[0].data).ravel()
            name = ".".join(str(getattr(key, "key", key)) for key in path)
            by_layer[f"weights/{name}"] = values[:: max(1, values.size // SAMPLED)]
        return by_layer

    def conv1(self, state: TrainState) -> np.ndarray | None:
        """Returns conv1's kernels, (11, 11, 3, C); None if other processes hold a part of them."""
        kernel = state.params["conv1"]["kernel"]
        if kernel.is_fully_replicated:
            return jax.device_get(kernel.addressable_data(0))
        return jax.device_get(kernel) if kernel.is_fully_addressable else None

    def evaluate(
        self,
        state: TrainState,
        views: int,
        progress: Progress,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Evaluates the whole split; returns the row for metrics.jsonl.

        With one view, it also writes the answer to each image to the workdir.

        Raises:
          EvaluationStopped: `stop` returned true in some process.
        """
        self.compile_evaluation(views)
        known = self._told_bad
        weights = self._packing(state.weights)
        results = evaluation.evaluate(self._eval_steps[views], weights, self.eval_feed, stop=stop)
        for message in self.eval_feed.bad_images:
            if message not in known:
                print(f"skipped: {message}", flush=True)  # whichever process read it
                known.add(message)
        at, result = int(jax.device_get(state.step)), results.figures
        if views == 1 and processes.is_first():
            evaluated = answers_file.Evaluated(at, self.eval_split, results.answers)
            answers_file.write(self.workdir, evaluated)
        row = {
            "step": at,
            "split": self.eval_split,
            "time_of_day": time.time(),
            "views": views,
        } | result
        bad = f", {result['bad_images']} unreadable" if "bad_images" in result else ""
        progress.say(
            f"step {at:,}: {self.eval_split} top-1 error {100 * row['top1_error']:.2f} %, "
            f"top-5 {100 * row['top5_error']:.2f} %, loss {row['loss']:.4f} "
            f"({row['count']:,} images{bad}, {views} view{'s' if views > 1 else ''})"
        )
        return row

    def finish(self, step_done: int) -> dict[str, Any]:
        """Evaluates a run that has nothing left to train."""
        processes.say(
            f"{self.workdir} is finished at step {step_done:,}; evaluating it, not training"
        )
        state = self.restore(step_done)
        stopwatch, silent = self.history.stopwatch, not processes.is_first()
        with stopwatch.on("evaluate"), Progress("evaluate", 0, 0, "image", silent) as progress:
            return self.summarise(self.evaluate(state, self.config.eval_views, progress))

    def summarise(self, row: dict[str, Any]) -> dict[str, Any]:
        """Writes summary.json, and that the run is finished; returns what the file holds."""
        figures = {n: value for n, value in row.items() if "/" not in n and n != "time_of_day"}
        summary: dict[str, Any] = {}

        def write() -> None:
            summary.update(figures)
            summary["time"] = self.history.account()
            run_files.write_summary(self.workdir, summary)
            self.history.finish()
            processes.say(described_time(summary["time"]))

        processes.first_does(write)
        return summary or figures


def _refuse_unlabelled(source: Source, name: str) -> None:
    """Refuses a split like ImageNet's test images, whose labels are all -1.

    Raises:
      DataError: says so.
    """
    try:
        label = source[0].label
    except DataError:
        return  # the reader says more of a bad image, or skips it
    if label < 0:
        raise DataError(
            f"{name} has no labels to learn or to compare with; python -m alexnet_jax.evaluate "
            "classifies its images"
        )
