"""AlexNet in linen: five convolutions, three fully connected layers, two columns (paper 3.5)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from alexnet_jax.config import CONVOLUTIONS, ModelConfig
from alexnet_jax.configs import sizes
from alexnet_jax.configs.sizes import fully_connected_units
from alexnet_jax.layers.batch_norm import BatchNorm, Mean
from alexnet_jax.layers.columns import Columns
from alexnet_jax.layers.dropout import Dropout
from alexnet_jax.layers.initialisation import bias_init, kernel_init
from alexnet_jax.layers.linear import Conv, FullyConnected, left_out, parameter_dtype
from alexnet_jax.layers.stage import Stage
from alexnet_jax.ops.convolution_xla import Padding
from alexnet_jax.ops.elementwise import ACTIVATIONS

Layer = Callable[..., jax.Array]


class AlexNet(nn.Module):
    """The network of 2012.

    Attributes:
      config: its variant; see `ModelConfig` for what can differ and why.
      num_classes: width of fc8.
      dtype: of the computation; parameters are float32, or float64 where it is.
      columns: the share of the channels that is computed here; by default all of them.
      over_devices: averages over the devices that share a batch, for batch normalisation when
        training; None when evaluating.
      frozen: layers whose batch normalisation uses its running statistics when training too.
    """

    config: ModelConfig
    num_classes: int = 1000
    dtype: jnp.dtype = jnp.dtype("float32")
    columns: Columns = Columns()
    over_devices: Mean | None = None
    frozen: tuple[str, ...] = ()

    def setup(self) -> None:
        """Names the layers; `groups` are the columns that are computed here side by side."""
        c = self.config
        apart = self.columns.here
        together = 1 if c.columns_meet else apart
        corner = (c.conv1_padding_before, c.conv1_padding)
        self.conv1 = self._conv("conv1", 11, (corner, corner), stride=4)
        self.conv2 = self._conv("conv2", 5, c.conv2_padding, apart)
        self.conv3 = self._conv("conv3", 3, 1, together)
        self.conv4 = self._conv("conv4", 3, 1, apart)
        self.conv5 = self._conv("conv5", 3, c.conv5_padding, apart)
        if c.normalisation == "batch":
            self.norm1, self.norm2, self.norm3, self.norm4, self.norm5 = (
                BatchNorm(None if layer in self.frozen else self.over_devices)
                for layer in CONVOLUTIONS
            )
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = (
            Stage(c, n, self.columns, getattr(self, f"norm{n}", None)) for n in range(1, 6)
        )
        if c.conv6_channels:
            self.conv6 = self._conv("conv6", 3, 1, together)
        units = fully_connected_units(c)
        self.fc6 = self._fc("fc6", self._wide(units["fc6"]), together)
        self.fc7 = self._fc("fc7", self._wide(units["fc7"]), together)
        if c.fc7_linear_units:
            self.fc7_linear = self._fc("fc7_linear", self._wide(units["fc7_linear"]))
        self.fc8 = self._fc("fc8", self.num_classes)
        self.activation = ACTIVATIONS[c.activation]
        self.activation6, self.activation7 = (
            left_out if layer in c.without else self.activation for layer in ("fc6", "fc7")
        )
        self.dropout = Dropout(c, self.columns)

    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Computes logits.

        Args:
          x: centred RGB images, (B, S, S, 3).
          dropout_keys: (B,) typed keys when training; None when evaluating.

        Returns:
          Logits of every class, (B, num_classes), float32 (or float64).
        """
        return self.classify(self.features(x), dropout_keys)

    def features(self, x: jax.Array) -> jax.Array:
        """Maps images (B, S, S, 3) to what this device's part of fc6 reads, (B, S', S', C).

        Shapes are the paper's, of both columns together; a device has its share of the channels.
        """
        join, both = self.columns.join, self._meet
        x = self.stage1(self.conv1(x.astype(self.dtype)))  # (B, 27, 27, 96)
        x = self.stage2(self.conv2(x, join))  # (B, 13, 13, 256)
        x = self.stage3(self.conv3(x, both))  # (B, 13, 13, 384)
        x = self.stage4(self.conv4(x, join))  # (B, 13, 13, 384)
        x = self.stage5(self.conv5(x, join))  # (B, 6, 6, 256)
        if self.config.conv6_channels:
            x = self.activation(self.conv6(x, both))  # (B, 6, 6, 256)
        with jax.named_scope("fc6"):
            return both(x)

    def classify(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Maps what `features` returns to logits, (B, num_classes)."""
        x = self.dropout(x, dropout_keys, "pool5")
        x = self.activation6(self.fc6(x))  # (B, 4096)
        x = self.dropout(x, dropout_keys, "fc6")
        x = self.activation7(self.fc7(x, self._meet))  # (B, 4096)
        x = self.dropout(x, dropout_keys, "fc7")
        if self.config.fc7_linear_units:
            x = self.fc7_linear(x, self.columns.meet)  # (B, 2048)
        x = self.fc8(x, self.columns.meet)  # (B, 1000)
        with jax.named_scope("logits"):
            x = self.columns.meet(x)
        # Drop the classes that pad fc8 to equal shares.
        return x[:, : self.num_classes].astype(parameter_dtype(self.dtype))

    def _meet(self, x: jax.Array) -> jax.Array:
        """What both columns computed: the crossing arrows of figure 2 (none in run #150)."""
        return self.columns.meet(x) if self.config.columns_meet else self.columns.join(x)

    def _wide(self, channels: int) -> int:
        return round(channels * self.config.width)

    def _conv(
        self, name: str, size: int, padding: int | Padding, groups: int = 1, stride: int = 1
    ) -> Layer:
        if name in self.config.without:
            return left_out
        channels = self._wide(sizes.channels(self.config)[name])
        return Conv(
            self.columns.share(channels),
            size,
            kernel_init(self.config, name),
            bias_init(self.config, name),
            stride,
            padding,
            groups,
            self.dtype,
        )

    def _fc(self, name: str, units: int, groups: int = 1) -> Layer:
        if name in self.config.without:
            return left_out
        return FullyConnected(
            self.columns.share(units),
            kernel_init(self.config, name),
            bias_init(self.config, name),
            groups,
            self.dtype,
        )


def build(config: ModelConfig, num_classes: int, precision: str) -> AlexNet:
    """Returns the module for a variant, with its own copy of the configuration."""
    columns = Columns(config.columns)
    return AlexNet(dataclasses.replace(config), num_classes, jnp.dtype(precision), columns)


def on_devices(model: AlexNet, devices: int) -> AlexNet:
    """Returns the module for one of `devices` that share its channels."""
    return model.clone(columns=Columns(model.columns.count, devices))
