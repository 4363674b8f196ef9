"""Images of a split by their index, on the device that holds them."""

import jax

from alexnet_jax.ops import platform


def images_at(images: jax.Array, index: jax.Array) -> jax.Array:
    """Gathers whole images.

    Args:
      images: (N, R, R, 3) uint8.
      index: (b,) int32, each from 0 to N - 1.

    Returns:
      (b, R, R, 3).
    """
    return platform.choose(reference=_gathered, cpu=_copied)(images, index)


def _gathered(images: jax.Array, index: jax.Array) -> jax.Array:
    return images.at[index].get(mode="promise_in_bounds")


def _copied(images: jax.Array, index: jax.Array) -> jax.Array:
    """A CPU copies whole images, one after the other; its gather looks up each number."""
    return jax.lax.map(lambda i: jax.lax.dynamic_index_in_dim(images, i, keepdims=False), index)
