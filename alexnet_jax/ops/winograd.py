"""Convolutions with few products, from transformed tiles of pixels and transformed kernels.

F(m x m, r x r) of Lavin and Gray (2015, arXiv:1509.09308): with a kernel of r x r taps, m x m
outputs take (m + r - 1)^2 products instead of (m r)^2: 16 instead of 36 for 3 x 3 taps, 36 instead
of 100 for 5 x 5. The factors come from points on a line (Toom and Cook). Few and small points keep
the error low: 2e-6 of the largest output at most.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp

from alexnet_jax.ops.convolution_xla import Padding

PAGE = 4096  # bytes

Matrix = tuple[tuple[float, ...], ...]
Product = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How kernels of one size meet tiles.

    Attributes:
      taps: r, of a kernel along one side.
      out: m, outputs of a tile along one side.
      together: images whose tiles a core's cache holds.
      of_kernel: (m + r - 1, r), maps taps to factors.
      of_tile: (m + r - 1, m + r - 1), maps pixels to factors.
      of_output: (m, m + r - 1), maps products to outputs.
    """

    taps: int
    out: int
    together: int
    of_kernel: Matrix
    of_tile: Matrix
    of_output: Matrix

    @property
    def side(self) -> int:
        """Pixels of a tile along one side."""
        return self.out + self.taps - 1


def tiling(taps: int, points: Sequence[Fraction | int], together: int) -> Tiling:
    """Returns the tiling for some points and infinity, with as many outputs as they allow.

    Multiplying two polynomials' values at these points multiplies the polynomials.

    >>> tiling(3, (0, 1, -1), 4).of_tile[1]
    (0.0, 1.0, 1.0, 0.0)
    """
    out, at = len(points) - taps + 2, [Fraction(p) for p in points]
    others = [[q for q in at if q != p] for p in at]
    scales = [math.prod(p - q for q in rest) for p, rest in zip(at, others, strict=True)]
    kernel = [[p**k / s for k in range(taps)] for p, s in zip(at, scales, strict=True)]
    tile = [[*_coefficients(rest), Fraction(0)] for rest in others]
    output = [[p**i for p in at] + [Fraction(i == out - 1)] for i in range(out)]
    return Tiling(
        taps,
        out,
        together,
        _floats([*kernel, [Fraction(k == taps - 1) for k in range(taps)]]),
        _floats([*tile, _coefficients(at)]),
        _floats(output),
    )


def _coefficients(roots: Sequence[Fraction]) -> list[Fraction]:
    """Returns the coefficients of the polynomial with these roots, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, padded = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [a - root * b for a, b in zip(shifted, padded, strict=True)]
    return coefficients


def _floats(matrix: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(float(value) for value in row) for row in matrix)


# By taps. Of all choices of six points (infinity is one), these lose the least accuracy: half as
# much as 0, 1, -1, 2, -2 (experiments/speed, s10).
TILINGS = {
    3: tiling(3, (0, 1, -1), together=4),
    5: tiling(5, (0, 1, -1, Fraction(-1, 2), 2), together=1),
}


def transformed(kernel: jax.Array) -> jax.Array:
    """Maps a kernel, (r, r, I, O), to the factors that multiply tiles, ((m + r - 1)^2, I, O)."""
    t = TILINGS[len(kernel)]
    taps = [[kernel[i, j] for j in range(t.taps)] for i in range(t.taps)]
    return jnp.stack(_on_both_sides(t.of_kernel, taps))


def conv(x: jax.Array, kernel: jax.Array, padding: Padding, product: Product) -> jax.Array:
    """Convolves channels-last images with a stride of 1, some images at a time.

    Args:
      x: (B, H, W, I).
      kernel: from `transformed`, (N, I, O); N says which of TILINGS.
      padding: zeros: (top, bottom), (left, right).
      product: multiplies (N, rows, I) with (N, I, O).

    Returns:
      (B, H', W', O).
    """
    [t] = (t for t in TILINGS.values() if t.side**2 == len(kernel))
    some = functools.partial(_conv, kernel=kernel, padding=padding, product=product, t=t)
    whole = len(x) - len(x) % t.together
    if whole <= t.together:
        parts = [some(part) for part in (x[:whole], x[whole:]) if len(part)]
    else:
        in_turns = jax.lax.map(some, x[:whole].reshape(-1, t.together, *x.shape[1:]))
        parts = [in_turns.reshape(whole, *in_turns.shape[2:])]
        parts += [some(x[whole:])] if whole < len(x) else []
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _conv(
    x: jax.Array, kernel: jax.Array, padding: Padding, product: Product, t: Tiling
) -> jax.Array:
    (images, height, width, channels), ((top, bottom), (left, right)) = x.shape, padding
    rows, columns = height + top + bottom - t.taps + 1, width + left + right - t.taps + 1
    down, across = -(-rows // t.out), -(-columns // t.out)  # tiles
    around = (
        (top, t.out * down + t.taps - 1 - height - top),
        (left, t.out * across + t.taps - 1 - width - left),
    )
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    tiles = images * down * across
    factors = _tiles(x, t, down, across).reshape(t.side**2, tiles, channels)
    # Matrices that lie whole pages apart would share a place in a cache.
    odd = any(tiles * numbers * x.dtype.itemsize % PAGE == 0 for numbers in kernel.shape[1:])
    products = product(jnp.pad(factors, ((0, 0), (0, int(odd)), (0, 0))), kernel)
    products = products[:, :tiles].reshape(t.side, t.side, images, down, across, -1)
    corners = _on_both_sides(
        t.of_output, [[products[i, j] for j in range(t.side)] for i in range(t.side)]
    )
    lines = [jnp.stack(corners[i : i + t.out], axis=3) for i in range(0, t.out**2, t.out)]
    whole = jnp.stack(lines, axis=2).reshape(images, t.out * down, t.out * across, -1)
    return whole[:, :rows, :columns]


def _tiles(x: jax.Array, t: Tiling, down: int, across: int) -> jax.Array:
    """Returns the factors of overlapping tiles, (side, side, B, down, across, I)."""
    lines = [x[:, i : i + t.out * down : t.out] for i in range(t.side)]
    lines = jnp.stack(_times(t.of_tile, lines))  # stored once; else XLA recomputes it per tile
    columns = [lines[:, :, :, j : j + t.out * across : t.out] for j in range(t.side)]
    # One sum, zero factors included: XLA computes it in one loop; a stack of sums takes a loop for
    # each. So a non-finite pixel reaches all outputs of its tile: 0 times infinity is NaN.
    by_column = jnp.asarray(t.of_tile, x.dtype).T.reshape(t.side, 1, t.side, *(1,) * 4)
    return sum(
        (c * line[:, None] for c, line in zip(by_column, columns, strict=True)),
        jnp.zeros((), x.dtype),
    )


def _on_both_sides(matrix: Matrix, square: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    """Multiplies a square of arrays by a matrix from the left, and by its transpose from the right;
    returns the rows of the product, one after the other."""
    half = [_times(matrix, column) for column in zip(*square, strict=True)]
    return [one for row in zip(*half, strict=True) for one in _times(matrix, row)]


def _times(matrix: Matrix, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Multiplies a column of arrays by a matrix; what has the factor 0 is not read."""
    sums = []
    for row in matrix:
        first, *rest = (
            one if factor == 1 else factor * one
            for factor, one in zip(row, arrays, strict=True)
            if factor
        )
        sums.append(sum(rest, first))
    return sums
