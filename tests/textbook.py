"""Layers as a textbook has them, for JAX to differentiate; they share no code with alexnet_jax."""

import jax
from jax import lax


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: int | tuple[tuple[int, int], ...] = 0,
    groups: int = 1,
) -> jax.Array:
    """One grouped, strided convolution: (B, H, W, C) to (B, H', W', O)."""
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
