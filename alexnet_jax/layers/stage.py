"""The stage after a convolution: ReLU, normalisation and pooling, in the variant's order.

Only this file knows which of them are computed as one, and when columns are arrays of their own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from alexnet_jax.config import ModelConfig
from alexnet_jax.layers.batch_norm import BatchNorm
from alexnet_jax.layers.columns import Columns
from alexnet_jax.ops import elementwise, platform, pooling
from alexnet_jax.ops.lrn import lrn, rectified_lrn, spatial_response_norm
from alexnet_jax.ops.lrn_formula import Lrn
from alexnet_jax.ops.lrn_sharded import lrn_between

SPATIAL_NORM2 = Lrn(size=5, scale=0.001 / 25, beta=0.75, k=1.0)  # layer-params-145.cfg, cnorm2

Step = Callable[[jax.Array], jax.Array]


class Stage(nn.Module):
    """Maps a convolution's output (B, H, W, C) to the next one's input, (B, H', W', C).

    Attributes:
      config: `layerN` has the order, such as "relu norm pool" (paper section 3.5).
      number: of the convolution, 1 .. 5.
      columns: this device's share of the channels.
      batch_norm: the normalisation if `config.normalisation` is batch.
    """

    config: ModelConfig
    number: int
    columns: Columns
    batch_norm: BatchNorm | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the steps."""
        apart = self._columns_apart()
        parts = jnp.split(x, apart, axis=-1)
        for name, step in self._steps(apart):
            with jax.named_scope(f"{name}{self.number}"):
                parts = [step(part) for part in parts]
        return parts[0] if apart == 1 else jnp.concatenate(parts, axis=-1)

    def _steps(self, apart: int) -> list[tuple[str, Step]]:
        """Returns the steps by name, in their order.

        Fuses ReLU with the normalisation after it where no window leaves the device, for a faster
        gradient. In layer 2 the spatial norm, if any, directly follows the local one
        (layers-145.cfg: rnorm2, cnorm2, pool2).
        """
        groups = self._groups(apart)
        steps: dict[str, Step] = {
            "relu": elementwise.ACTIVATIONS[self.config.activation],
            "norm": self._norm(groups),
            "pool": pooling.MAX_POOLS[self.config.pool_size],
        }
        order = getattr(self.config, f"layer{self.number}").split()
        if f"conv{self.number}" in self.config.without:
            order.remove("relu")  # which goes with the layer
        in_order = [(name, steps[name]) for name in order]
        rectified = self.config.activation == "relu" and self._local_alone()
        if rectified and ("relu", "norm") in zip(order, order[1:], strict=False):
            at = order.index("relu")
            constants = self._constants()
            in_order[at : at + 2] = [
                ("relu_norm", lambda x: rectified_lrn(x, constants, groups)),
            ]
        return in_order

    def _norm(self, groups: int) -> Step:
        if self.batch_norm is not None:
            return self.batch_norm
        if self._spatial():
            return lambda x: spatial_response_norm(self._local(x, groups), SPATIAL_NORM2)
        return lambda x: self._local(x, groups)

    def _local(self, x: jax.Array, groups: int) -> jax.Array:
        c = self.config.lrn
        edges = self.columns.edges(x, c.size // 2, c.across_columns)
        if edges is not None:
            return lrn_between(x, edges, self._constants())
        return lrn(x, self._constants(), groups)

    def _local_alone(self) -> bool:
        """Is it local normalisation within one device, without the spatial norm after it?"""
        within = self.columns.share_windows(self.config.lrn.across_columns) == 1
        return self.batch_norm is None and within and not self._spatial()

    def _spatial(self) -> bool:
        return self.number == 2 and self.config.spatial_norm2

    def _constants(self) -> Lrn:
        c = self.config.lrn
        return Lrn.named(c.convention, c.size, c.alpha, c.beta)

    def _columns_apart(self) -> int:
        """How many arrays hold the columns: one each if a GPU convolves them apart, else one."""
        c, layer = self.config, f"conv{self.number}"
        if self.batch_norm is not None or c.lrn.across_columns or layer in c.without:
            return 1
        joined = self.number == 1 or (self.number == 3 and c.columns_meet)
        return self.columns.here if platform.columns_apart() and not joined else 1

    def _groups(self, apart: int) -> int:
        """Groups of channels in each array; no window leaves its group."""
        return 1 if self.config.lrn.across_columns else self.columns.here // apart
