"""Local response normalisation, with its gradient in closed form (paper section 3.3).

One formula serves every variant: ``y = x / (k + scale * sum x^2) ** beta``, the sum over a window
of odd size around each value and cut at the border. Frameworks print different constants for the
same formula, because some divide alpha by the window size; `Lrn.named` converts.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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


Edges = tuple[jax.Array, jax.Array]


def lrn(
    x: jax.Array, constants: Lrn = Lrn(), groups: int = 1, edges: Edges | None = None
) -> jax.Array:
    """Normalises across adjacent channels.

    Args:
      x: activations, (..., C).
      constants: window size and the constants of the formula.
      groups: windows stop at the edges of this many equal channel groups, which are the paper's
        columns. C must be divisible by it.
      edges: the size // 2 channels before x and those after it, (..., size // 2) each, where
        other devices hold them; zeros where there are none. For one group only.

    Returns:
      An array like x.

    Raises:
      ValueError: edges with several groups.
    """
    if edges is not None:
        if groups > 1:
            raise ValueError(f"LRN: edges belong to one group of channels, not {groups}")
        return _normalise_between(x, edges, constants)
    return _normalise(x, constants, (-1,), groups)


def spatial_response_norm(x: jax.Array, constants: Lrn) -> jax.Array:
    """Normalises within each map over a square spatial window (`cnorm2` of run #145).

    Args:
      x: activations, (B, H, W, C).
      constants: `size` is the side of the window; `scale` multiplies the sum over it.
    """
    return _normalise(x, constants, (1, 2), 1)


def _window_sum(x: jax.Array, size: int, axis: int, groups: int = 1) -> jax.Array:
    """Sums a centred window of odd `size` along one axis, zero past the border of a group.

    What a window would see of another group is masked. An axis of groups instead, such as
    (..., 2, 48), has rows too short for a CPU: four times slower (experiments/speed).
    """
    axis %= x.ndim
    half, length = size // 2, x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (half, half)
    padded = jnp.pad(x, pad)
    place = np.arange(length) % (length // groups)

    def shifted(i: int) -> jax.Array:
        part = lax.slice_in_dim(padded, i, i + length, axis=axis)
        seen = place + i - half
        inside = (seen >= 0) & (seen < length // groups)
        return _kept(part, inside) if groups > 1 else part

    return functools.reduce(jnp.add, map(shifted, range(size)))


def _kept(x: jax.Array, where: np.ndarray) -> jax.Array:
    """x where it is said along its last axis, else 0: a `where` on the bits.

    A CPU reads a mask of whole words with the `and` itself; one of bools it widens for each value.
    """
    word = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    mask = np.where(where, np.iinfo(word).max, 0).astype(word)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, word) & mask, x.dtype)


def _window_sums(x: jax.Array, size: int, axes: tuple[int, ...], groups: int) -> jax.Array:
    for axis in axes:
        x = _window_sum(x, size, axis, groups)
    return x


def _inverse_power(base: jax.Array, beta: float) -> jax.Array:
    """base ** -beta; the usual 0.75 by two square roots, several times faster than a power.

    Square root and division are rounded correctly everywhere; `rsqrt` is not, and gives other last
    bits at other places of an array, so that meshes would drift apart.
    """
    if beta == 0.75:
        root = jnp.sqrt(base)
        return 1 / (root * jnp.sqrt(root))
    return base**-beta


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _normalise(x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int) -> jax.Array:
    base = c.k + c.scale * _window_sums(x * x, c.size, axes, groups)
    return x * _inverse_power(base, c.beta)


def _normalise_forward(
    x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int
) -> tuple[jax.Array, jax.Array]:
    return _normalise(x, c, axes, groups), x


def _normalise_backward(
    c: Lrn, axes: tuple[int, ...], groups: int, x: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    # With d = k + s * W(x^2) and a symmetric window sum W:
    # dx = dy * d^-beta - 2 s beta x W(dy * x * d^(-beta - 1)). Recomputing d costs less than
    # keeping it.
    base = c.k + c.scale * _window_sums(x * x, c.size, axes, groups)
    power = _inverse_power(base, c.beta)
    crossed = _window_sums(dy * x * power / base, c.size, axes, groups)
    return (dy * power - (2 * c.scale * c.beta) * x * crossed,)


_normalise.defvjp(_normalise_forward, _normalise_backward)


# The same on a part of the channels. `edges` has its own gradient, so whoever fetched them sends
# each neighbour's share back.


def _window_sum_between(x: jax.Array, edges: Edges, size: int) -> jax.Array:
    wide = jnp.concatenate([edges[0], x, edges[1]], axis=-1)
    shifted = (lax.slice_in_dim(wide, i, i + x.shape[-1], axis=-1) for i in range(size))
    return functools.reduce(jnp.add, shifted)


def _base_between(x: jax.Array, edges: Edges, c: Lrn) -> jax.Array:
    squares = (edges[0] * edges[0], edges[1] * edges[1])
    return c.k + c.scale * _window_sum_between(x * x, squares, c.size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _normalise_between(x: jax.Array, edges: Edges, c: Lrn) -> jax.Array:
    return x * _inverse_power(_base_between(x, edges, c), c.beta)


def _between_forward(x: jax.Array, edges: Edges, c: Lrn) -> tuple[jax.Array, tuple]:
    return _normalise_between(x, edges, c), (x, edges)


def _between_backward(c: Lrn, residual: tuple, dy: jax.Array) -> tuple[jax.Array, Edges]:
    x, edges = residual
    half = c.size // 2
    base = _base_between(x, edges, c)
    power = _inverse_power(base, c.beta)
    # What windows centred in x owe to each channel that they cover, the edges too.
    pad = [(0, 0)] * (x.ndim - 1) + [(half, half)]
    crossed = _window_sum(jnp.pad(dy * x * power / base, pad), c.size, -1)
    before, own, after = jnp.split(crossed, [half, half + x.shape[-1]], axis=-1)
    factor = -2 * c.scale * c.beta
    return dy * power + factor * x * own, (factor * edges[0] * before, factor * edges[1] * after)


_normalise_between.defvjp(_between_forward, _between_backward)
