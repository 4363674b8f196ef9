"""Convolutions for matrix units: conv1 over blocks of pixels, and gradients for cuDNN's tiles."""

import functools

import jax
import jax.numpy as jnp

from alexnet_jax.ops import convolution_xla, platform
from alexnet_jax.ops.convolution_xla import Padding, join_groups, plain_conv, split_groups

# cuDNN computes an input's gradient two pixel columns at a time where the input has fewer channels
# than a tile, and the kernel is so wide that one more column costs little.
FEW_CHANNELS, WIDE_KERNEL = 64, 5
PIXEL = 4  # numbers that a pixel takes in a block


def conv_over_blocks(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> jax.Array:
    """Convolves over blocks of pixels if the stride is above 1; JAX derives the gradient."""
    if stride == 1:
        return convolution_xla.conv(x, kernel, stride, padding, groups)
    x, none = jnp.pad(x, ((0, 0), *padding, (0, 0))), ((0, 0), (0, 0))
    parts = [_space_to_depth(i, k, stride) for i, k in split_groups(x, kernel, groups)]
    return join_groups([plain_conv(i, k, none) for i, k in parts])


def _space_to_depth(x: jax.Array, kernel: jax.Array, s: int) -> tuple[jax.Array, jax.Array]:
    """Rewrites a stride-s convolution as a stride-1 one over s x s blocks of pixels.

    conv1 has three input channels, too few for a matrix unit. A zero pads each pixel to four
    numbers, which a GPU computes and writes together (experiments/speed, s3). A block of 4x4 pixels
    then has 64 channels, and a 3x3 kernel over blocks computes the same sum. A CPU is faster with
    the 11 x 11 x 3 = 363 numbers as they are.
    """
    h, w, channels, out = kernel.shape
    taps_h, taps_w = -(-h // s), -(-w // s)
    rows = (x.shape[1] - h) // s + taps_h
    columns = (x.shape[2] - w) // s + taps_w
    filling = -channels % PIXEL
    channels += filling
    kernel = jnp.pad(kernel, ((0, taps_h * s - h), (0, taps_w * s - w), (0, filling), (0, 0)))
    kernel = kernel.reshape(taps_h, s, taps_w, s, channels, out).transpose(0, 2, 1, 3, 4, 5)
    x = x[:, : rows * s, : columns * s]
    more_rows, more_columns = rows * s - x.shape[1], columns * s - x.shape[2]
    x = jnp.pad(x, ((0, 0), (0, more_rows), (0, more_columns), (0, filling)))
    x = x.reshape(-1, rows, s, columns, s, channels).transpose(0, 1, 3, 2, 4, 5)
    return (
        x.reshape(-1, rows, columns, s * s * channels),
        kernel.reshape(taps_h, taps_w, s * s * channels, out),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int) -> jax.Array:
    """Convolves as `conv_over_blocks`, with gradients that suit cuDNN."""
    return conv_over_blocks(x, kernel, stride, padding, groups)


def _conv_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, stride, padding, groups), (x, kernel)


def _conv_backward(
    stride: int,
    padding: Padding,
    groups: int,
    residual: tuple[jax.Array, jax.Array],
    dy: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residual
    many_channels = x.shape[-1] // groups >= FEW_CHANNELS
    if stride > 1 or kernel.shape[1] < WIDE_KERNEL or many_channels:
        forward = functools.partial(conv_over_blocks, stride=stride, padding=padding, groups=groups)
        return jax.vjp(forward, x, kernel)[1](dy)
    of_kernel = functools.partial(
        convolution_xla.conv, x, stride=stride, padding=padding, groups=groups
    )
    (dkernel,) = jax.vjp(of_kernel, kernel)[1](dy)
    parts = split_groups(dy, kernel, groups)
    dx = join_groups([_input_gradient_in_pairs(d, k, x.shape, padding) for d, k in parts])
    return dx[:, :, dx.shape[2] - x.shape[2] :], dkernel


conv.defvjp(_conv_forward, _conv_backward)


def _input_gradient_in_pairs(
    dy: jax.Array, kernel: jax.Array, shape: tuple[int, ...], padding: Padding
) -> jax.Array:
    """The gradient of (B, H, W, C), two image columns at a time, as one place of 2 C channels.

    cuDNN's tiles are wider than 48 channels. The kernels cover what either column reads, so a sixth
    of each is zeros, and yet this takes a fifth less time (experiments/speed, s4). An odd W gets an
    extra column before the first, which the caller discards: both sides then have the padding that
    cuDNN wants, and dy is not copied.
    """
    (top, _), (left, _) = padding
    height, width, channels, _ = kernel.shape
    rows, more = shape[1], shape[2] % 2
    columns, none = shape[2] + more, (0, 0)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    first, second = (jnp.pad(turned, (none, side, none, none)) for side in ((0, 1), (1, 0)))
    around = (
        (height - 1 - top, rows + top - dy.shape[1]),
        (width - 1 - left + more, columns + left - dy.shape[2]),
    )
    kernels = jnp.concatenate([first, second], axis=3)
    dx = plain_conv(dy, kernels, around, (1, 2))
    return dx.reshape(-1, rows, columns, channels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def add_bias(x: jax.Array, bias: jax.Array, groups: int) -> jax.Array:
    """Adds (C,) to (B, H, W, C), group by group: each addition fuses with its convolution."""
    return join_groups([part + share for part, share in split_groups(x, bias, groups)])


def _bias_forward(x: jax.Array, bias: jax.Array, groups: int) -> tuple[jax.Array, None]:
    return add_bias(x, bias, groups), None


def _bias_backward(groups: int, _: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    # On a GPU, sum dy from memory, where the convolutions' gradients read it too; fusing the sum
    # with the code that produces dy slows both down.
    parts = platform.in_memory(jnp.split(dy, groups, axis=-1))
    return join_groups(parts), jnp.concatenate([part.sum(axis=(0, 1, 2)) for part in parts])


add_bias.defvjp(_bias_forward, _bias_backward)
