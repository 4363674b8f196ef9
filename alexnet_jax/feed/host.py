"""Batches read ahead on the host, and put on the devices two ahead of the step."""

import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.data.loader import (
    ImageReader,
    Loader,
    evaluation_batches,
    evaluation_positions,
    reading_threads,
    training_positions,
)
from alexnet_jax.feed.page_locked import keeper
from alexnet_jax.feed.protocol import Cut, DeviceBatch, Dispatches, Fed, stop_flags
from alexnet_jax.ops import platform
from alexnet_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class HostBatches:
    """Batches of `batch_size` images that the host puts on the devices one by one."""

    config: MeshConfig
    batch_size: int
    side: int

    @property
    def steps(self) -> int:
        """One update per dispatch: each gets a batch of its own."""
        return 1

    @property
    def specs(self) -> meshes.Specs:
        """Every array is sharded as the batch is."""
        return meshes.batch_spec(self.config)

    def abstract(self, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns a global batch as shapes with their shardings."""
        sharding = meshes.batch_sharding(mesh, self.config)
        image = (self.batch_size, self.side, self.side, 3)
        fed = {"image": jax.ShapeDtypeStruct(image, jnp.uint8, sharding=sharding)}
        for names, dtype in (
            (("label", "position", "epoch", "index", "place"), jnp.int32),
            (("mask", "bad", "stop"), jnp.float32),
        ):
            for name in names:
                fed[name] = jax.ShapeDtypeStruct((self.batch_size,), dtype, sharding=sharding)
        return fed

    def training(self, fed: Fed, step: jax.Array) -> DeviceBatch:
        """Returns what came."""
        return fed

    def evaluation(self, fed: Fed) -> DeviceBatch:
        """Returns what came."""
        return fed


class HostFeed:
    """Threads read batches ahead; another puts them on the devices, two ahead of the step."""

    def __init__(self, config: Config, mesh: Mesh, reader: ImageReader, cut: Cut) -> None:
        self.feeding = HostBatches(config.mesh, cut.batch_size, config.resize)
        self.count = len(reader)
        self._config, self._mesh, self._reader = config, mesh, reader
        self._passes = cut.passes

    @property
    def bad_images(self) -> list[str]:
        """What could not be decoded so far, one message each."""
        return self._reader.bad_images

    def training(self, dispatches: Dispatches, stop: Callable[[], bool]) -> Generator[Fed]:
        """Yields batches in the data order, one an update."""
        assert dispatches.most == 1
        size = self.feeding.batch_size
        order = meshes.row_order(self._mesh, self._config.mesh, size, self._passes)
        positions = training_positions(self._config.seed, order, self.count)
        return self._put(positions, range(dispatches.first, dispatches.last + 1), stop)

    def evaluation(self, stop: Callable[[], bool] = lambda: False) -> Generator[Fed]:
        """Yields every image once; the tail is masked."""
        size = self.feeding.batch_size
        positions = evaluation_positions(size, self.count)
        return self._put(positions, evaluation_batches(size, self.count), stop)

    def describe(self) -> str:
        """Says how the images come."""
        threads = reading_threads(self._config.read_threads)
        return f"read ahead by {threads} threads"

    def sample(self) -> Fed:
        """Returns a batch of zeros."""
        return meshes.zeros(self.feeding.abstract(self._mesh))

    def _put(self, positions: Any, numbers: range, stop: Callable[[], bool]) -> Generator[Fed]:
        c, size = self._config, self.feeding.batch_size
        rows = meshes.local_rows(self._mesh, c.mesh, size)
        loader = Loader(
            self._reader, c.read_threads, c.read_ahead, keeper(c.kernels, platform.computed_on())
        )
        go, stopped = (stop_flags(self._mesh, c, size, value) for value in (0, 1))
        batches = loader.batches(positions, numbers, rows)

        def put_next() -> Fed | None:
            batch = next(batches, None)
            return None if batch is None else meshes.put_batch(batch, self._mesh, c.mesh)

        # Threads read and copy, not this loop; a failure is raised in place of its batch. Two
        # batches are in flight: a GPU begins a copy once the updates dispatched before it are done,
        # so that the copy must be requested before the last update ahead of it is dispatched.
        with contextlib.closing(batches), concurrent.futures.ThreadPoolExecutor(1, "put") as thread:
            coming = collections.deque(thread.submit(put_next) for _ in range(2))
            try:
                while (fed := coming.popleft().result()) is not None:
                    coming.append(thread.submit(put_next))
                    yield fed | {"stop": stopped if stop() else go}
            finally:  # do not wait for batches not yet begun
                thread.shutdown(wait=False, cancel_futures=True)
