"""Four neighbouring channels of bfloat16 as one word of 64 bits, for kernels that XLA writes.

Where windows of channels overlap, XLA computes what they share again for each channel, or writes
it to memory in between. A word and the two beside it hold the windows of four channels, each number
named once, so that a GPU reads an array once for all of them (experiments/speed). To see an array
as words costs it nothing: XLA's `bitcast`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

QUAD = 4  # channels of a word


def fit(x: jax.Array, reach: int) -> bool:
    """Can (..., C) be seen as words, so that a window reaches no further than the words beside?"""
    return x.dtype == jnp.bfloat16 and x.shape[-1] % QUAD == 0 and reach <= QUAD


def around(x: jax.Array) -> list[jax.Array]:
    """Returns four channels of each word with the four before and the four after them.

    Args:
      x: (rows, C) bfloat16, which `fit`; past a row's ends are zeros.

    Returns:
      Twelve arrays (rows, C / 4) float32; channel 4 w + i of a row is [4 + i][:, w].
    """
    with jax.enable_x64(True):
        words = lax.bitcast_convert_type(x.reshape(x.shape[0], -1, QUAD), jnp.uint64)
        zero = jnp.uint64(0)
        before = lax.pad(words[:, :-1], zero, ((0, 0, 0), (1, 0, 0)))
        after = lax.pad(words[:, 1:], zero, ((0, 0, 0), (0, 1, 0)))
        return [*_lanes(before), *_lanes(words), *_lanes(after)]


def packed(lanes: list[jax.Array]) -> jax.Array:
    """Returns (rows, C) bfloat16 of four arrays (rows, C / 4): channel 4 w + i is [i][:, w]."""
    with jax.enable_x64(True):
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
