"""3x3 convolutions by tiles against the definition, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.ops import winograd


def by_definition(x, kernel, padding):
    (top, bottom), (left, right) = padding
    x = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    return sum(
        x[:, i : i + rows, j : j + columns] @ kernel[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )


CASES = [
    ((1, 13, 13, 5), 7, ((1, 1), (1, 1))),
    ((4, 6, 6, 3), 2, ((0, 0), (0, 0))),
    ((5, 7, 10, 4), 3, ((1, 0), (2, 1))),
    ((13, 5, 3, 2), 4, ((1, 1), (1, 1))),
    ((8, 3, 3, 2), 1, ((0, 0), (0, 0))),
]


@pytest.mark.parametrize(("shape", "out", "padding"), CASES)
def test_it_is_the_convolution(shape, out, padding, rng):
    """Whatever the batch, the sides and the zeros around."""
    x = rng.standard_normal(shape).astype(np.float32)
    kernel = rng.standard_normal((3, 3, shape[-1], out)).astype(np.float32)

    def conv(x, kernel):
        return winograd.conv(x, winograd.transformed(kernel), padding, jnp.matmul)

    found, wanted = np.asarray(jax.jit(conv)(x, kernel)), by_definition(x, kernel, padding)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 3e-6 * np.abs(wanted).max()


def test_it_multiplies_sixteen_times_where_nine_of_four_pixels_were():
    x, kernel = jnp.zeros((4, 12, 12, 8)), jnp.zeros((16, 8, 8))
    seen = []

    def product(a, b):
        seen.append((a.shape, b.shape))
        return jnp.matmul(a, b)

    winograd.conv(x, kernel, ((1, 1), (1, 1)), product)
    [(tiles, _)] = seen
    assert tiles == (16, 4 * 6 * 6 + 1, 8)
