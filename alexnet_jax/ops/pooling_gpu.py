"""The gradient of overlapping max pooling for a GPU: without branches."""

import jax
import jax.numpy as jnp
from jax import lax


def gradient_by_place(x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
    """Each input looks up the four windows that it lies in: no branches for a GPU.

    An input that lies in only one row or column of windows finds it twice, and halves the sum. In
    this order of summation, halving is exact.
    """
    rest = [(0, n - min(n, 2 * m + 1)) for n, m in zip(x.shape[1:3], y.shape[1:3], strict=True)]
    x = x[:, : 2 * y.shape[1] + 1, : 2 * y.shape[2] + 1]
    (rows, of_rows), (columns, of_columns) = (_windows_of_places(x, y, axis) for axis in (1, 2))

    def in_column(column: jax.Array) -> jax.Array:
        gradients = (jnp.where(x == _at(y, r, column), _at(dy, r, column), 0) for r in rows)
        upper, lower = (part.astype(jnp.promote_types(x.dtype, jnp.float32)) for part in gradients)
        return upper + lower

    total = (in_column(columns[0]) + in_column(columns[1])) * (of_rows * of_columns)
    return jnp.pad(total.astype(x.dtype), ((0, 0), *rest, (0, 0)))


def _at(maps: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.take(jnp.take(maps, rows, axis=1, mode="clip"), columns, axis=2, mode="clip")


def _windows_of_places(
    x: jax.Array, y: jax.Array, axis: int
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Returns the two windows that places of an axis lie in, and 1/2 where they are the same."""
    # The barrier hides this zero from XLA, which would otherwise build tables of the windows and
    # read them.
    place = lax.iota(jnp.int32, x.shape[axis]) + lax.optimization_barrier(jnp.int32(0))
    last = y.shape[axis] - 1
    first = jnp.minimum(place >> 1, last)
    second = jnp.maximum(place - 1, 0) >> 1
    half = jnp.where(first == second, 0.5, 1).astype(jnp.promote_types(x.dtype, jnp.float32))
    return (first, second), lax.broadcast_in_dim(half, x.shape, (axis,))
