"""Max pooling, whose gradient goes to every maximum of a window (paper section 3.4)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.ops import platform, pooling_gpu

Gradient = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # of x, y and dy


def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2, no padding (paper section 3.4).

    If several inputs tie for a window's maximum, each gets the whole gradient, as in the authors'
    kernels; XLA's and PyTorch's own pooling give it to the first. Ties are zeros after a ReLU,
    which blocks their gradient, or come from parts of an image that have one colour throughout.

    Args:
      x: (B, H, W, C), H and W at least 3.

    Returns:
      (B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C).
    """
    way = platform.choose(
        reference=_max_of_windows,
        auto=functools.partial(_max_pool, _gradient_by_parity),
        cuda=functools.partial(_max_pool, pooling_gpu.gradient_by_place),
    )
    return way(x)


def _max_of_windows(x: jax.Array) -> jax.Array:
    """The reference. The added terms are zero, but carry the gradient to every maximum."""
    rows, columns = ((side - 3) // 2 + 1 for side in x.shape[1:3])
    windows = [
        x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    top = lax.stop_gradient(functools.reduce(jnp.maximum, windows))
    shares = (jnp.where(window == top, window - lax.stop_gradient(window), 0) for window in windows)
    return functools.reduce(jnp.add, shares, top)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(gradient: Gradient, x: jax.Array) -> jax.Array:
    return _stride_two_max(_stride_two_max(x, 1), 2)


def _pool_forward(gradient: Gradient, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y: Any = _max_pool(gradient, x)
    return y, (x, y)


def _pool_backward(
    gradient: Gradient, residual: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array]:
    return (gradient(*residual, dy),)


_max_pool.defvjp(_pool_forward, _pool_backward)


def _stride_two_max(x: jax.Array, axis: int) -> jax.Array:
    count = (x.shape[axis] - 3) // 2 + 1
    end = 2 * count - 1
    shifted = (lax.slice_in_dim(x, i, i + end, 2, axis) for i in range(3))
    return functools.reduce(jnp.maximum, shifted)


def _gradient_by_parity(x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
    # Window r covers rows 2r .. 2r + 2: an even row lies in windows r - 1 and r, an odd one in r
    # alone; the same holds for columns. So the four parities of (row, column) are compared with
    # four, two, two and one windows: nine comparisons, each over a quarter of the map. XLA's
    # select-and-scatter walks the map instead.
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


MAX_POOLS = {2: non_overlapping_max_pool, 3: overlapping_max_pool}  # by the side of a window
