"""The small networks of the experiments on CIFAR-10."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers

from alexnet_jax.ops import convolution, matmul, pooling
from alexnet_jax.ops.lrn import lrn
from alexnet_jax.ops.lrn_formula import Lrn

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh}
# layer-params-cifar10-11pct.cfg: scale 0.001, pow 0.75, over 9 maps; layer.py divides the scale by
# their number, and cuda-convnet2's default minDiv is 1.
NORM = Lrn(size=9, scale=0.001 / 9, beta=0.75, k=1.0)


def pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2 whose last window may reach past the edge: 24 -> 12 -> 6.

    cuda-convnet takes ceil((side - 3) / 2) + 1 windows (`outputsX=0`).
    """
    missing = [(side - 3) % 2 for side in x.shape[1:3]]
    border = ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))
    return pooling.overlapping_max_pool(jnp.pad(x, border, constant_values=-jnp.inf))


class Conv(nn.Module):
    """A convolution with as many outputs a side as inputs, and biases."""

    features: int
    size: int
    kernel_init: initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H, W, features)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", initializers.zeros, (self.features,))
        return convolution.conv(x, kernel, padding=self.size // 2) + bias


class Local(nn.Module):
    """A convolution whose kernel and bias are each place's own (`type=local`).

    flax.linen.ConvLocal is the same sum; its gradient takes fifteen times longer on a CPU.
    """

    features: int
    size: int
    kernel_init: initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H, W, features)."""
        batch, height, width, channels = x.shape
        border = (self.size // 2, self.size // 2)
        padded = jnp.pad(x, ((0, 0), border, border, (0, 0)))
        sides = [(i, j) for i in range(self.size) for j in range(self.size)]
        seen = jnp.stack([padded[:, i : i + height, j : j + width] for i, j in sides], axis=3)
        places, inputs = height * width, self.size * self.size * channels
        kernel = self.param("kernel", self.kernel_init, (places, inputs, self.features))
        bias = self.param("bias", initializers.zeros, (places, self.features))
        y = jnp.einsum("bpi,pio->bpo", seen.reshape(batch, places, inputs), kernel) + bias
        return y.reshape(batch, height, width, self.features)


class FullyConnected(nn.Module):
    """A matrix with biases."""

    features: int
    kernel_init: initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, ...) to (B, features)."""
        shape = (math.prod(x.shape[1:]), self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", initializers.zeros, (self.features,))
        return matmul.fully_connected(x, kernel) + bias


class FourLayers(nn.Module):
    """Figure 1's "four-layer convolutional network", whose sizes the paper does not give.

    Three convolutions 5x5 of 32, 32 and 64 kernels, each followed by the activation and pooling,
    and ten classes: cuda-convnet's small net.

    Attributes:
      activation: relu or tanh.
      deviations: of the kernels of conv1, conv2, conv3 and fc4; none: sqrt(1 / inputs).
    """

    activation: str
    deviations: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps centred images (B, S, S, 3) to logits (B, 10)."""
        drawn = [initializers.normal(deviation) for deviation in self.deviations]
        *convolutions, last = drawn or [initializers.lecun_normal()] * 4
        for number, (features, init) in enumerate(zip((32, 32, 64), convolutions, strict=True), 1):
            x = pool(ACTIVATIONS[self.activation](Conv(features, 5, init, name=f"conv{number}")(x)))
        return FullyConnected(10, last, name="fc4")(x)


class LocalNet(nn.Module):
    """The authors' nets of two convolutions and two locally connected layers.

    Attributes:
      local3: kernels of local3: 32 in layers-conv-local-13pct.cfg, 64 in layers-cifar10-11pct.cfg.
      normalise: normalise after pool1 and conv2, as the second file does.
    """

    local3: int
    normalise: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps centred images (B, 24, 24, 3) to logits (B, 10)."""
        normal = initializers.normal
        x = pool(nn.relu(Conv(64, 5, normal(0.0001), name="conv1")(x)))
        x = self._norm(x)
        x = nn.relu(Conv(64, 5, normal(0.01), name="conv2")(x))
        x = pool(self._norm(x))
        x = nn.relu(Local(self.local3, 3, normal(0.04), name="local3")(x))
        x = nn.relu(Local(32, 3, normal(0.04), name="local4")(x))
        return FullyConnected(10, normal(0.01), name="fc10")(x)

    def _norm(self, x: jax.Array) -> jax.Array:
        return lrn(x, NORM) if self.normalise else x
