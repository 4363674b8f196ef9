"""Max pooling, whose gradient goes to every maximum of a window (paper section 3.4)."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2, no padding (paper section 3.4).

    Where several inputs of a window share its maximum each gets the whole gradient, as in the
    authors' kernels; XLA's and PyTorch's own pooling give it to the first. Ties are zeros after a
    ReLU, which passes nothing back, or parts of an image that is the same colour all over.

    Args:
      x: (B, H, W, C), H and W at least 3.

    Returns:
      (B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C).
    """
    return _stride_two_max(_stride_two_max(x, 1), 2)


def non_overlapping_max_pool(x: jax.Array) -> jax.Array:
    """2x2 maximum with stride 2; the last window may reach past the edge (run #147).

    Args:
      x: (B, H, W, C).

    Returns:
      (B, ceil(H / 2), ceil(W / 2), C).
    """
    batch, height, width, channels = x.shape
    border = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    x = jnp.pad(x, border, constant_values=-jnp.inf)
    return x.reshape(batch, x.shape[1] // 2, 2, x.shape[2] // 2, 2, channels).max(axis=(2, 4))


def _stride_two_max(x: jax.Array, axis: int) -> jax.Array:
    count = (x.shape[axis] - 3) // 2 + 1
    end = 2 * count - 1
    shifted = (lax.slice_in_dim(x, i, i + end, 2, axis) for i in range(3))
    return functools.reduce(jnp.maximum, shifted)


def _pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = overlapping_max_pool(x)
    return y, (x, y)


def _pool_backward(residual: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
    x, y = residual
    by_place, by_parity = _pool_gradient_by_place, _pool_gradient_by_parity
    return (lax.platform_dependent(x, y, dy, cuda=by_place, default=by_parity),)


def _pool_gradient_by_place(x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
    """Each input looks up the four windows that it lies in: no branches for a GPU.

    Where it lies in one row or column of windows it finds that one twice, and takes the half. In
    this order of the sums that is exact.
    """
    rest = [(0, n - min(n, 2 * m + 1)) for n, m in zip(x.shape[1:3], y.shape[1:3], strict=True)]
    x = x[:, : 2 * y.shape[1] + 1, : 2 * y.shape[2] + 1]
    (rows, of_rows), (columns, of_columns) = (_windows_of_places(x, y, axis) for axis in (1, 2))

    def in_column(column: jax.Array) -> jax.Array:
        found = (jnp.where(x == _at(y, r, column), _at(dy, r, column), 0) for r in rows)
        upper, lower = (part.astype(jnp.promote_types(x.dtype, jnp.float32)) for part in found)
        return upper + lower

    total = (in_column(columns[0]) + in_column(columns[1])) * (of_rows * of_columns)
    return jnp.pad(total.astype(x.dtype), ((0, 0), *rest, (0, 0)))


def _at(maps: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.take(jnp.take(maps, rows, axis=1, mode="clip"), columns, axis=2, mode="clip")


def _windows_of_places(
    x: jax.Array, y: jax.Array, axis: int
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Returns the two windows that places of an axis lie in, and 1/2 where they are the same."""
    # A zero that XLA does not know of; else it reads the windows from tables of its own making.
    place = lax.iota(jnp.int32, x.shape[axis]) + lax.optimization_barrier(jnp.int32(0))
    last = y.shape[axis] - 1
    first = jnp.minimum(place >> 1, last)
    second = jnp.maximum(place - 1, 0) >> 1
    half = jnp.where(first == second, 0.5, 1).astype(jnp.promote_types(x.dtype, jnp.float32))
    return (first, second), lax.broadcast_in_dim(half, x.shape, (axis,))


def _pool_gradient_by_parity(x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
    # Window r covers rows 2r .. 2r + 2: an even row lies in windows r - 1 and r, an odd one in r
    # alone, and columns alike. So each parity of (row, column) is compared with four, two, two and
    # one windows: nine comparisons of a quarter of the map; XLA's select-and-scatter walks it.
    batch, height, width, channels = x.shape
    rows, columns = y.shape[1], y.shape[2]
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    windows = jnp.pad(y, border, constant_values=jnp.nan)
    gradients = jnp.pad(dy, border)

    def parity(row: int, column: int) -> jax.Array:
        part = x[:, row : 2 * rows + 1 : 2, column : 2 * columns + 1 : 2]
        shape = part.shape
        total = jnp.zeros_like(part)
        for i in (1,) if row else (0, 1):
            for j in (1,) if column else (0, 1):
                area = (slice(None), slice(i, i + shape[1]), slice(j, j + shape[2]))
                total += jnp.where(part == windows[area], gradients[area], 0)
        missing = ((0, 0), (0, rows + 1 - shape[1]), (0, columns + 1 - shape[2]), (0, 0))
        return jnp.pad(total, missing)

    lines = [jnp.stack([parity(row, 0), parity(row, 1)], axis=3) for row in (0, 1)]
    dx = jnp.stack(lines, axis=2).reshape(batch, 2 * rows + 2, 2 * columns + 2, channels)
    dx = dx[:, : min(height, 2 * rows + 1), : min(width, 2 * columns + 1)]
    rest = ((0, 0), (0, height - dx.shape[1]), (0, width - dx.shape[2]), (0, 0))
    return jnp.pad(dx, rest)


overlapping_max_pool.defvjp(_pool_forward, _pool_backward)

MAX_POOLS = {2: non_overlapping_max_pool, 3: overlapping_max_pool}  # by the side of a window
