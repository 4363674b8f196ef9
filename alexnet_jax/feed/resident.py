"""A split that is read once and stays on the devices, from which steps gather their images."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.data.loader import ImageReader, evaluation_batches, read_all
from alexnet_jax.data.order import permutation
from alexnet_jax.feed.protocol import Cut, DeviceBatch, Dispatches, Fed, stop_flags
from alexnet_jax.host.device_memory import GIB
from alexnet_jax.ops.gather import images_at
from alexnet_jax.parallel import collectives, processes
from alexnet_jax.parallel import mesh as meshes

ORDERED = 64  # the least number of updates whose order is put on the devices at once


@dataclasses.dataclass(frozen=True)
class ResidentSplit:
    """A split of `count` images that stays on the devices; steps gather their batches from it.

    Attributes:
      config: of the mesh.
      cut: how the split is cut into batches.
      side: of an image, in pixels.
      count: images of the split.
      data: number of data shards of the mesh.
      devices: number of devices that share a batch's images: `mesh.image_devices`.
      whole: does every data shard hold all images? Else each holds an equal part, and the shards
        exchange every batch over `data` as uint8.
    """

    config: MeshConfig
    cut: Cut
    side: int
    count: int
    data: int
    devices: int
    whole: bool = True

    @property
    def batch_size(self) -> int:
        """Global images of a step."""
        return self.cut.batch_size

    @property
    def steps(self) -> int:
        """Updates of one dispatch, at most."""
        return self.cut.steps

    @property
    def specs(self) -> meshes.Specs:
        """Images are whole or cut over `data`; labels and order are everywhere."""
        image = meshes.EVERYWHERE if self.whole else meshes.data_spec()
        names = ("label", "good", "order", "first_epoch", "number", "steps")
        return {
            "image": image,
            "stop": meshes.batch_spec(self.config),
        } | {name: meshes.EVERYWHERE for name in names}

    @property
    def orders(self) -> int:
        """The number of epochs whose orders are on the devices: all that one dispatch may touch.

        If epochs are short there are more, because putting them there takes a millisecond.
        """
        images = max(self.steps, ORDERED) * self.batch_size
        return (self.count + images - 2) // self.count + 1

    @property
    def padded(self) -> int:
        """`count`, rounded up to a multiple of the data shards that hold parts."""
        shards = 1 if self.whole else self.data
        return -(-self.count // shards) * shards

    def abstract(self, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the fed arrays as shapes with their shardings."""
        rows = self.padded
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((rows, self.side, self.side, 3), jnp.uint8),
            "label": ((rows,), jnp.int32),
            "good": ((rows,), jnp.float32),
            "order": ((self.orders, self.count), jnp.int32),  # of epochs from first_epoch on
            "first_epoch": ((), jnp.int32),
            "number": ((), jnp.int32),  # of an evaluation batch
            "steps": ((), jnp.int32),  # of this dispatch
            "stop": ((self.devices,), jnp.float32),
        }
        arrays = {name: jax.ShapeDtypeStruct(*about) for name, about in shapes.items()}
        return meshes.placed(arrays, mesh, self.specs)

    def training(self, fed: Fed, step: jax.Array) -> DeviceBatch:
        """Gathers the rows that the data order gives to this device."""
        places = self._places()
        position = step * self.batch_size + places
        epoch = position // self.count
        index = fed["order"][epoch - fed["first_epoch"], position % self.count]
        rows_here = self._own(index)
        batch = self._known(fed, rows_here) | {
            "index": rows_here,
            "epoch": self._own(epoch),
            "position": self._own(position),
            "place": self._own(places),
            "stop": fed["stop"],
        }
        return batch | {"image": self._images(fed["image"], index)}

    def evaluation(self, fed: Fed) -> DeviceBatch:
        """Gathers the rows of batch `number` in the split's order; masks rows past its end."""
        index = fed["number"] * self.batch_size + self._places(ordered=False)
        inside = (index < self.count).astype(jnp.float32)
        index = jnp.minimum(index, self.count - 1)
        batch = self._known(fed, self._own(index))
        inside = self._own(inside)
        batch = batch | {"mask": batch["mask"] * inside, "bad": batch["bad"] * inside}
        return batch | {"image": self._images(fed["image"], index), "stop": fed["stop"]}

    def _places(self, ordered: bool = True) -> jax.Array:
        """Returns the global-batch places of this device's rows and of its exchange partners' rows.

        Returns:
          (data shards, b) int32: row d is that of data shard d.
        """
        order = np.arange(self.batch_size)
        if ordered:
            order = meshes.order_of_rows(
                self.config, self.data, self.devices, self.batch_size, self.cut.passes
            )
        mine = jnp.asarray(order.reshape(self.data, self.devices // self.data, -1), jnp.int32)
        return mine[:, collectives.image_index_in_shard(self.config)]

    def _own(self, of_shards: jax.Array) -> jax.Array:
        """Returns this device's row of (data shards, b)."""
        return of_shards[collectives.data_index()]

    def _known(self, fed: Fed, index: jax.Array) -> DeviceBatch:
        good = fed["good"][index]
        return {"label": fed["label"][index], "mask": good, "bad": 1 - good}

    def _images(self, part: jax.Array, index: jax.Array) -> jax.Array:
        """Gathers images by their number in the split, (data shards, b), for this device."""
        if self.whole or self.data == 1:
            return images_at(part, self._own(index))
        # Each device sends the images it holds to the shard that needs them; the others add zeros.
        local = index.reshape(-1) - collectives.data_index() * part.shape[0]
        is_here = (local >= 0) & (local < part.shape[0])
        rows = images_at(part, jnp.clip(local, 0, part.shape[0] - 1))
        rows = jnp.where(is_here[:, None, None, None], rows, jnp.zeros((), rows.dtype))
        with jax.named_scope("images"):
            return collectives.scatter_rows(rows)


def resident_split(config: Config, mesh: Mesh, count: int, cut: Cut, whole: bool) -> ResidentSplit:
    """Returns how a split of `count` images lies on a mesh; see `ResidentSplit`."""
    shards, devices = meshes.data_devices(mesh), meshes.image_devices(mesh, config.mesh)
    return ResidentSplit(config.mesh, cut, config.resize, count, shards, devices, whole)


class ResidentFeed:
    """A split that is read once and stays on the devices."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        reader: ImageReader,
        cut: Cut,
        whole: bool,
        progress: Callable[[int], None] = lambda images: None,
    ) -> None:
        """Reads the split.

        Raises:
          DataError: an image cannot be read, and such images are not to be skipped.
        """
        self.feeding = resident_split(config, mesh, len(reader), cut, whole)
        self.count = len(reader)
        self._config, self._mesh, self._reader = config, mesh, reader
        self._fed = self._place(progress)
        self._epoch = -self.feeding.orders  # the first epoch whose order is on the devices

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
        """Yields the same arrays; only the order of later epochs is still put on the devices.

        A thread draws it ahead of time, because sorting a million numbers takes long.
        """
        go, stopped = (self._flags(value) for value in (0, 1))
        counted = functools.cache(lambda steps: self._everywhere(np.int32(steps)))
        size, orders = self.feeding.batch_size, self.feeding.orders
        drawn: concurrent.futures.Future[np.ndarray] | None = None
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            for updates in dispatches:
                first = (updates.start - 1) * size // self.count
                last = ((updates.stop - 1) * size - 1) // self.count
                if not self._epoch <= first <= last < self._epoch + orders:
                    # Start from the last one there: a batch may span its end and the next's start.
                    start = self._epoch + orders - 1
                    if drawn is None or not start <= first <= last < start + orders:
                        start, drawn = first, thread.submit(self._orders, first)
                    self._set_orders(start, drawn.result())
                    drawn = thread.submit(self._orders, start + orders - 1)
                yield self._fed | {
                    "stop": stopped if stop() else go,
                    "steps": counted(len(updates)),
                }

    def evaluation(self, stop: Callable[[], bool] = lambda: False) -> Generator[Fed]:
        """Yields the same arrays with the number of each batch."""
        go, stopped = (self._flags(value) for value in (0, 1))
        for number in evaluation_batches(self.feeding.batch_size, self.count):
            flags = {"stop": stopped if stop() else go}
            yield self._fed | flags | {"number": self._everywhere(np.int32(number))}

    def describe(self) -> str:
        """Says where the images are."""
        lies = "on every device" if self.feeding.whole else "in parts over data"
        return f"resident {lies} ({self.bytes_per_device / GIB:.2f} GiB each)"

    def sample(self) -> Fed:
        """Returns the arrays as they are."""
        return self._fed

    def _place(self, progress: Callable[[int], None]) -> Fed:
        """Reads the images of this process's devices, each image once, and puts them there."""
        feeding, threads = self.feeding, self._config.read_threads
        abstract = feeding.abstract(self._mesh)
        indices = abstract["image"].sharding.addressable_devices_indices_map(
            abstract["image"].shape
        )
        label = np.zeros(feeding.padded, np.int32)
        good = np.zeros(feeding.padded, np.float32)
        owners: dict[tuple[int, int], list[Any]] = {}  # devices
        for device, span in indices.items():
            assert span is not None
            first, last, _ = span[0].indices(feeding.padded)
            owners.setdefault((first, last), []).append(device)
        placed = []
        for (first, last), devices in owners.items():  # the host holds one part at a time
            images, label[first:last], good[first:last] = read_all(
                self._reader, first, last, threads, progress
            )
            placed += [jax.block_until_ready(jax.device_put(images, shard)) for shard in devices]
        image = jax.make_array_from_single_device_arrays(
            abstract["image"].shape, abstract["image"].sharding, placed
        )
        # Every device has all labels and masks: each process shares those of the images it read.
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
