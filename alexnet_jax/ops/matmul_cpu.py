"""Matrix products for a CPU: oneDNN's where they can be called, else the forms fastest in XLA."""

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.ops import onednn

# XLA's CPU kernels change the order of their sums (seen with jaxlib 0.10.2) where the columns are
# an odd multiple of eight, or the rows are few and the matrix is small.
TILE, FEW_ROWS, SMALL_MATRIX = 16, 64, 2**16
# From this many inputs on, XLA without YNNPACK is as fast or many times faster (with ten outputs
# half a millisecond slower), and seldom changes the order of a sum. A device's share of the outputs
# has as many inputs as all of them, so every mesh uses the same library.
DEEP_MATRIX = 2048

# Inference multiplies by blocks of so many columns, each contiguous in memory: oneDNN reads them as
# they are, but rearranges a matrix of many columns at every call.
BLOCK, LEAST_PACKED = 32, 2**21  # numbers in a matrix: a smaller one stays in a cache


def pack(matrix: jax.Array) -> jax.Array | None:
    """Returns the blocks that `packed_product` takes, (ceil(units / 32), depth, 32), with zeros in
    the last; None where they gain nothing."""
    depth, units = matrix.shape
    if depth * units < LEAST_PACKED or not onednn.takes(matrix, matrix):
        return None
    matrix = jnp.pad(matrix, ((0, 0), (0, -units % BLOCK)))
    return matrix.reshape(depth, -1, BLOCK).swapaxes(0, 1)


def packed_product(x: jax.Array, packed: jax.Array, units: int) -> jax.Array:
    """Multiplies (B, depth) with what `pack` returned, to (B, units).

    Of fc6 and fc7 at full width the bits are those of `onednn.product`.
    """
    blocks = onednn.products(x[None], packed)
    return blocks.swapaxes(0, 1).reshape(len(x), -1)[:, :units]


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies (B, depth) with (depth, units), by the library that is fastest at it."""
    if onednn.takes(x, matrix):
        return _onednn_product(x, matrix)
    if matrix.shape[0] >= DEEP_MATRIX:
        return _deep_product(x, matrix)
    return _small_product(x, matrix)


@jax.custom_vjp
def _onednn_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return onednn.product(x, matrix)


def _product_forward(
    x: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _onednn_product(x, matrix), (x, matrix)


def _product_backward(
    residual: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, matrix = residual
    dx = onednn.product(dy, matrix, transpose_b=True)
    return dx, onednn.product(x, dy, transpose_a=True)


_onednn_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _deep_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies rows that are stored as columns, which keeps XLA from using YNNPACK.

    YNNPACK transposes the whole matrix first. On a CPU with AMX, fc6 to fc8 took 317 ms with it and
    16 this way for 8 rows, 119 and 73 for 128 (jaxlib 0.10.2, IsDotSupportedByYnn).
    """
    columns = lax.optimization_barrier(x.T)
    return lax.dot_general(columns, matrix, (((0,), (0,)), ((), ())))


def _deep_forward(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _deep_product(x, matrix), (x, matrix)


def _deep_backward(
    residual: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, matrix = residual
    return dy @ matrix.T, x.T @ dy


_deep_product.defvjp(_deep_forward, _deep_backward)


def _columns_in_order(x: jax.Array, matrix: jax.Array) -> int:
    """Returns how many columns a CPU needs to sum any share of them in the same order."""
    rows, (depth, columns) = x.shape[0], matrix.shape
    least = -(-SMALL_MATRIX // depth) if rows < FEW_ROWS else columns
    return -(-max(columns, least) // TILE) * TILE


def _small_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies, and adds columns of zeros where needed, to sum in the same order on every mesh.

    A device with 3 of 24 channels would otherwise differ in the last bits from one with all of
    them; a ReLU near zero would amplify that, and the runs would diverge.
    """
    columns = matrix.shape[1]
    missing = _columns_in_order(x, matrix) - columns
    if not missing:
        return x @ matrix
    return (x @ jnp.pad(matrix, ((0, 0), (0, missing))))[:, :columns]
