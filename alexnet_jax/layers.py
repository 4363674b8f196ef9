"""Convolution and pooling as AlexNet uses them, with gradients that are fast on every back end."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | Padding = 0, groups: int = 1
) -> jax.Array:
    """Convolves channels-last images; groups are written as one plain convolution each.

    XLA gathers the whole batch for a grouped convolution under a mesh and differentiates it several
    times slower, so `feature_group_count` is never used.

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
    if any(side for pair in padding for side in pair):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    if stride > 1:
        x, kernel = _space_to_depth(x, kernel, stride)
    inputs = jnp.split(x, groups, axis=-1)
    kernels = jnp.split(kernel, groups, axis=-1)
    outputs = [_valid_conv(i, k) for i, k in zip(inputs, kernels, strict=True)]
    return outputs[0] if groups == 1 else jnp.concatenate(outputs, axis=-1)


def _space_to_depth(x: jax.Array, kernel: jax.Array, s: int) -> tuple[jax.Array, jax.Array]:
    """Rewrites a stride-s convolution as a stride-1 one over s x s blocks of pixels.

    conv1 has three input channels, too few for any matrix unit; as 3x3 over 48 it is the same sum.
    """
    h, w, channels, out = kernel.shape
    taps_h, taps_w = -(-h // s), -(-w // s)
    rows = (x.shape[1] - h) // s + taps_h
    columns = (x.shape[2] - w) // s + taps_w
    kernel = jnp.pad(kernel, ((0, taps_h * s - h), (0, taps_w * s - w), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps_h, s, taps_w, s, channels, out).transpose(0, 2, 1, 3, 4, 5)
    x = x[:, : rows * s, : columns * s]
    x = jnp.pad(x, ((0, 0), (0, rows * s - x.shape[1]), (0, columns * s - x.shape[2]), (0, 0)))
    x = x.reshape(-1, rows, s, columns, s, channels).transpose(0, 1, 3, 2, 4, 5)
    return (
        x.reshape(-1, rows, columns, s * s * channels),
        kernel.reshape(taps_h, taps_w, s * s * channels, out),
    )


def _plain_conv(x: jax.Array, kernel: jax.Array, padding: Padding = ((0, 0), (0, 0))) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=dimensions)


@jax.custom_vjp
def _valid_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain_conv(x, kernel)


def _conv_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain_conv(x, kernel), (x, kernel)


def _conv_backward(
    residual: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(*residual, dy, cpu=_cpu_conv_gradients, default=_conv_gradients)


def _conv_gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(_plain_conv, x, kernel)[1](dy)


def _cpu_conv_gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The same gradients as convolutions of channels-last images.

    XLA's CPU compiler makes matrix products of those alone. It turns others into them by itself,
    but not in loops, where they take ten times longer (jaxlib 0.10.2, ConvCanonicalization).
    """
    height, width = kernel.shape[0] - 1, kernel.shape[1] - 1
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    dx = _plain_conv(dy, turned, ((height, height), (width, width)))
    dkernel = _plain_conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3))
    return dx, dkernel.transpose(1, 2, 0, 3)


_valid_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2, no padding (paper section 3.4).

    Where several inputs of a window share its maximum each gets the whole gradient, as in the
    authors' kernels; XLA's and PyTorch's own pooling give it to the first. Ties are zeros after a
    ReLU, which passes nothing back, or parts of an image that is the same colour all over.

    Args:
      x: (B, H, W, C), H and W at least 3.

    Returns:
      (B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C).
    """
    return _stride_two_max(_stride_two_max(x, 1), 2)


def non_overlapping_max_pool(x: jax.Array) -> jax.Array:
    """2x2 maximum with stride 2; the last window may reach past the edge (run #147).

    Args:
      x: (B, H, W, C).

    Returns:
      (B, ceil(H / 2), ceil(W / 2), C).
    """
    batch, height, width, channels = x.shape
    border = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    x = jnp.pad(x, border, constant_values=-jnp.inf)
    return x.reshape(batch, x.shape[1] // 2, 2, x.shape[2] // 2, 2, channels).max(axis=(2, 4))


MAX_POOLS = {2: non_overlapping_max_pool, 3: overlapping_max_pool}


def _stride_two_max(x: jax.Array, axis: int) -> jax.Array:
    count = (x.shape[axis] - 3) // 2 + 1
    end = 2 * count - 1
    shifted = (lax.slice_in_dim(x, i, i + end, 2, axis) for i in range(3))
    return functools.reduce(jnp.maximum, shifted)


def _pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = overlapping_max_pool(x)
    return y, (x, y)


def _pool_backward(residual: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
    # Window r covers rows 2r .. 2r + 2: an even row lies in windows r - 1 and r, an odd one in r
    # alone, and columns alike. So each parity of (row, column) is compared with four, two, two and
    # one windows: nine comparisons of a quarter of the map; XLA's select-and-scatter walks it.
    x, y = residual
    batch, height, width, channels = x.shape
    rows, columns = y.shape[1], y.shape[2]
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    windows = jnp.pad(y, border, constant_values=jnp.nan)
    gradients = jnp.pad(dy, border)

    def parity(row: int, column: int) -> jax.Array:
        part = x[:, row : 2 * rows + 1 : 2, column : 2 * columns + 1 : 2]
        shape = part.shape
        total = jnp.zeros_like(part)
        for i in (1,) if row else (0, 1):
            for j in (1,) if column else (0, 1):
                area = (slice(None), slice(i, i + shape[1]), slice(j, j + shape[2]))
                total += jnp.where(part == windows[area], gradients[area], 0)
        missing = ((0, 0), (0, rows + 1 - shape[1]), (0, columns + 1 - shape[2]), (0, 0))
        return jnp.pad(total, missing)

    lines = [jnp.stack([parity(row, 0), parity(row, 1)], axis=3) for row in (0, 1)]
    dx = jnp.stack(lines, axis=2).reshape(batch, 2 * rows + 2, 2 * columns + 2, channels)
    dx = dx[:, : min(height, 2 * rows + 1), : min(width, 2 * columns + 1)]
    rest = ((0, 0), (0, height - dx.shape[1]), (0, width - dx.shape[2]), (0, 0))
    return (jnp.pad(dx, rest),)


overlapping_max_pool.defvjp(_pool_forward, _pool_backward)


def fully_connected(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    """Multiplies all of an image's values with a matrix; groups see their own channels only.

    Args:
      x: (B, ..., C).
      kernel: (values of an image / groups, units), group 0's units first; the values of a group
        are in the order of its (..., C / groups).
      groups: number of channel groups that do not see each other.

    Returns:
      (B, units).
    """
    inputs = [part.reshape(x.shape[0], -1) for part in jnp.split(x, groups, axis=-1)]
    kernels = jnp.split(kernel, groups, axis=-1)
    outputs = [_product(i, k) for i, k in zip(inputs, kernels, strict=True)]
    return outputs[0] if groups == 1 else jnp.concatenate(outputs, axis=-1)


# Where XLA's CPU kernels change the order of their sums (seen with jaxlib 0.10.2): the columns are
# an odd number of eights, or the rows are few and the matrix is small.
TILE, FEW_ROWS, SMALL_MATRIX = 16, 64, 2**16


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    if _columns_in_order(x, matrix) == matrix.shape[1]:
        return x @ matrix
    return lax.platform_dependent(x, matrix, cpu=_cpu_product, default=jnp.matmul)


def _columns_in_order(x: jax.Array, matrix: jax.Array) -> int:
    """Returns how many columns let a CPU sum in one order, whatever share of them is here."""
    rows, (depth, columns) = x.shape[0], matrix.shape
    least = -(-SMALL_MATRIX // depth) if rows < FEW_ROWS else columns
    return -(-max(columns, least) // TILE) * TILE


def _cpu_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies with columns of zeros added, so that each sum has its order on every mesh.

    A device with 3 channels of 24 would differ in the last bits from one with all of them; a ReLU
    near zero would make much of that, and the runs would part.
    """
    columns = matrix.shape[1]
    missing = _columns_in_order(x, matrix) - columns
    return (x @ jnp.pad(matrix, ((0, 0), (0, missing))))[:, :columns]


def keep_mask(keys: jax.Array, units: int, rate: float) -> jax.Array:
    """Draws which units stay, (B, units) bool.

    Args:
      keys: (B,) typed keys, one an example, so that the mask belongs to the example and the unit
        and not to the device that computes it.
      units: of the whole layer, over all devices.
      rate: probability of a unit being left out.
    """
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (units,)))(keys)


def dropout(x: jax.Array, keep: jax.Array) -> jax.Array:
    """Sets units to zero, without rescaling the others (paper section 4.2): (B, units) each."""
    return jnp.where(keep, x, jnp.zeros((), x.dtype))
