"""AlexNet in linen: five convolutions, three fully connected layers, two columns (paper 3.5)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from alexnet_jax.config import ModelConfig
from alexnet_jax.configs.sizes import fully_connected_units
from alexnet_jax.layers.batch_norm import BatchNorm, Mean, alone
from alexnet_jax.layers.columns import Columns
from alexnet_jax.layers.initialisation import bias_init, kernel_init
from alexnet_jax.layers.linear import Conv, FullyConnected, parameter_dtype
from alexnet_jax.ops import convolution_xla, elementwise, platform, pooling
from alexnet_jax.ops.lrn import lrn, rectified_lrn, spatial_response_norm
from alexnet_jax.ops.lrn_formula import Lrn
from alexnet_jax.ops.lrn_sharded import lrn_between

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
FULLY_CONNECTED = ("fc6", "fc7", "fc8")
LAYERS = CONVOLUTIONS + FULLY_CONNECTED
SPATIAL_NORM2 = Lrn(size=5, scale=0.001 / 25, beta=0.75, k=1.0)  # layer-params-145.cfg, cnorm2


class AlexNet(nn.Module):
    """The network of 2012.

    Attributes:
      config: its variant; see `ModelConfig` for what can differ and why.
      num_classes: width of fc8.
      dtype: of the computation; parameters are float32, or float64 where it is.
      columns: the share of the channels that is computed here; by default all of them.
      over_devices: averages over the devices that share a batch, for batch normalisation.
    """

    config: ModelConfig
    num_classes: int = 1000
    dtype: jnp.dtype = jnp.dtype("float32")
    columns: Columns = Columns()
    over_devices: Mean = alone

    def setup(self) -> None:
        """Names the eight layers; `groups` are the columns that are computed here side by side."""
        c1, c2, c3, c4, c5 = self.config.channels
        here = self.columns.here
        together = 1 if self.config.columns_meet else here
        corner = (self.config.conv1_padding_before, self.config.conv1_padding)
        self.conv1 = self._conv("conv1", c1, 11, stride=4, padding=(corner, corner))
        self.conv2 = self._conv("conv2", c2, 5, padding=self.config.conv2_padding, groups=here)
        self.conv3 = self._conv("conv3", c3, 3, padding=1, groups=together)
        self.conv4 = self._conv("conv4", c4, 3, padding=1, groups=here)
        self.conv5 = self._conv("conv5", c5, 3, padding=self.config.conv5_padding, groups=here)
        if self.config.normalisation == "batch":
            self.norm1, self.norm2, self.norm3, self.norm4, self.norm5 = (
                BatchNorm() for _ in CONVOLUTIONS
            )
        units = fully_connected_units(self.config)
        self.fc6 = self._fc("fc6", self._wide(units["fc6"]), together)
        self.fc7 = self._fc("fc7", self._wide(units["fc7"]), together)
        self.fc8 = self._fc("fc8", self.num_classes)

    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Computes logits.

        Args:
          x: centred RGB images, (B, S, S, 3).
          dropout_keys: (B,) typed keys when training; None when evaluating.

        Returns:
          Logits of every class, (B, num_classes), float32 (or float64).
        """
        return self.classify(self.features(x, dropout_keys is not None), dropout_keys)

    def features(self, x: jax.Array, training: bool = False) -> jax.Array:
        """Maps images (B, S, S, 3) to what this device's part of fc6 reads, (B, S', S', C)."""
        own, both = self.columns.join, self._meet
        x = self._after(1, self._apply("conv1", x.astype(self.dtype)), training)
        x = self._after(2, self._apply("conv2", x, own), training)
        x = self._after(3, self._apply("conv3", x, both), training)
        x = self._after(4, self._apply("conv4", x, own), training)
        x = self._after(5, self._apply("conv5", x, own), training)
        with jax.named_scope("fc6"):
            return both(x)

    def classify(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Maps what `features` returns to logits, (B, num_classes)."""
        x = self._dropout(x, dropout_keys, "pool5")
        x = self._dropout(elementwise.relu(self._apply("fc6", x)), dropout_keys, "fc6")
        x = self._dropout(elementwise.relu(self._apply("fc7", x, self._meet)), dropout_keys, "fc7")
        x = self._apply("fc8", x, self.columns.meet)
        with jax.named_scope("logits"):
            x = self.columns.meet(x)
        # What is cut off padded fc8 to equal shares.
        return x[:, : self.num_classes].astype(parameter_dtype(self.dtype))

    def _meet(self, x: jax.Array) -> jax.Array:
        """What both columns computed: the crossing arrows of figure 2 (none in run #150)."""
        return self.columns.meet(x) if self.config.columns_meet else self.columns.join(x)

    def _wide(self, channels: int) -> int:
        return round(channels * self.config.width)

    def _conv(
        self,
        name: str,
        channels: int,
        size: int,
        stride: int = 1,
        padding: int | convolution_xla.Padding = 0,
        groups: int = 1,
    ) -> Conv:
        return Conv(
            self.columns.share(self._wide(channels)),
            size,
            kernel_init(self.config, name),
            bias_init(self.config, name),
            stride,
            padding,
            groups,
            self.dtype,
        )

    def _fc(self, name: str, units: int, groups: int = 1) -> FullyConnected:
        return FullyConnected(
            self.columns.share(units),
            kernel_init(self.config, name),
            bias_init(self.config, name),
            groups,
            self.dtype,
        )

    def _apply(
        self, layer: str, x: jax.Array, see: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        """Applies a layer to what it sees of x; its output is kept for who asks for it."""
        if layer in self.config.without:
            return x
        with jax.named_scope(layer):  # also names its collectives
            y = getattr(self, layer)(see(x) if see else x)
        self.sow("intermediates", f"{layer}_output", y)
        return y

    def _after(self, layer: int, x: jax.Array, training: bool) -> jax.Array:
        """Applies ReLU, normalisation and pooling in the order that the variant has them.

        What a GPU convolves apart stays apart, so that nothing is copied. In layer 2 the spatial
        norm, where there is one, follows the other at once (layers-145.cfg: rnorm2, cnorm2, pool2).
        """
        spatial = layer == 2 and self.config.spatial_norm2
        apart = self._apart(layer)
        steps: dict[str, Callable[[jax.Array], jax.Array]] = {
            "relu": elementwise.relu,
            "norm": lambda v: self._spatial(self._norm(layer, v, training, apart), spatial),
            "relu_norm": lambda v: rectified_lrn(v, self._constants(), self._groups(apart)),
            "pool": pooling.MAX_POOLS[self.config.pool_size],
        }
        parts = jnp.split(x, apart, axis=-1)
        for step in self._order(layer, spatial):
            with jax.named_scope(f"{step}{layer}"):
                parts = [steps[step](part) for part in parts]
        return parts[0] if apart == 1 else jnp.concatenate(parts, axis=-1)

    def _order(self, layer: int, spatial: bool) -> list[str]:
        """Names a layer's steps; ReLU and the norm after it as one, whose gradient is faster.

        Not where the windows need another device's channels, or the spatial norm comes between.
        """
        order = getattr(self.config, f"layer{layer}").split()
        alone = self.columns.share_windows(self.config.lrn.across_columns) == 1
        if self.config.normalisation != "local" or spatial or not alone:
            return order
        return " ".join(order).replace("relu norm", "relu_norm").split()

    def _apart(self, layer: int) -> int:
        """In how many arrays a layer's columns go on after its convolution."""
        c = self.config
        if c.normalisation != "local" or c.lrn.across_columns or f"conv{layer}" in c.without:
            return 1
        return getattr(self, f"conv{layer}").groups if platform.columns_apart() else 1

    def _norm(self, layer: int, x: jax.Array, training: bool, apart: int) -> jax.Array:
        if self.config.normalisation == "local":
            return self._lrn(x, apart)
        return getattr(self, f"norm{layer}")(x, self.over_devices if training else None)

    def _lrn(self, x: jax.Array, apart: int) -> jax.Array:
        c = self.config.lrn
        edges = self.columns.edges(x, c.size // 2, c.across_columns)
        if edges is not None:
            return lrn_between(x, edges, self._constants())
        return lrn(x, self._constants(), self._groups(apart))

    def _constants(self) -> Lrn:
        c = self.config.lrn
        return Lrn.named(c.convention, c.size, c.alpha, c.beta)

    def _groups(self, apart: int) -> int:
        """Groups of channels, in each of the arrays, that windows do not leave."""
        return 1 if self.config.lrn.across_columns else self.columns.here // apart

    def _spatial(self, x: jax.Array, wanted: bool) -> jax.Array:
        return spatial_response_norm(x, SPATIAL_NORM2) if wanted else x

    def _dropout(self, x: jax.Array, keys: jax.Array | None, layer: str) -> jax.Array:
        rate = self.config.dropout_rate
        dropped = set(self.config.dropout_after) - set(self.config.without)
        if rate == 0 or layer not in dropped:
            return x
        if keys is None:
            return x * (1 - rate) if self.config.dropout_scaling == "test" else x
        keys = jax.vmap(lambda key: jax.random.fold_in(key, int(layer[-1])))(keys)
        if layer == "pool5":  # every device reads all of it
            keep = elementwise.keep_mask(keys, math.prod(x.shape[1:]), rate).reshape(x.shape)
        else:
            keep = elementwise.keep_mask(
                keys, self._wide(fully_connected_units(self.config)[layer]), rate
            )
            keep = self.columns.own_units(keep)
        x = elementwise.dropout(x, keep)
        return x / (1 - rate) if self.config.dropout_scaling == "train" else x


def of_convolutions(params: Any) -> Any:
    """Returns the part of a parameter tree that `AlexNet.features` reads."""
    return {layer: params[layer] for layer in params if layer not in FULLY_CONNECTED}


def of_classifier(params: Any) -> Any:
    """Returns the part of a parameter tree that `AlexNet.classify` reads."""
    return {layer: params[layer] for layer in params if layer in FULLY_CONNECTED}


def own_parameters(model: AlexNet, params: Any) -> Any:
    """Cuts a device's part out of what every device holds: fc8, where the classes do not divide.

    Args:
      model: from `on_devices`.
      params: what `mesh.specs` gives the device of the standard tree.
    """
    if model.num_classes % model.columns.devices == 0:
        return params
    return params | {"fc8": jax.tree.map(model.columns.own_units, params["fc8"])}


def logits(
    model: AlexNet, params: Any, views: jax.Array, dropout_keys: jax.Array | None = None
) -> jax.Array:
    """Applies a module to what its device holds of the parameters.

    Returns:
      (B, num_classes) float32 from (B, S, S, 3), equal on the devices that share the channels.
    """
    own = own_parameters(model, params)
    return jnp.asarray(model.apply({"params": own}, views, dropout_keys))


def abstract_parameters(model: AlexNet, image_size: int) -> dict:
    """Returns the parameter tree as shapes, without computing anything."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def count_parameters(params: dict) -> int:
    """Returns how many numbers a parameter tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def build(config: ModelConfig, num_classes: int, precision: str) -> AlexNet:
    """Returns the module for a variant, with its own copy of the configuration."""
    columns = Columns(config.columns)
    return AlexNet(dataclasses.replace(config), num_classes, jnp.dtype(precision), columns)


def on_devices(model: AlexNet, devices: int) -> AlexNet:
    """Returns the module as one of `devices` that share its channels computes it."""
    return model.clone(columns=Columns(model.columns.count, devices))
