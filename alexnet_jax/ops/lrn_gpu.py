"""Normalisation across channels on a GPU: bfloat16 by words of four channels, the rest by rows.

Where windows of channels overlap, XLA recomputes the shared part for each channel, or writes it to
memory in between. Here a 64-bit word and its two neighbours hold the windows of four bfloat16
channels, and each number appears once, so a GPU reads an array once for all of them
(experiments/speed, s5). Viewing an array as words costs nothing: XLA's `bitcast`.
"""

import functools
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
from jax import lax

from alexnet_jax.ops import platform
from alexnet_jax.ops.lrn_formula import (
    Lrn,
    by_formula,
    gradient_by_formula,
    inverse_power,
    sum_windows,
)

# jax.enable_x64 since 0.8, where it left jax.experimental.
_enable_x64 = (
    jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # pyright: ignore[reportAttributeAccessIssue]
)
QUAD = 4  # channels of a word
OWN = range(QUAD, 2 * QUAD)  # of what `around` returns


def normalised(x: jax.Array, c: Lrn, groups: int) -> jax.Array:
    """Normalises (..., C) across the channels of each group, as `lrn.lrn` says."""
    rows = x.reshape(-1, x.shape[-1] // groups)
    if fit(rows, c.size // 2):
        return packed(_of_quads(around(rows), c)).reshape(x.shape)
    return by_formula(rows, c, lambda v: sum_windows(v, c.size, -1)).reshape(x.shape)


def gradient(x: jax.Array, dy: jax.Array, c: Lrn, groups: int, rectified: bool) -> jax.Array:
    """The gradient of `normalised` at x; if `rectified`, through the ReLU before it too."""
    x, dy = platform.in_memory((x, dy))
    rows, dy_rows = (a.reshape(-1, a.shape[-1] // groups) for a in (x, dy))

    def of_input(x: jax.Array, dx: jax.Array) -> jax.Array:
        return jnp.where(x > 0, dx, 0) if rectified else dx

    if fit(rows, 2 * (c.size // 2)):
        there = around(rows)
        dx = _gradient_of_quads(there, around(dy_rows), c)
        lanes = [of_input(there[i], part) for i, part in zip(OWN, dx, strict=True)]
        return packed(lanes).reshape(x.shape)

    def between(values: Any) -> Any:
        return platform.in_memory([v.astype(x.dtype) for v in values])

    dx = gradient_by_formula(rows, dy_rows, c, lambda v: sum_windows(v, c.size, -1), between)
    return of_input(x, dx.reshape(x.shape))


def _of_quads(x: list[jax.Array], c: Lrn) -> list[jax.Array]:
    """As `by_formula`, for a word's four channels, from the twelve of `around`, in float32."""
    bases = _bases_of_quads(x, c, OWN)
    return [x[i] * inverse_power(bases[i], c.beta) for i in OWN]


def _gradient_of_quads(x: list[jax.Array], dy: list[jax.Array], c: Lrn) -> list[jax.Array]:
    """As `gradient_by_formula`, for four channels, from the twelve of `around`, in float32."""
    half = c.size // 2
    bases = _bases_of_quads(x, c, range(OWN.start - half, OWN.stop + half))
    direct = {i: dy[i] * inverse_power(base, c.beta) for i, base in bases.items()}
    of_others = {i: direct[i] * x[i] * lax.square(lax.rsqrt(base)) for i, base in bases.items()}

    def of_one(i: int) -> jax.Array:
        crossed = [of_others[j] for j in range(i - half, i + half + 1)]
        return direct[i] - (2 * c.scale * c.beta) * x[i] * functools.reduce(jnp.add, crossed)

    return [of_one(i) for i in OWN]


def _bases_of_quads(x: list[jax.Array], c: Lrn, places: range) -> dict[int, jax.Array]:
    half, squares = c.size // 2, [v * v for v in x]
    return {
        i: c.k + c.scale * functools.reduce(jnp.add, squares[i - half : i + half + 1])
        for i in places
    }


def fit(x: jax.Array, reach: int) -> bool:
    """Can (..., C) be viewed as words, such that no window reaches past the neighbouring words?"""
    return x.dtype == jnp.bfloat16 and x.shape[-1] % QUAD == 0 and reach <= QUAD


def around(x: jax.Array) -> list[jax.Array]:
    """Returns four channels of each word with the four before and the four after them.

    Args:
      x: (rows, C) bfloat16, which `fit`; past a row's ends are zeros.

    Returns:
      Twelve arrays (rows, C / 4) float32; channel 4 w + i of a row is [4 + i][:, w].
    """
    with _enable_x64(True):
        words = lax.bitcast_convert_type(x.reshape(x.shape[0], -1, QUAD), jnp.uint64)
        zero = jnp.uint64(0)
        before = lax.pad(words[:, :-1], zero, ((0, 0, 0), (1, 0, 0)))
        after = lax.pad(words[:, 1:], zero, ((0, 0, 0), (0, 1, 0)))
        return [*_lanes(before), *_lanes(words), *_lanes(after)]


def packed(lanes: list[jax.Array]) -> jax.Array:
    """Returns (rows, C) bfloat16 of four arrays (rows, C / 4): channel 4 w + i is [i][:, w]."""
    with _enable_x64(True):
        words = functools.reduce(
            jnp.bitwise_or, [_bits(lane) << jnp.uint64(16 * i) for i, lane in enumerate(lanes)]
        )
        return lax.bitcast_convert_type(words, jnp.bfloat16).reshape(lanes[0].shape[0], -1)


def _lanes(words: jax.Array) -> list[jax.Array]:
    """A bfloat16 is the upper half of a float32."""
    low, high = words.astype(jnp.uint32), (words >> jnp.uint64(32)).astype(jnp.uint32)
    upper = jnp.uint32(0xFFFF0000)
    parts = [part for half in (low, high) for part in (half << jnp.uint32(16), half & upper)]
    return [lax.bitcast_convert_type(part, jnp.float32) for part in parts]


def _bits(lane: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(lane.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint64)
