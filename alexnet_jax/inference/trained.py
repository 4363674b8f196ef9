"""A run's network as its checkpoint holds it, ready to be used."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.configs.validation import validate_fields
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.types import Source
from alexnet_jax.data.words import name_of
from alexnet_jax.host import files
from alexnet_jax.ops import compilation
from alexnet_jax.steps.forward import Forward
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.stored_form import StoredForm
from alexnet_jax.training import run_files
from alexnet_jax.training.stored import Stored


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What a checkpoint holds, and what is needed to use it.

    Attributes:
      setup: the network on the mesh that is used now.
      class_names: in label order; the network may have more classes than names.
      step: finished updates of the checkpoint.
      params: the standard tree, with the statistics of batch normalisation; on the mesh.
    """

    setup: Setup
    class_names: list[str]
    step: int
    params: Any

    @property
    def config(self) -> Config:
        """The run's, on the mesh that is used now."""
        return self.setup.config

    @property
    def num_classes(self) -> int:
        """Classes that the network tells apart."""
        return self.setup.network.num_classes

    @property
    def forward(self) -> Forward:
        """How the mesh computes the network."""
        return Forward.of(self.setup)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set that its config names, opened once."""
        from alexnet_jax.data.sources import open_dataset  # here: TFDS takes 0.2 s

        return open_dataset(self.config, silent=False)

    def source(self, split: str = "") -> tuple[Source, str]:
        """Opens a split or slice of its data set, with its name; empty: its evaluation split.

        Raises:
          DataError: no such data set or split.
        """
        split = split or self.config.eval_split or self.dataset.eval_split()
        return self.dataset.open(split), split

    def reader(self, source: Source) -> ImageReader:
        """Reads a source as the run reads its own."""
        c = self.config
        return ImageReader(source, c.resize, c.exif_orientation, c.on_bad_image, c.kernels)

    def class_name(self, label: int) -> str:
        """Returns a class's name, or its number where it has none."""
        return name_of(self.class_names, label)


def load(
    workdir: pathlib.Path,
    mesh: MeshConfig = MeshConfig(1, 1),
    which: str = "best",
    kernels: str = "",
    meanwhile: Callable[[Setup, Any], None] | None = None,
) -> TrainedNetwork:
    """Reads a run's network. What is compiled for it is kept for later processes.

    Args:
      workdir: of the run; it may be training.
      mesh: to use it on.
      which: checkpoint: best (least validation error), latest, or its step.
      kernels: auto or reference; empty: as the run computed.
      meanwhile: is called with the weights' shapes while files are read.

    Raises:
      ConfigError: not the workdir of a run, or without that checkpoint; or other kernels.
      CheckpointError: it is damaged; for best or latest, so is every other checkpoint.
    """
    compilation.keep_programs()
    config = run_files.read_config(workdir)
    config.mesh = dataclasses.replace(mesh)
    if kernels:
        config.kernels = kernels
        validate_fields(config)
    names = run_files.read_class_names(workdir)
    statistics = run_files.read_statistics(workdir)
    setup = Setup.of(config, config.num_classes or len(names), statistics=statistics)
    stored = Stored(workdir, run_files.identity(workdir, config))
    with ThreadPoolExecutor(1) as beside:  # hashing and reading release the GIL
        choosing = beside.submit(stored.choose, which)
        choosing.add_done_callback(lambda _: files.forget_ahead())
        form = StoredForm(setup)
        reading = beside.submit(lambda: stored.restore_weights(choosing.result(), form.abstract))
        stored.compile_for_weights(form.abstract)
        if choosing.done():
            choosing.result()  # raises its error at once
        if meanwhile:
            meanwhile(setup, form.abstract_weights)
        step, state = choosing.result(), reading.result()
    return TrainedNetwork(setup, names, step, form.weights(state))
