"""Convolutions with their biases, whose columns are plain convolutions, on every back end."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.ops import compilation, onednn
from alexnet_jax.ops.onednn import Padding

# A GPU computes an input's gradient two columns of pixels at a time where it has fewer channels
# than a tile of cuDNN's, and the kernel is so wide that one more column of it costs little.
FEW_CHANNELS, WIDE_KERNEL = 64, 5
PIXEL = 4  # numbers of a pixel in a block of them


def conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | Padding = 0, groups: int = 1
) -> jax.Array:
    """Convolves channels-last images; groups are written as one plain convolution each.

    XLA gathers the whole batch for a grouped convolution under a mesh and differentiates it several
    times slower on a CPU, and nearly twice on a GPU, so `feature_group_count` is never used.

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C / groups, O), group 0's outputs first.
      stride: in pixels, both ways.
      padding: zeros on each side, or ((top, bottom), (left, right)).
      groups: number of channel groups that do not see each other.

    Returns:
      (B, H', W', O).
    """
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    return _conv(x, kernel, stride, padding, groups)


def _space_to_depth(x: jax.Array, kernel: jax.Array, s: int) -> tuple[jax.Array, jax.Array]:
    """Rewrites a stride-s convolution as a stride-1 one over s x s blocks of pixels.

    conv1 has three input channels, too few for a matrix unit. With each pixel filled up with a zero
    to four numbers, which a GPU makes and writes at once (experiments/speed), blocks of 4x4 pixels
    are 64 channels, and a 3x3 kernel over them computes the same sum. A CPU does not come here: it
    is faster with the 11 x 11 x 3 = 363 numbers as they are.
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


def _plain_conv(
    x: jax.Array,
    kernel: jax.Array,
    padding: Padding,
    stride: int | tuple[int, int] = 1,
    x_dilation: int = 1,
    kernel_dilation: int = 1,
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride) if isinstance(stride, int) else stride,
        padding,
        (x_dilation, x_dilation),
        (kernel_dilation, kernel_dilation),
        ("NHWC", "HWIO", "NHWC"),
    )


def _of_groups(
    x: jax.Array, kernel: jax.Array, groups: int
) -> Iterator[tuple[jax.Array, jax.Array]]:
    inputs, kernels = jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1)
    return zip(inputs, kernels, strict=True)


def _beside(outputs: list[jax.Array]) -> jax.Array:
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)


def _as_written(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> jax.Array:
    return _beside([_plain_conv(i, k, padding, stride) for i, k in _of_groups(x, kernel, groups)])


def _over_blocks(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> jax.Array:
    if stride == 1:
        return _as_written(x, kernel, stride, padding, groups)
    x, none = jnp.pad(x, ((0, 0), *padding, (0, 0))), ((0, 0), (0, 0))
    parts = [_space_to_depth(i, k, stride) for i, k in _of_groups(x, kernel, groups)]
    return _beside([_plain_conv(i, k, none) for i, k in parts])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int) -> jax.Array:
    cpu, default = (
        functools.partial(way, stride=stride, padding=padding, groups=groups)
        for way in (_on_cpu, _over_blocks)
    )
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _on_cpu(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> jax.Array:
    way = onednn.conv if onednn.takes(x, kernel, padding) else _as_written
    return way(x, kernel, stride, padding, groups)


def _conv_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(x, kernel, stride, padding, groups), (x, kernel)


def _conv_backward(
    stride: int,
    padding: Padding,
    groups: int,
    residual: tuple[jax.Array, jax.Array],
    dy: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    cpu, cuda, default = (
        functools.partial(way, stride=stride, padding=padding, groups=groups)
        for way in (_cpu_gradients, _cuda_gradients, _default_gradients)
    )
    return lax.platform_dependent(*residual, dy, cpu=cpu, cuda=cuda, default=default)


def _default_gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, padding: Padding, groups: int
) -> tuple[jax.Array, jax.Array]:
    conv = functools.partial(_over_blocks, stride=stride, padding=padding, groups=groups)
    return jax.vjp(conv, x, kernel)[1](dy)


def _cuda_gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, padding: Padding, groups: int
) -> tuple[jax.Array, jax.Array]:
    many_channels = x.shape[-1] // groups >= FEW_CHANNELS
    if stride > 1 or kernel.shape[1] < WIDE_KERNEL or many_channels:
        return _default_gradients(x, kernel, dy, stride, padding, groups)
    of_kernel = functools.partial(_as_written, x, stride=stride, padding=padding, groups=groups)
    (dkernel,) = jax.vjp(of_kernel, kernel)[1](dy)
    parts = _of_groups(dy, kernel, groups)
    dx = _beside([_input_gradient_in_pairs(d, k, x.shape, padding) for d, k in parts])
    return dx[:, :, dx.shape[2] - x.shape[2] :], dkernel


def _input_gradient_in_pairs(
    dy: jax.Array, kernel: jax.Array, shape: tuple[int, ...], padding: Padding
) -> jax.Array:
    """The gradient of (B, H, W, C), two columns of an image at a time: a place of 2 C channels.

    cuDNN's tiles are wider than 48 channels. Both columns see what either does, a sixth of it
    zeros, and yet it takes a fifth less time (experiments/speed). Where W is odd there is one more
    column before the first, which is no gradient of anything: so there are as many zeros on either
    side, as cuDNN wants, and dy is not copied.
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
    dx = _plain_conv(dy, kernels, around, (1, 2))
    return dx.reshape(-1, rows, columns, channels)


def _cpu_gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, padding: Padding, groups: int
) -> tuple[jax.Array, jax.Array]:
    """The gradients as convolutions of channels-last images; of the zeros around x there is none.

    XLA's CPU compiler makes matrix products of those alone. It turns others into them by itself,
    but not in loops, where they take ten times longer (jaxlib 0.10.2, ConvCanonicalization).
    """
    # Zeros around x keep XLA from computing what makes it (pooling) again while it is turned.
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = kernel.shape[:2]
    (top, bottom), (left, right) = padding
    # What x has after the last place that a kernel reaches: nothing with a stride of 1.
    rest_h = (x.shape[1] - height) % stride
    rest_w = (x.shape[2] - width) % stride
    around = (
        (height - 1 - top, height - 1 - bottom + rest_h),
        (width - 1 - left, width - 1 - right + rest_w),
    )
    reached = ((0, -rest_h), (0, -rest_w))
    turned = [k[::-1, ::-1].swapaxes(2, 3) for k in jnp.split(kernel, groups, axis=-1)]
    dkernel = []
    for i, d in zip(jnp.split(x, groups, -1), jnp.split(dy, groups, -1), strict=True):
        i, d = i.transpose(3, 1, 2, 0), d.transpose(1, 2, 0, 3)
        dkernel.append(_plain_conv(i, d, reached, kernel_dilation=stride).transpose(1, 2, 0, 3))
    if stride == 1:
        dx = _on_cpu(dy, _beside(turned), 1, around, groups)
    else:
        parts = zip(jnp.split(dy, groups, -1), turned, strict=True)
        dx = _beside([_plain_conv(d, k, around, x_dilation=stride) for d, k in parts])
    return dx, _beside(dkernel)


_conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def add_bias(x: jax.Array, bias: jax.Array, groups: int = 1) -> jax.Array:
    """Adds a number to each channel of what `conv` returns.

    Args:
      x: (B, H, W, C).
      bias: (C,).
      groups: of the convolution. A GPU adds to each group's array by itself: both are one kernel.
    """

    def cuda(x: jax.Array, bias: jax.Array) -> jax.Array:
        return _beside([part + own for part, own in _of_groups(x, bias, groups)])

    return lax.platform_dependent(x, bias, cuda=cuda, default=jnp.add)


def _bias_forward(x: jax.Array, bias: jax.Array, groups: int) -> tuple[jax.Array, None]:
    return add_bias(x, bias, groups), None


def _bias_backward(groups: int, _: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    def default(dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return dy, dy.sum(axis=(0, 1, 2))

    def cuda(dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        # A GPU sums what lies in memory, as the convolutions' gradients read it; fused with what
        # makes it, both are slow.
        parts = compilation.in_memory(jnp.split(dy, groups, axis=-1))
        return _beside(parts), jnp.concatenate([part.sum(axis=(0, 1, 2)) for part in parts])

    def cpu(dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        # XLA would compute the numbers again to sum them, one after the other; oneDNN reads them.
        # Over images alone: over all places it sums fewer channels in another order.
        images = dy.reshape(len(dy), -1)
        if not onednn.takes(images, images):
            return default(dy)
        of_places = onednn.product(jnp.ones((1, len(images)), dy.dtype), images)
        return dy, of_places.reshape(-1, dy.shape[-1]).sum(axis=0)

    return lax.platform_dependent(dy, cpu=cpu, cuda=cuda, default=default)


add_bias.defvjp(_bias_forward, _bias_backward)
