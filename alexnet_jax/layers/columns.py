"""A device's share of the channels, and what it gathers from others (paper figure 2).

The devices of the `model` axis share the channels in order. With two columns, each of two devices
holds one column, each of more devices an equal part of one; a single device holds everything.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.ops.lrn_sharded import Edges
from alexnet_jax.parallel import collectives


@dataclasses.dataclass(frozen=True)
class Columns:
    """One device's share of a network; its methods that move data work inside `mesh.per_device`.

    Attributes:
      count: columns of the network, 1 or 2.
      devices: devices that the channels are shared out over; 1 needs no mesh.
    """

    count: int = 1
    devices: int = 1

    @property
    def here(self) -> int:
        """Columns that this device computes, each as a convolution of its own."""
        return max(1, self.count // self.devices)

    @property
    def per_column(self) -> int:
        """Devices that share one column."""
        return max(1, self.devices // self.count)

    def share(self, channels: int) -> int:
        """Returns the channels of a layer that one device computes, rounded up."""
        return -(-channels // self.devices)

    def meet(self, x: jax.Array) -> jax.Array:
        """Gathers the channels of every column, (..., C / devices) to (..., C)."""
        return collectives.gather_channels(x, self.devices) if self.devices > 1 else x

    def join(self, x: jax.Array) -> jax.Array:
        """Gathers the channels of this device's own column; nothing where it has all of them."""
        return collectives.gather_channels(x, self.per_column) if self.per_column > 1 else x

    def share_windows(self, across: bool) -> int:
        """Returns how many devices share the channels that windows slide over; see `edges`."""
        return self.devices if across else self.per_column

    def edges(self, x: jax.Array, count: int, across: bool) -> Edges | None:
        """Fetches the `count` channels before and after this device's from its neighbours.

        Args:
          x: (..., C / devices).
          count: channels on each side.
          across: also from another column (Caffe's windows cross them).

        Returns:
          What `lrn_between` takes, or None where no window leaves the device.
        """
        together = self.share_windows(across)
        if together == 1 or count == 0:
            return None
        return collectives.exchange_edges(x, count, self.devices, together)

    def own_units(self, per_unit: jax.Array) -> jax.Array:
        """Slices this device's units out of an array over all units, (..., units)."""
        if self.devices == 1:
            return per_unit
        size = self.share(per_unit.shape[-1])
        missing = size * self.devices - per_unit.shape[-1]
        padded = jnp.pad(per_unit, [(0, 0)] * (per_unit.ndim - 1) + [(0, missing)])
        return lax.dynamic_slice_in_dim(padded, collectives.model_index() * size, size, axis=-1)
