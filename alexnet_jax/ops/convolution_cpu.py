"""Convolutions for a CPU: oneDNN's where they can be called, else matrix products by XLA.

Inference with kernels that were packed once takes fewer products for 3x3 and 5x5 taps
(`winograd`).
"""

import functools

import jax
import jax.numpy as jnp

from alexnet_jax.ops import convolution_xla, onednn, winograd
from alexnet_jax.ops.convolution_xla import Padding, join_groups, plain_conv

# Input and output channels from which `winograd` beats oneDNN's convolution, by taps.
LEAST_CHANNELS = {3: 128, 5: 48}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int) -> jax.Array:
    """Convolves as `convolution.conv` says; oneDNN or XLA's matrix products give the gradients."""
    return _forward(x, kernel, stride, padding, groups)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> jax.Array:
    way = onednn.conv if onednn.takes(x, kernel, padding) else convolution_xla.conv
    return way(x, kernel, stride, padding, groups)


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
    """The gradients as convolutions of channels-last images; the zeros around x get none.

    XLA's CPU compiler turns only such convolutions into matrix products. It rewrites others to
    channels-last itself, but not in loops, where they take ten times longer (jaxlib 0.10.2,
    ConvCanonicalization).
    """
    x, kernel = residual
    # Padding x keeps XLA from recomputing its producer (pooling) while it transposes x.
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = kernel.shape[:2]
    (top, bottom), (left, right) = padding
    # Rows and columns of x past the last place that the kernel reaches; none with a stride of 1.
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
        dkernel.append(plain_conv(i, d, reached, kernel_dilation=stride).transpose(1, 2, 0, 3))
    if stride == 1:
        dx = _forward(dy, join_groups(turned), 1, around, groups)
    else:
        parts = zip(jnp.split(dy, groups, -1), turned, strict=True)
        dx = join_groups([plain_conv(d, k, around, x_dilation=stride) for d, k in parts])
    return dx, join_groups(dkernel)


conv.defvjp(_conv_forward, _conv_backward)


def pack(kernel: jax.Array, stride: int, padding: Padding, groups: int) -> jax.Array | None:
    """Returns what `packed_conv` takes, (groups, N, I, O); None where `conv` is faster."""
    height, width, channels, out = kernel.shape
    if height != width or height not in LEAST_CHANNELS or stride != 1:
        return None
    if min(channels, out // groups) < LEAST_CHANNELS[height]:
        return None
    if not onednn.takes(kernel, kernel, padding):
        return None
    return jnp.stack([winograd.transformed(k) for k in jnp.split(kernel, groups, axis=-1)])


def packed_conv(x: jax.Array, packed: jax.Array, padding: Padding) -> jax.Array:
    """Convolves with what `pack` returned; it has no gradient of its own."""
    pairs = zip(jnp.split(x, len(packed), axis=-1), packed, strict=True)
    return join_groups([winograd.conv(i, k, padding, onednn.products) for i, k in pairs])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def add_bias(x: jax.Array, bias: jax.Array, groups: int) -> jax.Array:
    """Adds (C,) to (B, H, W, C); oneDNN sums the bias gradient, as XLA would compute dy twice."""
    return x + bias


def _bias_forward(x: jax.Array, bias: jax.Array, groups: int) -> tuple[jax.Array, None]:
    return add_bias(x, bias, groups), None


def _bias_backward(groups: int, _: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    # oneDNN sums over images only: in a sum over all places, a device with fewer channels would
    # add in another order.
    images = dy.reshape(len(dy), -1)
    if not onednn.takes(images, images):
        return dy, dy.sum(axis=(0, 1, 2))
    of_places = onednn.product(jnp.ones((1, len(images)), dy.dtype), images)
    return dy, of_places.reshape(-1, dy.shape[-1]).sum(axis=0)


add_bias.defvjp(_bias_forward, _bias_backward)
