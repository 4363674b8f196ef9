"""Convolutions and their biases on every back end; each column is a plain convolution."""

from typing import Any

import jax

from alexnet_jax.ops import convolution_cpu, convolution_gpu, convolution_xla, platform
from alexnet_jax.ops.convolution_xla import Padding


def conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | Padding = 0, groups: int = 1
) -> jax.Array:
    """Convolves channels-last images; groups are written as one plain convolution each.

    `feature_group_count` is never used: XLA gathers the whole batch for a grouped convolution under
    a mesh, and its gradient is several times slower on a CPU and nearly twice as slow on a GPU.

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C / groups, O), group 0's outputs first.
      stride: in pixels, both ways.
      padding: zeros on each side, or ((top, bottom), (left, right)).
      groups: number of channel groups that do not see each other.

    Returns:
      (B, H', W', O).
    """
    way = platform.choose(
        reference=convolution_xla.conv,
        auto=convolution_gpu.conv_over_blocks,
        cpu=convolution_cpu.conv,
        cuda=convolution_gpu.conv,
    )
    return way(x, kernel, stride, _both_ways(padding), groups)


def pack(
    kernel: jax.Array, stride: int = 1, padding: int | Padding = 0, groups: int = 1
) -> jax.Array | None:
    """Repacks a kernel for `packed_conv`; None where no layout is faster. Arguments: see `conv`."""
    way = platform.choose(reference=_unpacked, cpu=convolution_cpu.pack)
    return way(kernel, stride, _both_ways(padding), groups)


def packed_conv(x: jax.Array, packed: jax.Array, padding: int | Padding = 0) -> jax.Array:
    """Convolves as `conv` does, with a kernel from `pack`; to within 1e-5 of the largest output."""
    return convolution_cpu.packed_conv(x, packed, _both_ways(padding))


def _unpacked(*_: Any) -> None:
    return None


def _both_ways(padding: int | Padding) -> Padding:
    return ((padding, padding),) * 2 if isinstance(padding, int) else padding


def add_bias(x: jax.Array, bias: jax.Array, groups: int = 1) -> jax.Array:
    """Adds a number to each channel of what `conv` returns.

    Args:
      x: (B, H, W, C).
      bias: (C,).
      groups: of the convolution. A GPU adds to each group's array separately: then the addition and
        the convolution are one kernel.
    """
    way = platform.choose(
        reference=convolution_xla.add_bias,
        cpu=convolution_cpu.add_bias,
        cuda=convolution_gpu.add_bias,
    )
    return way(x, bias, groups)
