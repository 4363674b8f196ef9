"""The network's pieces as a textbook has them, for XLA to differentiate and compile by itself."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax
from flax import linen as nn
from jax import lax

from alexnet_jax import model
from alexnet_jax.ops import compilation, convolution, elementwise, pooling
from alexnet_jax.ops.convolution import Padding
from alexnet_jax.ops.lrn import Lrn


def conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | Padding = 0, groups: int = 1
) -> jax.Array:
    """Is `convolution.conv` by one grouped, strided convolution: (B, H, W, C) to (B, H', W', O)."""
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Is `pooling.overlapping_max_pool` by Flax; of equal maxima the first gets the gradient."""
    return nn.max_pool(x, (3, 3), (2, 2))


def lrn(x: jax.Array, constants: Lrn, groups: int = 1) -> jax.Array:
    """Is `lrn.lrn` by its formula and the gradient that JAX finds: (..., C)."""
    squares = (x * x).reshape(*x.shape[:-1], groups, -1)
    window = (1,) * x.ndim + (constants.size,)
    sums = lax.reduce_window(squares, 0.0, lax.add, window, (1,) * squares.ndim, "SAME")
    return x * (constants.k + constants.scale * sums.reshape(x.shape)) ** -constants.beta


@contextlib.contextmanager
def instead() -> Iterator[None]:
    """Puts them in the place of what is fast, and takes XLA's options away."""
    with (
        mock.patch.object(convolution, "conv", conv),
        mock.patch.object(convolution, "add_bias", lambda x, bias, groups=1: x + bias),
        mock.patch.object(elementwise, "relu", nn.relu),
        mock.patch.object(compilation, "columns_apart", lambda: False),
        mock.patch.dict(pooling.MAX_POOLS, {3: max_pool}),
        mock.patch.object(model, "lrn", lrn),
        mock.patch.object(compilation, "options", lambda *_: {}),
    ):
        yield
