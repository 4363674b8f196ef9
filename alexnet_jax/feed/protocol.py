"""The protocol between a feed and the compiled steps: arrays, dispatches, and who reads what.

A feeding says how the fed arrays lie on the mesh, and what batch a device takes from them.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.parallel import mesh as meshes

Fed = dict[str, jax.Array]
DeviceBatch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a split is cut into batches.

    Attributes:
      batch_size: global images of a step.
      passes: of a batch through the classifier, which decide the order of rows.
      steps: updates per dispatch, at most.
    """

    batch_size: int
    passes: int = 1
    steps: int = 1

    @classmethod
    def for_training(cls, config: Config) -> "Cut":
        """Returns the cut that a config asks for."""
        return cls(config.batch_size, config.optimizer.fc_updates, config.steps_per_dispatch)


@dataclasses.dataclass(frozen=True)
class Dispatches:
    """The updates from `first` to `last`, in ranges that are dispatched together.

    Attributes:
      first: the first update, from 1.
      last: the last update.
      most: updates per dispatch, at most.
      alone: is the first update dispatched alone?
      breaks: must a dispatch end with this update, because other work follows it?
    """

    first: int
    last: int
    most: int = 1
    alone: bool = False
    breaks: Callable[[int], bool] = lambda update: False

    def __iter__(self) -> Iterator[range]:
        """Yields the ranges in order; the same ones each time."""
        start = self.first
        for update in range(self.first, self.last + 1):
            full = update - start + 1 == self.most or (self.alone and update == self.first)
            if full or update == self.last or self.breaks(update):
                yield range(start, update + 1)
                start = update + 1


class Feeding(Protocol):
    """How a step is fed; its methods that take `fed` work inside `mesh.per_device`."""

    @property
    def steps(self) -> int:
        """The most updates per dispatch; if above 1, fed["steps"] has the actual number."""
        ...

    @property
    def specs(self) -> meshes.Specs:
        """Where the fed arrays live."""
        ...

    def abstract(self, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the fed arrays as shapes with their shardings."""
        ...

    def training(self, fed: Fed, step: jax.Array) -> DeviceBatch:
        """Returns the device's rows of the batch of update `step` + 1, and `stop`.

        `image` (b, R, R, 3) uint8; `label`, `index`, `epoch`, `position`, `place` (b,) int32;
        `mask`, `bad`, `stop` (b,) float32: a good image, a bad one, was the process told to end?
        A resident feed's `stop` is (1,).
        """
        ...

    def evaluation(self, fed: Fed) -> DeviceBatch:
        """Returns the device's rows of an evaluation batch: `image`, `label`, `mask`, `bad`, and
        `stop`."""
        ...


class Feed(Protocol):
    """A split as it comes to the compiled steps.

    What it yields stays valid until the second item after it is requested. A generator may run
    threads: close one that you leave before its end (`contextlib.closing`).
    """

    feeding: Any  # HostBatches or ResidentSplit
    count: int

    @property
    def bad_images(self) -> list[str]:
        """What could not be decoded so far, one message each."""
        ...

    def training(self, dispatches: Dispatches, stop: Callable[[], bool]) -> Generator[Fed]:
        """Yields the arrays that feed each dispatch.

        Args:
          dispatches: the updates.
          stop: asked before each: was this process told to end?
        """
        ...

    def evaluation(self, stop: Callable[[], bool] = lambda: False) -> Generator[Fed]:
        """Yields the arrays that feed evaluation steps over the whole split.

        Args:
          stop: asked before each: was this process told to end?
        """
        ...

    def sample(self) -> Fed:
        """Returns fed arrays for a trial update."""
        ...

    def describe(self) -> str:
        """Says in a few words how the images come."""
        ...


def stop_flags(mesh: Mesh, config: Config, count: int, value: int) -> jax.Array:
    """Returns (count,) float32, sharded like a batch: was each row's process told to end?"""
    rows = meshes.local_rows(mesh, config.mesh, count)
    flags = np.full(rows.stop - rows.start, value, np.float32)
    return meshes.put_batch({"stop": flags}, mesh, config.mesh)["stop"]
