"""Convolutions with 3x3 kernels from 16 products of matrices, where a sum over taps takes 36.

F(2x2, 3x3) of Lavin and Gray (2015, arXiv:1509.09308): tiles of 4x4 pixels, two apart, and kernels
become 16 numbers each; these are multiplied, summed over channels, and become 2x2 pixels. All
factors are 0, 1, -1 and 1/2, so that little is lost: 2e-6 of the largest output at most.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from alexnet_jax.ops.convolution_xla import Padding

TILE, OUT, TAPS = 4, 2, 3
TOGETHER = 4  # images whose tiles a core's cache holds

Matrix = tuple[tuple[float, ...], ...]
OF_KERNEL: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OF_TILE: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
OF_OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))

Product = Callable[[jax.Array, jax.Array], jax.Array]


def transformed(kernel: jax.Array) -> jax.Array:
    """Maps a kernel, (3, 3, I, O), to what tiles are multiplied with, (16, I, O)."""
    taps = [[kernel[i, j] for j in range(TAPS)] for i in range(TAPS)]
    return jnp.stack(_on_both_sides(OF_KERNEL, taps))


def conv(x: jax.Array, kernel: jax.Array, padding: Padding, product: Product) -> jax.Array:
    """Convolves channels-last images with a stride of 1, some images at a time.

    Args:
      x: (B, H, W, I).
      kernel: from `transformed`, (16, I, O).
      padding: zeros: (top, bottom), (left, right).
      product: multiplies (16, rows, I) with (16, I, O).

    Returns:
      (B, H', W', O).
    """
    whole = len(x) - len(x) % TOGETHER

    def some(images: jax.Array) -> jax.Array:
        return _conv(images, kernel, padding, product)

    if whole <= TOGETHER:
        parts = [some(part) for part in (x[:whole], x[whole:]) if len(part)]
    else:
        in_turns = jax.lax.map(some, x[:whole].reshape(-1, TOGETHER, *x.shape[1:]))
        parts = [in_turns.reshape(whole, *in_turns.shape[2:])]
        parts += [some(x[whole:])] if whole < len(x) else []
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _conv(x: jax.Array, kernel: jax.Array, padding: Padding, product: Product) -> jax.Array:
    (images, height, width, channels), ((top, bottom), (left, right)) = x.shape, padding
    rows, columns = height + top + bottom - TAPS + 1, width + left + right - TAPS + 1
    down, across = -(-rows // OUT), -(-columns // OUT)  # tiles
    around = (
        (top, OUT * down + TAPS - 1 - height - top),
        (left, OUT * across + TAPS - 1 - width - left),
    )
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    pixels = [
        [x[:, i : i + OUT * down : OUT, j : j + OUT * across : OUT] for j in range(TILE)]
        for i in range(TILE)
    ]
    tiles = images * down * across
    # Of an even number the 16 matrices could lie whole pages apart, which share a place in a cache.
    odd = ((0, 1 - tiles % 2), (0, 0))
    parts = _on_both_sides(OF_TILE, pixels)
    found = product(jnp.stack([jnp.pad(p.reshape(-1, channels), odd) for p in parts]), kernel)
    found = found[:, :tiles].reshape(TILE, TILE, images, down, across, -1)
    corners = _on_both_sides(OF_OUTPUT, [[found[i, j] for j in range(TILE)] for i in range(TILE)])
    pairs = [jnp.stack(corners[i : i + OUT], axis=3) for i in (0, OUT)]
    whole = jnp.stack(pairs, axis=2).reshape(images, OUT * down, OUT * across, -1)
    return whole[:, :rows, :columns]


def _on_both_sides(matrix: Matrix, square: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    """Multiplies a square of arrays by a matrix from the left, and by its transpose from the right;
    returns the rows of what that gives, one after the other."""
    half = [_times(matrix, column) for column in zip(*square, strict=True)]
    return [one for row in zip(*half, strict=True) for one in _times(matrix, row)]


def _times(matrix: Matrix, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Multiplies a column of arrays by a matrix; what has the factor 0 is not read."""
    found = []
    for row in matrix:
        first, *rest = (
            one if factor == 1 else factor * one
            for factor, one in zip(row, arrays, strict=True)
            if factor
        )
        found.append(sum(rest, first))
    return found
