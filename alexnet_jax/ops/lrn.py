"""Local response normalisation, with its gradient in closed form (paper section 3.3).

One formula serves every variant: ``y = x / (k + scale * sum x^2) ** beta``, the sum over a window
of odd size around each value and cut at the border. Frameworks print different constants for the
same formula, because some divide alpha by the window size; `Lrn.named` converts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.ops import compilation, elementwise, lrn_gpu

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


def lrn(x: jax.Array, constants: Lrn = Lrn(), groups: int = 1) -> jax.Array:
    """Normalises across adjacent channels.

    Args:
      x: activations, (..., C).
      constants: window size and the constants of the formula.
      groups: windows stop at the edges of this many equal channel groups, which are the paper's
        columns. C must be divisible by it.

    Returns:
      An array like x.
    """
    return _normalise(x, constants, (-1,), groups)


def rectified_lrn(x: jax.Array, constants: Lrn = Lrn(), groups: int = 1) -> jax.Array:
    """Normalises max(x, 0) across adjacent channels, as the paper does (section 3.3).

    A GPU then computes the gradients of both at once (experiments/speed).

    Args:
      x: activations, (..., C).
      constants: window size and the constants of the formula.
      groups: see `lrn`.

    Returns:
      An array like x.
    """
    return _normalise(x, constants, (-1,), groups, True)


def spatial_response_norm(x: jax.Array, constants: Lrn) -> jax.Array:
    """Normalises within each map over a square spatial window (`cnorm2` of run #145).

    Args:
      x: activations, (B, H, W, C).
      constants: `size` is the side of the window; `scale` multiplies the sum over it.
    """
    return _normalise(x, constants, (1, 2), 1)


def sum_windows(x: jax.Array, size: int, axis: int, groups: int = 1) -> jax.Array:
    """Sums a centred window of odd `size` along one axis, zero past the border of a group.

    What a window would see of another group is masked. Rows of a group instead, such as (..., 48),
    are too short for a CPU: four times slower; a GPU is faster with them (experiments/speed).
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


def _sum_along(x: jax.Array, size: int, axes: tuple[int, ...], groups: int) -> jax.Array:
    for axis in axes:
        x = sum_windows(x, size, axis, groups)
    return x


def inverse_power(base: jax.Array, beta: float) -> jax.Array:
    """base ** -beta; the usual 0.75 by two roots, several times faster than a power.

    On a CPU square root and division are rounded correctly; `rsqrt` is not, and gives other last
    bits at other places of an array, so that meshes would drift apart. An NVIDIA GPU has one
    instruction for it, the same everywhere, and needs ten for each of the others.
    """
    if beta == 0.75:
        return lax.platform_dependent(base, cuda=_by_reciprocal_roots, default=_by_roots)
    return base**-beta


def _by_roots(base: jax.Array) -> jax.Array:
    root = jnp.sqrt(base)
    return 1 / (root * jnp.sqrt(root))


def _by_reciprocal_roots(base: jax.Array) -> jax.Array:
    root = lax.rsqrt(base)
    return root * root * lax.rsqrt(root)


WindowSum = Callable[[jax.Array], jax.Array]


def by_formula(x: jax.Array, c: Lrn, window_sum: WindowSum) -> jax.Array:
    """x normalised as the file's first lines have it, like x; sums at least in float32."""
    wide = widened(x)
    base = c.k + c.scale * window_sum(wide * wide)
    return (wide * inverse_power(base, c.beta)).astype(x.dtype)


def _gradient_by_formula(
    x: jax.Array,
    dy: jax.Array,
    c: Lrn,
    window_sum: WindowSum,
    between: Callable[[Any], Any] = lambda v: v,
) -> jax.Array:
    # With d = k + s * W(x^2) and a symmetric window sum W:
    # dx = dy * d^-beta - 2 s beta x W(dy * x * d^(-beta - 1)). Recomputing d costs less than
    # keeping it.
    # In the order of lrn_between.py, so that meshes agree to the last bit.
    wide, dy = widened(x), widened(dy)
    base = c.k + c.scale * window_sum(wide * wide)
    power = inverse_power(base, c.beta)
    own, of_others = map(widened, between((dy * power, dy * wide * power / base)))
    return (own - (2 * c.scale * c.beta) * wide * window_sum(of_others)).astype(x.dtype)


def widened(x: jax.Array) -> jax.Array:
    """At least float32: 2 plus a small sum of squares is 2 in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _normalise(
    x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int, rectified: bool = False
) -> jax.Array:
    return _normalised(elementwise.relu(x) if rectified else x, c, axes, groups)


def _normalised(x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int) -> jax.Array:
    def default(x: jax.Array) -> jax.Array:
        return by_formula(x, c, lambda v: _sum_along(v, c.size, axes, groups))

    def cuda(x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1] // groups)
        if lrn_gpu.fit(rows, c.size // 2):
            return lrn_gpu.packed(_of_quads(lrn_gpu.around(rows), c)).reshape(x.shape)
        return by_formula(rows, c, lambda v: sum_windows(v, c.size, -1)).reshape(x.shape)

    if axes != (-1,):
        return default(x)
    return lax.platform_dependent(x, cuda=cuda, default=default)


def _normalise_forward(
    x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int, rectified: bool
) -> tuple[jax.Array, jax.Array]:
    # Else a GPU's compiler keeps, in float32, what both passes compute of x.
    x = compilation.in_memory(elementwise.relu(x) if rectified else x)
    return _normalised(x, c, axes, groups), x


def _normalise_backward(
    c: Lrn, axes: tuple[int, ...], groups: int, rectified: bool, x: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    def of_input(x: jax.Array, dx: jax.Array) -> jax.Array:
        return jnp.where(x > 0, dx, 0) if rectified else dx

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        dx = _gradient_by_formula(x, dy, c, lambda v: _sum_along(v, c.size, axes, groups))
        return of_input(x, dx)

    def cuda(x: jax.Array, dy: jax.Array) -> jax.Array:
        rows, of_rows = (a.reshape(-1, a.shape[-1] // groups) for a in (x, dy))
        if lrn_gpu.fit(rows, 2 * (c.size // 2)):
            around = lrn_gpu.around(rows)
            dx = _gradient_of_quads(around, lrn_gpu.around(of_rows), c)
            lanes = [of_input(around[i], part) for i, part in zip(OWN, dx, strict=True)]
            return lrn_gpu.packed(lanes).reshape(x.shape)

        def kept(values: Any) -> Any:
            return compilation.in_memory([v.astype(x.dtype) for v in values])

        dx = _gradient_by_formula(rows, of_rows, c, lambda v: sum_windows(v, c.size, -1), kept)
        return of_input(x, dx.reshape(x.shape))

    if axes != (-1,):
        return (default(x, dy),)
    return (lax.platform_dependent(*compilation.in_memory((x, dy)), cuda=cuda, default=default),)


OWN = range(lrn_gpu.QUAD, 2 * lrn_gpu.QUAD)  # of what `quads.around` returns


def _of_quads(x: list[jax.Array], c: Lrn) -> list[jax.Array]:
    """As `by_formula`: four channels of what lies around them, in float32."""
    bases = _bases_of_quads(x, c, OWN)
    return [x[i] * inverse_power(bases[i], c.beta) for i in OWN]


def _gradient_of_quads(x: list[jax.Array], dy: list[jax.Array], c: Lrn) -> list[jax.Array]:
    """As `_gradient_by_formula`: of four channels, by what lies around them, in float32."""
    half = c.size // 2
    bases = _bases_of_quads(x, c, range(OWN.start - half, OWN.stop + half))
    own = {i: dy[i] * inverse_power(base, c.beta) for i, base in bases.items()}
    of_others = {i: own[i] * x[i] * lax.square(lax.rsqrt(base)) for i, base in bases.items()}

    def of_one(i: int) -> jax.Array:
        crossed = [of_others[j] for j in range(i - half, i + half + 1)]
        return own[i] - (2 * c.scale * c.beta) * x[i] * functools.reduce(jnp.add, crossed)

    return [of_one(i) for i in OWN]


def _bases_of_quads(x: list[jax.Array], c: Lrn, places: range) -> dict[int, jax.Array]:
    half, squares = c.size // 2, [v * v for v in x]
    return {
        i: c.k + c.scale * functools.reduce(jnp.add, squares[i - half : i + half + 1])
        for i in places
    }


_normalise.defvjp(_normalise_forward, _normalise_backward)
