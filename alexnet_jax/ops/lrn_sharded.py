"""Local response normalisation with windows that reach into other devices' channels.

The formula is that of `lrn_formula`. A device that fetched its neighbours' channels sends their
gradient back.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.ops import platform
from alexnet_jax.ops.lrn_formula import Lrn, by_formula, inverse_power, sum_windows, widened

Edges = tuple[jax.Array, jax.Array]


def lrn_between(x: jax.Array, edges: Edges, constants: Lrn) -> jax.Array:
    """Normalises across adjacent channels, with other devices' channels at both ends.

    Args:
      x: activations, (..., C).
      edges: the size // 2 channels before x and those after it, (..., size // 2) each, zeros where
        there are none. They have gradients too.
      constants: window size and the constants of the formula.

    Returns:
      An array like x.
    """
    return platform.choose(reference=_formula, auto=_normalise)(x, edges, constants)


def _formula(x: jax.Array, edges: Edges, c: Lrn) -> jax.Array:
    return by_formula(x, c, functools.partial(_sum_squares, edges=edges, c=c))


_normalise = jax.custom_vjp(_formula, nondiff_argnums=(2,))


def _sum_squares(squares: jax.Array, edges: Edges, c: Lrn) -> jax.Array:
    """Sums windows over the squares of x and of its edges."""
    before, after = (lax.square(widened(edge)) for edge in edges)
    around = jnp.concatenate([before, squares, after], axis=-1)
    shifted = (lax.slice_in_dim(around, i, i + squares.shape[-1], axis=-1) for i in range(c.size))
    return functools.reduce(jnp.add, shifted)


def _forward(x: jax.Array, edges: Edges, c: Lrn) -> tuple[jax.Array, tuple[jax.Array, Edges]]:
    return _normalise(x, edges, c), (x, edges)


def _backward(c: Lrn, residual: tuple[jax.Array, Edges], dy: jax.Array) -> tuple[jax.Array, Edges]:
    dtype, (x, edges) = dy.dtype, residual
    wide, dy, half = widened(x), widened(dy), c.size // 2
    base = c.k + c.scale * _sum_squares(wide * wide, edges, c)
    power = inverse_power(base, c.beta)
    # What the windows centred in x contribute to the gradient of each channel that they cover,
    # edges included.
    pad = [(0, 0)] * (x.ndim - 1) + [(half, half)]
    crossed = sum_windows(jnp.pad(dy * wide * power / base, pad), c.size, -1)
    before, middle, after = jnp.split(crossed, [half, half + x.shape[-1]], axis=-1)
    factor = -2 * c.scale * c.beta
    dx = dy * power + factor * wide * middle
    of_edges = (factor * widened(edges[0]) * before, factor * widened(edges[1]) * after)
    return dx.astype(dtype), (of_edges[0].astype(dtype), of_edges[1].astype(dtype))


_normalise.defvjp(_forward, _backward)
