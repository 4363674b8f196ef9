"""Fully connected layers: products of an image's values with a matrix, on every back end."""

import jax
import jax.numpy as jnp

from alexnet_jax.ops import matmul_cpu, platform


def fully_connected(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    """Multiplies all of an image's values with a matrix; groups see their own channels only.

    Args:
      x: (B, ..., C).
      kernel: (values of an image / groups, units), group 0's units first; the values of a group
        are in the order of its (..., C / groups).
      groups: number of channel groups that do not see each other.

    Returns:
      (B, units).
    """
    product = platform.choose(reference=jnp.matmul, cpu=matmul_cpu.product)
    inputs = [part.reshape(x.shape[0], -1) for part in jnp.split(x, groups, axis=-1)]
    kernels = jnp.split(kernel, groups, axis=-1)
    outputs = [product(i, k) for i, k in zip(inputs, kernels, strict=True)]
    return outputs[0] if groups == 1 else jnp.concatenate(outputs, axis=-1)
