"""Fully connected layers: products of an image's values with a matrix, on every back end."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from alexnet_jax.ops import matmul_cpu, platform

Product = Callable[[jax.Array, jax.Array], jax.Array]


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
    return _of_groups(product, x, jnp.split(kernel, groups, axis=-1))


def pack(kernel: jax.Array, groups: int = 1) -> jax.Array | None:
    """Repacks a matrix for `packed`; None where no layout is faster. Arguments as of
    `fully_connected`."""
    way = platform.choose(reference=_unpacked, cpu=matmul_cpu.pack)
    parts = [way(part) for part in jnp.split(kernel, groups, axis=-1)]
    return None if parts[0] is None else jnp.stack(parts)


def packed(x: jax.Array, kernels: jax.Array, units: int) -> jax.Array:
    """Multiplies as `fully_connected` does, with what `pack` returned, to (B, units)."""
    product = functools.partial(matmul_cpu.packed_product, units=units // len(kernels))
    return _of_groups(product, x, list(kernels))


def _unpacked(matrix: jax.Array) -> None:
    return None


def _of_groups(product: Product, x: jax.Array, kernels: list[jax.Array]) -> jax.Array:
    inputs = [part.reshape(x.shape[0], -1) for part in jnp.split(x, len(kernels), axis=-1)]
    outputs = [product(i, k) for i, k in zip(inputs, kernels, strict=True)]
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
