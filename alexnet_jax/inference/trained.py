"""A run's network as it was saved, ready to be used."""

import dataclasses
import functools
import pathlib
from typing import Any

from jax.sharding import Mesh

from alexnet_jax import model
from alexnet_jax.config import Config, ConfigError, MeshConfig
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import Source
from alexnet_jax.data.words import name_of
from alexnet_jax.model import AlexNet
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import augment, schemes
from alexnet_jax.steps.schemes import Scheme
from alexnet_jax.steps.state import abstract_state
from alexnet_jax.training import checkpoint, run_files


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What a checkpoint holds, and what is needed to use it.

    Attributes:
      config: of the run, on the mesh that is used now.
      class_names: in label order; the network may have more classes than names.
      step: finished updates of the checkpoint.
      network: the module.
      mesh: that the parameters are on.
      params: the standard tree.
      views: how images become inputs.
    """

    config: Config
    class_names: list[str]
    step: int
    network: AlexNet
    mesh: Mesh
    params: Any
    views: augment.Views

    @property
    def scheme(self) -> Scheme:
        """How the mesh computes the network."""
        return schemes.build(self.config, self.network, self.mesh)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set that its config names, opened once."""
        return open_dataset(self.config, silent=False)

    def source(self, split: str = "") -> tuple[Source, str]:
        """Opens a split or slice of its data set, empty: its evaluation split; says its name too.

        Raises:
          DataError: no such data set or split.
        """
        split = split or self.config.eval_split or self.dataset.eval_split()
        return self.dataset.open(split), split

    def reader(self, source: Source) -> ImageReader:
        """Reads a source as the run reads its own."""
        c = self.config
        return ImageReader(source, c.resize, c.exif_orientation, c.on_bad_image)

    def class_name(self, label: int) -> str:
        """Returns a class's name, or its number where it has none."""
        return name_of(self.class_names, label)


def load(
    workdir: pathlib.Path, mesh: MeshConfig = MeshConfig(1, 1), which: str = "best"
) -> TrainedNetwork:
    """Reads a run's network.

    Args:
      workdir: of the run; it may be training.
      mesh: to use it on.
      which: checkpoint: best (least validation error), latest, or its step.

    Raises:
      ConfigError: not the workdir of a run, or without that checkpoint.
      CheckpointError: the checkpoint is damaged.
    """
    config = run_files.read_config(workdir)
    config.mesh = dataclasses.replace(mesh)
    names = run_files.read_class_names(workdir)
    devices = meshes.build(config.mesh)
    network = model.build(config.model, config.num_classes or len(names), config.precision)
    with checkpoint.Checkpoints(workdir, 1, read_only=True) as checkpoints:
        step = _step(workdir, checkpoints, which)
        state = checkpoints.restore(step, abstract_state(config, network, devices))
    views = augment.Views.of(config, run_files.read_statistics(workdir))
    return TrainedNetwork(config, names, step, network, devices, state.params, views)


def _step(workdir: pathlib.Path, checkpoints: checkpoint.Checkpoints, which: str) -> int:
    steps = checkpoints.all_steps()
    if not steps:
        raise ConfigError(f"{workdir} has no checkpoint yet; train first")
    step = {"best": checkpoints.best_step(), "latest": steps[-1]}.get(which)
    if step is None and which.isdigit() and int(which) in steps:
        step = int(which)
    if step is None:
        known = ", ".join(map(str, steps))
        raise ConfigError(f"--checkpoint: {which} is not best, latest or one of {known}")
    return step
