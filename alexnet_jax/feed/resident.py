"""A split that is read once and stays on the devices, from which steps gather their images."""

import concurrent.futures
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.data.loader import ImageReader, evaluation_batches, read_all
from alexnet_jax.data.order import permutation
from alexnet_jax.feed.protocol import Dispatches, Fed, ResidentSplit, stop_flags
from alexnet_jax.host.device_memory import GIB
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel import processes


def resident_split(
    config: Config,
    mesh: Mesh,
    count: int,
    batch_size: int,
    whole: bool,
    passes: int = 1,
    steps: int = 1,
) -> ResidentSplit:
    """Returns how a split of `count` images lies on a mesh; see `ResidentSplit`."""
    shards, devices = meshes.data_devices(mesh), meshes.image_devices(mesh, config.mesh)
    return ResidentSplit(
        config.mesh, batch_size, config.resize, count, shards, devices, whole, passes, steps
    )


class ResidentFeed:
    """A split that is read once and stays on the devices."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        reader: ImageReader,
        batch_size: int,
        whole: bool,
        passes: int = 1,
        progress: Callable[[int], None] = lambda images: None,
        steps: int = 1,
    ) -> None:
        """Reads the split.

        Raises:
          DataError: an image that cannot be read, where such are not to be skipped.
        """
        self.feeding = resident_split(config, mesh, len(reader), batch_size, whole, passes, steps)
        self.count = len(reader)
        self._config, self._mesh, self._reader = config, mesh, reader
        self._fed = self._place(progress)
        self._epoch = -self.feeding.orders  # the first of those whose orders are on the devices

    @property
    def bad_images(self) -> list[str]:
        """What could not be decoded, one message each."""
        return self._reader.bad_images

    @property
    def bytes_per_device(self) -> int:
        """What the images take of each device."""
        rows = self.feeding.padded // (1 if self.feeding.whole else self.feeding.data)
        return rows * self.feeding.side**2 * 3

    def training(self, dispatches: Dispatches, stop: Callable[[], bool]) -> Generator[Fed]:
        """Yields the same arrays; the order of further epochs is all that is put on the devices.

        It is drawn in a thread before it is asked for: a million numbers take long to sort.
        """
        go, told = (self._flags(value) for value in (0, 1))
        counted = functools.cache(lambda steps: self._everywhere(np.int32(steps)))
        size, orders = self.feeding.batch_size, self.feeding.orders
        drawn: concurrent.futures.Future[np.ndarray] | None = None
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            for updates in dispatches:
                first = (updates.start - 1) * size // self.count
                last = ((updates.stop - 1) * size - 1) // self.count
                if not self._epoch <= first <= last < self._epoch + orders:
                    # From the last that is there: a batch may hold its end and the next's start.
                    start = self._epoch + orders - 1
                    if drawn is None or not start <= first <= last < start + orders:
                        start, drawn = first, thread.submit(self._orders, first)
                    self._set_orders(start, drawn.result())
                    drawn = thread.submit(self._orders, start + orders - 1)
                yield self._fed | {"stop": told if stop() else go, "steps": counted(len(updates))}

    def evaluation(self) -> Generator[Fed]:
        """Yields the same arrays with the number of each batch."""
        for number in evaluation_batches(self.feeding.batch_size, self.count):
            yield self._fed | {"number": self._everywhere(np.int32(number))}

    def describe(self) -> str:
        """Says where the images are."""
        lies = "on every device" if self.feeding.whole else "in parts over data"
        return f"resident {lies} ({self.bytes_per_device / GIB:.2f} GiB each)"

    def sample(self) -> Fed:
        """Returns the arrays as they are."""
        return self._fed

    def _place(self, progress: Callable[[int], None]) -> Fed:
        """Reads what this process's devices hold, each image once, and puts it there."""
        feeding, threads = self.feeding, self._config.read_threads
        abstract = feeding.abstract(self._mesh)
        held = abstract["image"].sharding.addressable_devices_indices_map(abstract["image"].shape)
        label = np.zeros(feeding.padded, np.int32)
        good = np.zeros(feeding.padded, np.float32)
        owners: dict[tuple[int, int], list[Any]] = {}  # devices
        for device, span in held.items():
            assert span is not None
            first, last, _ = span[0].indices(feeding.padded)
            owners.setdefault((first, last), []).append(device)
        placed = []
        for (first, last), devices in owners.items():  # the host holds one part at a time
            images, label[first:last], good[first:last] = read_all(
                self._reader, first, last, threads, progress
            )
            placed += [jax.block_until_ready(jax.device_put(images, own)) for own in devices]
        image = jax.make_array_from_single_device_arrays(
            abstract["image"].shape, abstract["image"].sharding, placed
        )
        # Labels and masks are everywhere: each process tells those of the images that it read.
        known = processes.filled_in([label, good], list(owners))
        return {
            "image": image,
            "label": self._everywhere(known[0]),
            "good": self._everywhere(known[1]),
            "order": self._everywhere(np.zeros((feeding.orders, self.count), np.int32)),
            "first_epoch": self._everywhere(np.int32(0)),
            "number": self._everywhere(np.int32(0)),
            "steps": self._everywhere(np.int32(1)),
            "stop": self._flags(0),
        }

    def _orders(self, epoch: int) -> np.ndarray:
        """Returns the orders of as many epochs as the devices hold, from one on."""
        epochs = range(epoch, epoch + self.feeding.orders)
        orders = [permutation(self._config.seed, e, self.count) for e in epochs]
        return np.stack(orders).astype(np.int32)

    def _set_orders(self, epoch: int, orders: np.ndarray) -> None:
        self._epoch = epoch
        self._fed |= self._everywhere({"order": orders, "first_epoch": np.int32(epoch)})

    def _everywhere(self, value: Any) -> Any:
        return meshes.put_everywhere(value, self._mesh)

    def _flags(self, value: int) -> jax.Array:
        return stop_flags(self._mesh, self._config, self.feeding.devices, value)
