"""Batch normalisation over every device's images, without scale and offset (Ioffe, Szegedy 2015).

The running mean and variance that evaluation uses are the collection `batch_stats`: no gradient
reaches them, and each update moves them a tenth of the way to the batch's own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

EPSILON = 1e-5
RATE = 0.1  # of the distance to a batch's own statistics, in one update
Mean = Callable[[jax.Array], jax.Array]  # over the devices that share the images


def alone(x: jax.Array) -> jax.Array:
    """Averages over one device."""
    return x


class BatchNorm(nn.Module):
    """Normalises each map over the batch and its pixels; `mean` and `variance` are (C,).

    Attributes:
      over_devices: averages over the devices that share a batch, when training; None when
        evaluating, which uses the running statistics.
    """

    over_devices: Mean | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to an array like it; training changes `batch_stats`."""
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "variance", jnp.ones, shape)
        if self.over_devices is None:
            return _normalised(x, running_mean.value, running_variance.value)
        wide = x.astype(running_mean.value.dtype)
        moments = jnp.stack([wide.mean((0, 1, 2)), (wide * wide).mean((0, 1, 2))])
        mean, square = self.over_devices(moments)
        variance = jnp.maximum(square - mean * mean, 0)
        for running, statistic in ((running_mean, mean), (running_variance, variance)):
            followed = jax.lax.stop_gradient(statistic)
            running.value = running.value - RATE * (running.value - followed)
        return _normalised(x, mean, variance)


def _normalised(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    y = (x.astype(mean.dtype) - mean) / jnp.sqrt(variance + EPSILON)
    return y.astype(x.dtype)
