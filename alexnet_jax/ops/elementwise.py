"""ReLU, fully connected layers and dropout as AlexNet uses them."""

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.ops import compilation, onednn


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0); for its gradient it keeps what it puts out, which the next layer needs too."""
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = compilation.in_memory(relu(x))
    return y, y


relu.defvjp(_relu_forward, lambda y, dy: (jnp.where(y > 0, dy, 0),))


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
    inputs = [part.reshape(x.shape[0], -1) for part in jnp.split(x, groups, axis=-1)]
    kernels = jnp.split(kernel, groups, axis=-1)
    outputs = [_product(i, k) for i, k in zip(inputs, kernels, strict=True)]
    return outputs[0] if groups == 1 else jnp.concatenate(outputs, axis=-1)


# Where XLA's CPU kernels change the order of their sums (seen with jaxlib 0.10.2): the columns are
# an odd number of eights, or the rows are few and the matrix is small.
TILE, FEW_ROWS, SMALL_MATRIX = 16, 64, 2**16
# From this many inputs on, XLA without YNNPACK is as fast or many times faster (with ten outputs
# half a millisecond slower) and seldom sums in another order. A device's share of the outputs has
# as many inputs, so that all meshes take the same library.
DEEP_MATRIX = 2048


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return lax.platform_dependent(x, matrix, cpu=_cpu_product, default=jnp.matmul)


def _cpu_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
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

    YNNPACK transposes the whole matrix first: fc6 to fc8 of 8 rows took 317 ms with it and 16 so,
    of 128 rows 119 and 73, on a CPU with AMX (jaxlib 0.10.2, IsDotSupportedByYnn).
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
    """Returns how many columns let a CPU sum in one order, whatever share of them is here."""
    rows, (depth, columns) = x.shape[0], matrix.shape
    least = -(-SMALL_MATRIX // depth) if rows < FEW_ROWS else columns
    return -(-max(columns, least) // TILE) * TILE


def _small_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies, where need be with columns of zeros added: a sum has its order on every mesh.

    A device with 3 channels of 24 would differ in the last bits from one with all of them; a ReLU
    near zero would make much of that, and the runs would part.
    """
    columns = matrix.shape[1]
    missing = _columns_in_order(x, matrix) - columns
    if not missing:
        return x @ matrix
    return (x @ jnp.pad(matrix, ((0, 0), (0, missing))))[:, :columns]


def keep_mask(keys: jax.Array, units: int, rate: float) -> jax.Array:
    """Draws which units stay, (B, units) bool.

    Args:
      keys: (B,) typed keys, one an example, so that the mask belongs to the example and the unit
        and not to the device that computes it.
      units: of the whole layer, over all devices.
      rate: probability of a unit being left out.
    """
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (units,)))(keys)


def dropout(x: jax.Array, keep: jax.Array) -> jax.Array:
    """Sets units to zero, without rescaling the others (paper section 4.2): (B, units) each."""
    return jnp.where(keep, x, jnp.zeros((), x.dtype))
