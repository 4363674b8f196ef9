"""AlexNet in linen: five convolutions, three fully connected layers, two columns (paper 3.5)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers

from alexnet_jax import layers
from alexnet_jax.config import ModelConfig
from alexnet_jax.lrn import Lrn, lrn, spatial_response_norm

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
SPATIAL_NORM2 = Lrn(size=5, scale=0.001 / 25, beta=0.75, k=1.0)  # layer-params-145.cfg, cnorm2


def _kernel_init(model: ModelConfig, layer: str) -> initializers.Initializer:
    if model.init == "he" and layer != "fc8":
        return initializers.he_normal(in_axis=(0, 1, 2) if layer.startswith("conv") else 0)
    stds = {"conv1": model.conv_std, "conv2": model.conv_std, "fc8": model.fc8_std}
    rest = model.conv345_std if layer.startswith("conv") else model.fc_std
    return initializers.normal(stds.get(layer, rest))


def _bias_init(model: ModelConfig, layer: str) -> initializers.Initializer:
    positive = layer in ("conv2", "conv4", "conv5", "fc6", "fc7")  # paper section 5
    return initializers.constant(model.bias_value if positive else 0.0)


class Conv(nn.Module):
    """A convolution with bias; kernel (size, size, in / groups, features)."""

    features: int
    size: int
    kernel_init: initializers.Initializer
    bias_init: initializers.Initializer
    stride: int = 1
    padding: int | layers.Padding = 0
    groups: int = 1
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H', W', features)."""
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return layers.conv(x, kernel, self.stride, self.padding, self.groups) + bias


class AlexNet(nn.Module):
    """The network of 2012.

    Attributes:
      config: its variant; see `ModelConfig` for what can differ and why.
      num_classes: width of fc8.
      dtype: of the computation; parameters are float32.
    """

    config: ModelConfig
    num_classes: int = 1000
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Computes logits.

        Args:
          x: centred RGB images, (B, S, S, 3).
          dropout_keys: (B,) typed keys when training; None when evaluating.

        Returns:
          Logits, (B, num_classes) float32.
        """
        model, columns = self.config, self.config.columns
        right_bottom = (0, model.conv1_padding)

        x = x.astype(self.dtype)
        x = self._conv("conv1", 96, 11, x, stride=4, padding=(right_bottom, right_bottom))
        x = self._after(model.layer1, x)
        x = self._conv("conv2", 256, 5, x, padding=2, groups=columns)
        x = self._after(model.layer2, x, spatial=model.spatial_norm2)
        x = nn.relu(self._conv("conv3", 384, 3, x, padding=1))  # the columns meet
        x = nn.relu(self._conv("conv4", 384, 3, x, padding=1, groups=columns))
        x = nn.relu(self._conv("conv5", 256, 3, x, padding=1, groups=columns))
        x = layers.overlapping_max_pool(x)
        x = x.reshape(x.shape[0], -1)
        x = self._dropout(nn.relu(self._fc("fc6", self._wide(4096), x)), dropout_keys, 6)
        x = self._dropout(nn.relu(self._fc("fc7", self._wide(4096), x)), dropout_keys, 7)
        return self._fc("fc8", self.num_classes, x).astype(jnp.float32)

    def _wide(self, channels: int) -> int:
        return round(channels * self.config.width)

    def _conv(
        self,
        name: str,
        channels: int,
        size: int,
        x: jax.Array,
        stride: int = 1,
        padding: int | layers.Padding = 0,
        groups: int = 1,
    ) -> jax.Array:
        layer = Conv(
            self._wide(channels),
            size,
            _kernel_init(self.config, name),
            _bias_init(self.config, name),
            stride,
            padding,
            groups,
            self.dtype,
            name=name,
        )
        return self._kept(name, layer(x))

    def _fc(self, name: str, units: int, x: jax.Array) -> jax.Array:
        layer = nn.Dense(
            units,
            dtype=self.dtype,
            kernel_init=_kernel_init(self.config, name),
            bias_init=_bias_init(self.config, name),
            name=name,
        )
        return self._kept(name, layer(x))

    def _kept(self, name: str, x: jax.Array) -> jax.Array:
        # Free unless a caller asks for the collection: it names the layer where a NaN began.
        self.sow("intermediates", f"{name}_output", x)
        return x

    def _after(self, order: str, x: jax.Array, spatial: bool = False) -> jax.Array:
        """Applies ReLU, normalisation and pooling in the order that the variant has them.

        With `spatial` the spatial norm follows the other at once (layers-145.cfg: rnorm2, cnorm2,
        pool2).
        """
        c = self.config.lrn
        constants = Lrn.named(c.convention, c.size, c.alpha, c.beta)
        groups = 1 if c.across_columns else self.config.columns
        steps: dict[str, Callable[[jax.Array], jax.Array]] = {
            "relu": nn.relu,
            "norm": lambda v: self._spatial(lrn(v, constants, groups), spatial),
            "pool": layers.overlapping_max_pool,
        }
        for step in order.split():
            x = steps[step](x)
        return x

    def _spatial(self, x: jax.Array, wanted: bool) -> jax.Array:
        return spatial_response_norm(x, SPATIAL_NORM2) if wanted else x

    def _dropout(self, x: jax.Array, keys: jax.Array | None, layer: int) -> jax.Array:
        rate = self.config.dropout_rate
        if rate == 0:
            return x
        if keys is None:
            return x * (1 - rate) if self.config.dropout_scaling == "test" else x
        x = layers.dropout(x, jax.vmap(lambda key: jax.random.fold_in(key, layer))(keys), rate)
        return x / (1 - rate) if self.config.dropout_scaling == "train" else x


def logits(
    model: AlexNet, params: Any, views: jax.Array, dropout_keys: jax.Array | None = None
) -> jax.Array:
    """Applies a module to its parameters: (B, S, S, 3) to (B, num_classes) float32."""
    return jnp.asarray(model.apply({"params": params}, views, dropout_keys))


def abstract_parameters(model: AlexNet, image_size: int) -> dict:
    """Returns the parameter tree as shapes, without computing anything."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def count_parameters(params: dict) -> int:
    """Returns how many numbers a parameter tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def build(config: ModelConfig, num_classes: int, precision: str) -> AlexNet:
    """Returns the module for a variant, with its own copy of the configuration."""
    return AlexNet(dataclasses.replace(config), num_classes, jnp.dtype(precision))
