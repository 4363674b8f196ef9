"""XLA's own convolutions: the reference, and the pieces of the other ways."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], ...]  # zeros: (top, bottom), (left, right)


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int) -> jax.Array:
    """Convolves each group of channels by itself; see `convolution.conv`."""
    pairs = split_groups(x, kernel, groups)
    return join_groups([plain_conv(i, k, padding, stride) for i, k in pairs])


def add_bias(x: jax.Array, bias: jax.Array, groups: int) -> jax.Array:
    """Adds (C,) to (B, H, W, C)."""
    return x + bias


def plain_conv(
    x: jax.Array,
    kernel: jax.Array,
    padding: Padding,
    stride: int | tuple[int, int] = 1,
    x_dilation: int = 1,
    kernel_dilation: int = 1,
) -> jax.Array:
    """Convolves (B, H, W, C) with (h, w, C, O) to (B, H', W', O)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride) if isinstance(stride, int) else stride,
        padding,
        (x_dilation, x_dilation),
        (kernel_dilation, kernel_dilation),
        ("NHWC", "HWIO", "NHWC"),
    )


def split_groups(
    x: jax.Array, kernel: jax.Array, groups: int
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields each group's channels of x and of a kernel, or of a bias: both cut along the last."""
    inputs, kernels = jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1)
    return zip(inputs, kernels, strict=True)


def join_groups(outputs: list[jax.Array]) -> jax.Array:
    """Returns the groups' outputs as one array, (..., O)."""
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
