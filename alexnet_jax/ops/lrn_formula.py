"""The formula of local response normalisation and its gradient in closed form (paper section 3.3).

``y = x / (k + scale * sum x^2) ** beta``, the sum over a window of odd size around each value and
cut at the border. Frameworks print different constants for the same formula, because some divide
alpha by the window size; `Lrn.named` converts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.ops import platform

# name -> (is alpha divided by the window size?, k). Sources: paper section 3.3; layer.py of the
# authors' 2012 code (`scale /= size`, minDiv 2); Caffe lrn_layer.cpp and caffe.proto (k = 1);
# torch.nn.LocalResponseNorm (default k = 1).
CONVENTIONS: dict[str, tuple[bool, float]] = {
    "paper": (False, 2.0),
    "original_code": (True, 2.0),
    "caffe": (True, 1.0),
    "torch": (True, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Lrn:
    """Constants of the formula above; `scale` multiplies the plain sum of squares."""

    size: int = 5
    scale: float = 1e-4
    beta: float = 0.75
    k: float = 2.0

    @classmethod
    def named(
        cls,
        convention: str,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float | None = None,
    ) -> "Lrn":
        """Translates a framework's alpha (and its default k) into this file's constants.

        Raises:
          ValueError: an unknown convention, or an even window.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"LRN convention {convention!r} is not one of {sorted(CONVENTIONS)}")
        if size < 1 or size % 2 == 0:
            raise ValueError(f"LRN window size {size} must be odd, such as {max(1, size - 1)}")
        divided, default_k = CONVENTIONS[convention]
        scale = alpha / size if divided else alpha
        return cls(size, scale, beta, default_k if k is None else k)


def sum_windows(x: jax.Array, size: int, axis: int, groups: int = 1) -> jax.Array:
    """Sums a centred window of odd `size` along one axis, zero past the border of a group.

    A mask hides other groups from a window. With a row for each group, such as (..., 48), a CPU is
    four times slower, because the rows are too short; a GPU is faster (experiments/speed, s6).
    """
    axis %= x.ndim
    half, length = size // 2, x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (half, half)
    padded = jnp.pad(x, pad)
    place = np.arange(length) % (length // groups)
    masked = platform.choose(reference=_masked, auto=_masked_by_bits)

    def shifted(i: int) -> jax.Array:
        part = lax.slice_in_dim(padded, i, i + length, axis=axis)
        seen = place + i - half
        inside = (seen >= 0) & (seen < length // groups)
        return masked(part, inside) if groups > 1 else part

    return functools.reduce(jnp.add, map(shifted, range(size)))


def _masked(x: jax.Array, where: np.ndarray) -> jax.Array:
    """x where a mask of its last axis, (C,) bool, says so, else 0."""
    return jnp.where(where, x, 0)


def _masked_by_bits(x: jax.Array, where: np.ndarray) -> jax.Array:
    """Masks with a bitwise AND, which JAX cannot differentiate: for hand-written gradients only.

    A CPU's `and` reads a mask of whole words directly; a mask of bools it widens for each value.
    """
    word = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    mask = np.where(where, np.iinfo(word).max, 0).astype(word)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, word) & mask, x.dtype)


def sum_along(x: jax.Array, size: int, axes: tuple[int, ...], groups: int) -> jax.Array:
    """Sums windows along several axes, one after the other: a square for two."""
    for axis in axes:
        x = sum_windows(x, size, axis, groups)
    return x


def inverse_power(base: jax.Array, beta: float) -> jax.Array:
    """base ** -beta; the usual 0.75 by two roots, several times faster than a power.

    On a CPU square root and division are rounded correctly. `rsqrt` is not: its last bits depend on
    the place in the array, so meshes would drift apart. An NVIDIA GPU has one instruction for
    `rsqrt`, the same at every place, and needs ten for each of the others.
    """
    if beta != 0.75:
        return base**-beta
    way = platform.choose(reference=_power, auto=_by_roots, cuda=_by_reciprocal_roots)
    return way(base)


def _power(base: jax.Array) -> jax.Array:
    return base**-0.75


def _by_roots(base: jax.Array) -> jax.Array:
    root = jnp.sqrt(base)
    return 1 / (root * jnp.sqrt(root))


def _by_reciprocal_roots(base: jax.Array) -> jax.Array:
    root = lax.rsqrt(base)
    return root * root * lax.rsqrt(root)


WindowSum = Callable[[jax.Array], jax.Array]


def by_formula(x: jax.Array, c: Lrn, window_sum: WindowSum) -> jax.Array:
    """Returns x normalised by the formula at the top, like x; sums in float32 or wider."""
    wide = widened(x)
    base = c.k + c.scale * window_sum(wide * wide)
    return (wide * inverse_power(base, c.beta)).astype(x.dtype)


def gradient_by_formula(
    x: jax.Array,
    dy: jax.Array,
    c: Lrn,
    window_sum: WindowSum,
    between: Callable[[Any], Any] = lambda v: v,
) -> jax.Array:
    """The gradient of `by_formula` at x in closed form, like x.

    Args:
      x: what was normalised.
      dy: the gradient of its result.
      c: constants of the formula.
      window_sum: as of `by_formula`.
      between: applied to (dy d^-beta, dy x d^(-beta - 1)) before windows of the second are summed.
    """
    # With d = k + s * W(x^2) and a symmetric window sum W:
    # dx = dy * d^-beta - 2 s beta x W(dy * x * d^(-beta - 1)). Recomputing d costs less than
    # keeping it.
    # In the order of lrn_sharded.py, so that meshes agree to the last bit.
    wide, dy = widened(x), widened(dy)
    base = c.k + c.scale * window_sum(wide * wide)
    power = inverse_power(base, c.beta)
    direct, of_others = map(widened, between((dy * power, dy * wide * power / base)))
    return (direct - (2 * c.scale * c.beta) * wide * window_sum(of_others)).astype(x.dtype)


def widened(x: jax.Array) -> jax.Array:
    """At least float32: 2 plus a small sum of squares is 2 in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
