"""Dropout (paper section 4.2): which units stay depends on the image, not on the device."""

import dataclasses
import math

import jax

from alexnet_jax.config import ModelConfig
from alexnet_jax.configs.sizes import fully_connected_units
from alexnet_jax.layers.columns import Columns
from alexnet_jax.ops import elementwise


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Leaves units out, each with probability `config.dropout_rate`.

    Attributes:
      config: says which layers dropout follows, and whether training or evaluation scales outputs.
      columns: this device's share of the units.
    """

    config: ModelConfig
    columns: Columns

    def __call__(self, x: jax.Array, keys: jax.Array | None, layer: str) -> jax.Array:
        """Maps a layer's outputs to an array like them.

        Args:
          x: (B, ..., C).
          keys: (B,) typed keys when training; None when evaluating.
          layer: pool5, fc6 or fc7.
        """
        c, rate = self.config, self.config.dropout_rate
        if rate == 0 or layer not in set(c.dropout_after) - set(c.without):
            return x
        if keys is None:
            return x * (1 - rate) if c.dropout_scaling == "test" else x
        keys = jax.vmap(lambda key: jax.random.fold_in(key, int(layer[-1])))(keys)
        if layer == "pool5":  # every device reads all of it
            keep = elementwise.keep_mask(keys, math.prod(x.shape[1:]), rate).reshape(x.shape)
        else:
            units = round(fully_connected_units(c)[layer] * c.width)
            keep = self.columns.own_units(elementwise.keep_mask(keys, units, rate))
        x = elementwise.dropout(x, keep)
        return x / (1 - rate) if c.dropout_scaling == "train" else x
