"""What a compiled step is fed with: a batch from the host, or a whole split that stays on devices.

A feeding says how the fed arrays lie on the mesh, and what batch a device takes from them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes

ORDERED = 64  # updates whose order is put on the devices at once, at least

Fed = dict[str, jax.Array]
DeviceBatch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Dispatches:
    """The updates from `first` to `last`, in ranges that are dispatched together.

    Attributes:
      first: update, from 1.
      last: update.
      most: of one dispatch.
      alone: is the first update dispatched alone?
      breaks: must a dispatch end with this update, for what is done after it?
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
        """Updates of one dispatch, at most; where there may be several, fed["steps"] says."""
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
        """
        ...

    def evaluation(self, fed: Fed) -> DeviceBatch:
        """Returns the device's rows of an evaluation batch: `image`, `label`, `mask`, `bad`."""
        ...


@dataclasses.dataclass(frozen=True)
class HostBatches:
    """Batches of `batch_size` images that the host puts on the devices one by one."""

    config: MeshConfig
    batch_size: int
    side: int

    @property
    def steps(self) -> int:
        """A batch comes for each update."""
        return 1

    @property
    def specs(self) -> meshes.Specs:
        """The batch is cut, every array alike."""
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


@dataclasses.dataclass(frozen=True)
class ResidentSplit:
    """A split of `count` images that stays on the devices; steps gather their batches from it.

    Attributes:
      config: of the mesh.
      batch_size: global images of a step.
      side: of the images.
      count: images of the split.
      data: data shards of the mesh.
      devices: that share the images of a batch: `mesh.image_devices`.
      whole: does every data shard hold all of them? Else each holds an equal part, and a batch is
        exchanged over `data` as uint8.
      passes: through the classifier, for the order of rows.
      steps: updates of one dispatch, at most.
    """

    config: MeshConfig
    batch_size: int
    side: int
    count: int
    data: int
    devices: int
    whole: bool = True
    passes: int = 1
    steps: int = 1

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
        """Epochs whose orders are on the devices: those that a dispatch may hold a part of.

        Where epochs are short there are more, for putting them there takes a millisecond.
        """
        images = max(self.steps, ORDERED) * self.batch_size
        return (self.count + images - 2) // self.count + 1

    @property
    def padded(self) -> int:
        """`count`, made to divide over the data shards that hold parts."""
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
        own = self._own(index)
        batch = self._known(fed, own) | {
            "index": own,
            "epoch": self._own(epoch),
            "position": self._own(position),
            "place": self._own(places),
            "stop": fed["stop"],
        }
        return batch | {"image": self._images(fed["image"], index)}

    def evaluation(self, fed: Fed) -> DeviceBatch:
        """Gathers the rows of batch `number`, in the order of the split; past its end are none."""
        index = fed["number"] * self.batch_size + self._places(ordered=False)
        inside = (index < self.count).astype(jnp.float32)
        index = jnp.minimum(index, self.count - 1)
        batch = self._known(fed, self._own(index))
        inside = self._own(inside)
        batch = batch | {"mask": batch["mask"] * inside, "bad": batch["bad"] * inside}
        return batch | {"image": self._images(fed["image"], index)}

    def _places(self, ordered: bool = True) -> jax.Array:
        """Places in the global batch, of the rows of this device and of those it exchanges with.

        Returns:
          (data shards, b) int32: row d is that of data shard d.
        """
        order = np.arange(self.batch_size)
        if ordered:
            order = meshes.order_of_rows(
                self.config, self.data, self.devices, self.batch_size, self.passes
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
            return _rows(part, self._own(index))
        # Each device gives what it holds to whom it belongs: all others add zeros.
        local = index.reshape(-1) - collectives.data_index() * part.shape[0]
        held = (local >= 0) & (local < part.shape[0])
        rows = _rows(part, jnp.clip(local, 0, part.shape[0] - 1))
        rows = jnp.where(held[:, None, None, None], rows, jnp.zeros((), rows.dtype))
        with jax.named_scope("images"):
            return collectives.scatter_rows(rows)


def _rows(images: jax.Array, index: jax.Array) -> jax.Array:
    """Returns images[index], (b, R, R, 3); a CPU copies whole images, one after the other."""
    return jax.lax.platform_dependent(images, index, cpu=_copied, default=_gathered)


def _copied(images: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.map(lambda i: jax.lax.dynamic_index_in_dim(images, i, keepdims=False), index)


def _gathered(images: jax.Array, index: jax.Array) -> jax.Array:
    return images.at[index].get(mode="promise_in_bounds")


def stop_flags(mesh: Mesh, config: Config, count: int, value: int) -> jax.Array:
    """Returns (count,) float32 that is cut like a batch: was the process of each told to end?"""
    rows = meshes.local_rows(mesh, config.mesh, count)
    flags = np.full(rows.stop - rows.start, value, np.float32)
    return meshes.put_batch({"stop": flags}, mesh, config.mesh)["stop"]
