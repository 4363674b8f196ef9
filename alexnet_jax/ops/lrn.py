"""Local response normalisation (paper section 3.3); `lrn_formula` has the formula."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from alexnet_jax.ops import elementwise, lrn_gpu, platform
from alexnet_jax.ops.lrn_formula import Lrn, by_formula, gradient_by_formula, sum_along


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
    return _way()(x, constants, (-1,), groups, False)


def rectified_lrn(x: jax.Array, constants: Lrn = Lrn(), groups: int = 1) -> jax.Array:
    """Normalises max(x, 0) across adjacent channels, as the paper does (section 3.3).

    A GPU then computes the gradients of both at once (experiments/speed, s5).

    Args:
      x: activations, (..., C).
      constants: window size and the constants of the formula.
      groups: see `lrn`.

    Returns:
      An array like x.
    """
    return _way()(x, constants, (-1,), groups, True)


def spatial_response_norm(x: jax.Array, constants: Lrn) -> jax.Array:
    """Normalises within each map over a square spatial window (`cnorm2` of run #145).

    Args:
      x: activations, (B, H, W, C).
      constants: `size` is the side of the window; `scale` multiplies the sum over it.
    """
    return _way()(x, constants, (1, 2), 1, False)


def _way() -> Callable[[jax.Array, Lrn, tuple[int, ...], int, bool], jax.Array]:
    return platform.choose(reference=_reference, auto=_normalise)


def _reference(
    x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int, rectified: bool
) -> jax.Array:
    x = elementwise.relu(x) if rectified else x
    return by_formula(x, c, lambda v: sum_along(v, c.size, axes, groups))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _normalise(
    x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int, rectified: bool
) -> jax.Array:
    return _normalised(elementwise.relu(x) if rectified else x, c, axes, groups)


def _normalised(x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int) -> jax.Array:
    def formula(x: jax.Array) -> jax.Array:
        return by_formula(x, c, lambda v: sum_along(v, c.size, axes, groups))

    if axes != (-1,):
        return formula(x)
    way = platform.choose(
        reference=formula, cuda=functools.partial(lrn_gpu.normalised, c=c, groups=groups)
    )
    return way(x)


def _normalise_forward(
    x: jax.Array, c: Lrn, axes: tuple[int, ...], groups: int, rectified: bool
) -> tuple[jax.Array, jax.Array]:
    # Write x to memory: else a GPU's compiler would keep what both passes compute, in float32.
    x = platform.in_memory(elementwise.relu(x) if rectified else x)
    return _normalised(x, c, axes, groups), x


def _normalise_backward(
    c: Lrn, axes: tuple[int, ...], groups: int, rectified: bool, x: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    def formula(x: jax.Array, dy: jax.Array) -> jax.Array:
        dx = gradient_by_formula(x, dy, c, lambda v: sum_along(v, c.size, axes, groups))
        return jnp.where(x > 0, dx, 0) if rectified else dx

    if axes != (-1,):
        return (formula(x, dy),)
    way = platform.choose(
        reference=formula,
        cuda=functools.partial(lrn_gpu.gradient, c=c, groups=groups, rectified=rectified),
    )
    return (way(x, dy),)


_normalise.defvjp(_normalise_forward, _normalise_backward)
