"""Where the arrays come from that feed a step: what all have, and those read ahead on the host."""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Generator
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from alexnet_jax.config import Config, ConfigError
from alexnet_jax.data.loader import (
    ImageReader,
    Loader,
    evaluation_batches,
    evaluation_positions,
    reading_threads,
    training_positions,
)
from alexnet_jax.feed.page_locked import page_lock
from alexnet_jax.feed.protocol import Dispatches, Fed, HostBatches, stop_flags
from alexnet_jax.host.device_memory import GIB, device_memory
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel import processes


class Feed(Protocol):
    """A split as it comes to the compiled steps.

    What it yields stays as it is until the second one after it is asked for. Threads may stand
    behind a generator: close what is left before its end (`contextlib.closing`).
    """

    feeding: Any  # HostBatches or ResidentSplit
    count: int

    @property
    def bad_images(self) -> list[str]:
        """What could not be decoded so far, one message each."""
        ...

    def training(self, dispatches: Dispatches, stop: Callable[[], bool]) -> Generator[Fed]:
        """Yields what each dispatch is fed with.

        Args:
          dispatches: the updates.
          stop: asked before each: was this process told to end?
        """
        ...

    def evaluation(self) -> Generator[Fed]:
        """Yields what evaluation steps over the whole split are fed with."""
        ...

    def sample(self) -> Fed:
        """Returns something to try an update on."""
        ...

    def describe(self) -> str:
        """Says in a few words how the images come."""
        ...


class HostFeed:
    """Batches read ahead in threads, and put on the devices by another, two ahead of the step."""

    def __init__(
        self, config: Config, mesh: Mesh, reader: ImageReader, batch_size: int, passes: int = 1
    ) -> None:
        self.feeding = HostBatches(config.mesh, batch_size, config.resize)
        self.count = len(reader)
        self._config, self._mesh, self._reader = config, mesh, reader
        self._passes = passes

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

    def evaluation(self) -> Generator[Fed]:
        """Yields every image once; the tail is masked."""
        size = self.feeding.batch_size
        positions = evaluation_positions(size, self.count)
        return self._put(positions, evaluation_batches(size, self.count), lambda: False)

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
        loader = Loader(self._reader, c.read_threads, c.read_ahead, page_lock)
        go, told = (stop_flags(self._mesh, c, size, value) for value in (0, 1))
        batches = loader.batches(positions, numbers, rows)

        def put_next() -> Fed | None:
            batch = next(batches, None)
            return None if batch is None else meshes.put_batch(batch, self._mesh, c.mesh)

        # Neither reading nor the copy is the loop's own work; what fails is raised where the batch
        # would have come. Two are on their way: on a GPU a copy begins once the updates dispatched
        # before it are done, so that it has to be asked for before the last of them is.
        with contextlib.closing(batches), concurrent.futures.ThreadPoolExecutor(1, "put") as thread:
            coming = collections.deque(thread.submit(put_next) for _ in range(2))
            try:
                while (fed := coming.popleft().result()) is not None:
                    coming.append(thread.submit(put_next))
                    yield fed | {"stop": told if stop() else go}
            finally:  # what has not begun to be read is not waited for
                thread.shutdown(wait=False, cancel_futures=True)


def resident_budget(config: Config) -> int:
    """Returns the bytes of a device's memory that resident splits may take, the least of all."""
    asked = config.resident_gib * GIB or device_memory() / 4
    if jax.process_count() == 1:
        return int(asked)
    return min(int(told) for told in processes.told_by_all(str(int(asked))))


def kind_of_feed(config: Config, mesh: Mesh, count: int, budget: int) -> str:
    """Chooses how a split comes: `host`, `whole` (resident, all of it on every device) or `parts`
    (resident, cut over `data`).

    Raises:
      ConfigError: `feed` = resident, and it does not fit the budget.
    """
    size = count * config.resize**2 * 3
    shards = meshes.data_devices(mesh)
    if config.feed == "host":
        return "host"
    if size <= budget:
        return "whole"
    if -(-size // shards) <= budget and shards > 1:
        return "parts"
    if config.feed == "resident":
        raise ConfigError(
            f"feed: resident needs {size / shards / GIB:.3g} GiB of each device for {count:,} "
            f"images, more than {budget / GIB:.3g}; raise resident_gib, or use host"
        )
    return "host"
