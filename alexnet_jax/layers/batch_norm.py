"""Batch normalisation over every device's images, without scale and offset (Ioffe, Szegedy 2015).

The running mean and variance that evaluation uses are parameters: their loss is half the squared
distance from the batch's own, so that their gradient is that distance, and an update with rate
1 - decay is the usual running average. So they are sharded, saved, summed and averaged like every
other parameter. The optimizer gives them no momentum and no decay (`optimizer.is_statistic`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers

EPSILON = 1e-5
Mean = Callable[[jax.Array], jax.Array]  # over the devices that share the images


def alone(x: jax.Array) -> jax.Array:
    """Averages over one device."""
    return x


class BatchNorm(nn.Module):
    """Normalises each map over the batch and its pixels; `mean` and `variance` are (C,)."""

    @nn.compact
    def __call__(self, x: jax.Array, over_devices: Mean | None) -> jax.Array:
        """Maps (B, H, W, C) to an array like it.

        Args:
          x: activations.
          over_devices: averages what the devices that share a batch know, when training; None
            when evaluating, by the running statistics.
        """
        shape = (x.shape[-1],)
        running = {
            "mean": self.param("mean", initializers.zeros, shape),
            "variance": self.param("variance", initializers.ones, shape),
        }
        if over_devices is None:
            return _normalised(x, running["mean"], running["variance"])
        wide = x.astype(running["mean"].dtype)
        moments = jnp.stack([wide.mean((0, 1, 2)), (wide * wide).mean((0, 1, 2))])
        mean, square = over_devices(moments)
        variance = jnp.maximum(square - mean * mean, 0)
        batch = {"mean": mean, "variance": variance}
        return _followed(_normalised(x, mean, variance), running, batch)


def _normalised(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    y = (x.astype(mean.dtype) - mean) / jnp.sqrt(variance + EPSILON)
    return y.astype(x.dtype)


@jax.custom_vjp
def _followed(y: jax.Array, running: Any, batch: Any) -> jax.Array:
    """Returns y; `running` has a gradient, its distance from `batch` for each image of y."""
    return y


def _followed_forward(y: jax.Array, running: Any, batch: Any) -> tuple[jax.Array, Any]:
    images = len(y)
    return y, jax.tree.map(lambda r, b: images * (r - b), running, batch)


def _followed_backward(distance: Any, dy: jax.Array) -> tuple[jax.Array, Any, Any]:
    return dy, distance, jax.tree.map(jnp.zeros_like, distance)


_followed.defvjp(_followed_forward, _followed_backward)
