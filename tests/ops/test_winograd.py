"""Convolutions by tiles against the definition, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.ops import winograd


def by_definition(x, kernel, padding):
    (top, bottom), (left, right) = padding
    x = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = (side - len(kernel) + 1 for side in x.shape[1:3])
    return sum(
        x[:, i : i + rows, j : j + columns] @ kernel[i, j].astype(np.float64)
        for i in range(len(kernel))
        for j in range(len(kernel))
    )


# Shape, outputs, zeros around, taps. The last has matrices of whole pages.
CASES = [
    ((1, 13, 13, 5), 7, ((1, 1), (1, 1)), 3),
    ((4, 6, 6, 3), 2, ((0, 0), (0, 0)), 3),
    ((5, 7, 10, 4), 3, ((1, 0), (2, 1)), 3),
    ((13, 5, 3, 2), 4, ((1, 1), (1, 1)), 3),
    ((8, 3, 3, 2), 1, ((0, 0), (0, 0)), 3),
    ((1, 27, 27, 5), 7, ((2, 2), (2, 2)), 5),
    ((3, 6, 5, 3), 2, ((0, 0), (0, 0)), 5),
    ((2, 8, 11, 4), 3, ((1, 0), (3, 2)), 5),
    ((2, 5, 5, 2), 1, ((0, 0), (0, 0)), 5),
    ((4, 14, 14, 256), 5, ((1, 1), (1, 1)), 3),
]


@pytest.mark.parametrize(("shape", "out", "padding", "taps"), CASES)
def test_it_is_the_convolution(shape, out, padding, taps, rng):
    """Whatever the batch, the sides and the zeros around."""
    x = rng.standard_normal(shape).astype(np.float32)
    kernel = rng.standard_normal((taps, taps, shape[-1], out)).astype(np.float32)

    def conv(x, kernel):
        return winograd.conv(x, winograd.transformed(kernel), padding, jnp.matmul)

    found, wanted = np.asarray(jax.jit(conv)(x, kernel)), by_definition(x, kernel, padding)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 4e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("images", "taps", "channels", "products"),
    [(4, 3, 8, (16, 4 * 6 * 6, 8)), (4, 3, 256, (16, 4 * 6 * 6 + 1, 256)), (1, 5, 8, (36, 36, 8))],
)
def test_it_multiplies_once_for_four_outputs(images, taps, channels, products):
    """16 times where nine taps of four pixels take 36; no two matrices lie whole pages apart."""
    kernel = jnp.zeros((winograd.TILINGS[taps].side ** 2, channels, 8))
    seen = []

    def product(a, b):
        seen.append(a.shape)
        return jnp.matmul(a, b)

    around = (taps // 2, taps // 2)
    winograd.conv(jnp.zeros((images, 12, 12, channels)), kernel, (around, around), product)
    assert seen == [products]


def test_factors_are_those_of_lavin_and_gray():
    """For 3x3 taps, up to the signs of the kernel rows with two zeros."""
    t = winograd.TILINGS[3]
    np.testing.assert_array_equal(np.abs(t.of_kernel), [[1, 0, 0], [0.5] * 3, [0.5] * 3, [0, 0, 1]])
    np.testing.assert_array_equal(t.of_output, [[1, 1, 1, 0], [0, 1, -1, 1]])
