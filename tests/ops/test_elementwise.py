import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from jax import lax
from x64 import enable_x64

from alexnet_jax.ops import (
    compilation,
    convolution,
    elementwise,
    gather,
    matmul,
    matmul_cpu,
    platform,
    pooling,
)


@pytest.mark.parametrize(
    ("side", "channels", "out", "size", "stride", "padding", "groups"),
    [
        (35, 3, 4, 11, 4, 0, 1),  # conv1, 227-like
        (32, 3, 4, 11, 4, ((0, 3), (0, 3)), 1),  # conv1, 224 with right and bottom padding
        (37, 3, 4, 11, 4, 0, 1),  # a size with pixels left over
        (9, 6, 8, 5, 1, 2, 2),
        (8, 6, 8, 5, 1, 2, 1),  # an even number of columns
        (9, 4, 6, 5, 1, ((1, 0), (3, 1)), 2),
        (11, 2, 6, 7, 1, 0, 1),
        (10, 6, 8, 3, 2, 1, 2),  # strides and groups at once
        (7, 8, 6, 3, 1, 1, 1),
        (7, 140, 6, 3, 1, 1, 2),
    ],
)
def test_conv_and_its_gradients(rng, way, side, channels, out, size, stride, padding, groups):
    with enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, side, side, channels)))
        kernel = jnp.asarray(rng.normal(size=(size, size, channels // groups, out)))
        want, want_vjp = jax.vjp(
            lambda a, b: textbook.conv(a, b, stride, padding, groups), x, kernel
        )
        got, got_vjp = jax.vjp(
            lambda a, b: convolution.conv(a, b, stride, padding, groups), x, kernel
        )
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
        dy = jnp.asarray(rng.normal(size=want.shape))
        for g, w in zip(got_vjp(dy), want_vjp(dy), strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-10)


def test_a_gpu_s_conv1_sees_blocks_of_whole_pixels():
    """Four numbers a pixel: with three, a GPU makes each by itself (experiments/speed, s3)."""
    x, kernel = jnp.ones((2, 227, 227, 3), jnp.bfloat16), jnp.ones((11, 11, 3, 96), jnp.bfloat16)
    with platform.using("auto", "cuda"):
        text = jax.jit(lambda x, kernel: convolution.conv(x, kernel, 4)).lower(x, kernel).as_text()
    assert "(tensor<2x57x57x64xbf16>, tensor<3x3x64x96xbf16>)" in text


@pytest.mark.parametrize("groups", [1, 2])
def test_bias_and_relu(rng, way, groups):
    x, bias = jnp.asarray(rng.normal(size=(2, 3, 5, 8))), jnp.asarray(rng.normal(size=8))
    dy = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    want, want_vjp = jax.vjp(lambda x, b: jax.nn.relu(x + b), x, bias)
    got, got_vjp = jax.vjp(
        lambda x, b: elementwise.relu(convolution.add_bias(x, b, groups)), x, bias
    )
    np.testing.assert_array_equal(got, want)
    for g, w in zip(got_vjp(dy), want_vjp(dy), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (3, 3), (4, 9), (13, 27)])
def test_max_pool_and_its_gradient(rng, way, shape):
    x = jnp.asarray(rng.normal(size=(2, *shape, 3)), jnp.float32)

    def plain(v):
        return lax.reduce_window(v, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")

    want, want_vjp = jax.vjp(plain, x)
    got, got_vjp = jax.vjp(pooling.overlapping_max_pool, x)
    np.testing.assert_array_equal(got, want)
    dy = jnp.asarray(rng.normal(size=want.shape), jnp.float32)
    np.testing.assert_allclose(got_vjp(dy)[0], want_vjp(dy)[0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(7, 8), (8, 9), (3, 4)])
def test_max_pool_of_ties_is_a_loop_s(rng, way, shape, dtype):
    """Small whole numbers: in most windows several share the maximum, and sums are exact."""
    x = rng.integers(0, 3, (2, *shape, 3)).astype(np.float64)
    rows, columns = ((side - 3) // 2 + 1 for side in shape)
    dy = rng.integers(1, 5, (2, rows, columns, 3)).astype(np.float64)
    want = np.zeros_like(x)
    for b, r, q, c in np.ndindex(*dy.shape):
        window = x[b, 2 * r : 2 * r + 3, 2 * q : 2 * q + 3, c]
        share = (window == window.max()) * dy[b, r, q, c]
        want[b, 2 * r : 2 * r + 3, 2 * q : 2 * q + 3, c] += share
    _, gradient = jax.vjp(pooling.overlapping_max_pool, jnp.asarray(x, dtype))
    got = np.asarray(gradient(jnp.asarray(dy, dtype))[0]).astype(np.float64)
    np.testing.assert_array_equal(got, want)


def test_max_pool_gives_ties_the_whole_gradient(way):
    x = jnp.ones((1, 3, 3, 1))
    gradient = jax.grad(lambda v: pooling.overlapping_max_pool(v).sum())(x)
    np.testing.assert_array_equal(gradient, jnp.ones_like(x))


def test_no_grouped_convolution_in_the_program():
    x, kernel = jnp.ones((2, 9, 9, 8)), jnp.ones((5, 5, 4, 6))
    f = jax.grad(lambda a, b: convolution.conv(a, b, 1, 2, 2).sum(), argnums=(0, 1))
    text = jax.jit(f).lower(x, kernel).as_text()
    assert "convolution" in text
    assert "feature_group_count = 1 " in text
    assert "feature_group_count = 2" not in text


def test_dropout_belongs_to_the_example(rng):
    keys = jax.vmap(jax.random.key)(jnp.arange(64))
    x = jnp.ones((64, 500))
    all_rows = elementwise.dropout(x, elementwise.keep_mask(keys, x.shape[1], 0.5))
    assert float(all_rows.mean()) == pytest.approx(0.5, abs=0.02)
    assert set(np.unique(all_rows)) == {0.0, 1.0}
    np.testing.assert_array_equal(
        elementwise.dropout(x[10:20], elementwise.keep_mask(keys[10:20], x.shape[1], 0.5)),
        all_rows[10:20],
    )


def test_each_platforms_way_is_the_other_s(rng):
    """Pairs that no other test compares: CPUs' products, and copies of images."""
    x = jnp.asarray(rng.normal(size=(2, 9, 8, 6)), jnp.float32)
    # Positive: a sum that cancels keeps its terms' rounding, and CPUs add terms in any order.
    rows = jnp.abs(x[0, 0])
    matrix = jnp.asarray(rng.uniform(0.1, 1, size=(8, 5)), jnp.float32)
    np.testing.assert_allclose(matmul_cpu._small_product(rows, rows.T), rows @ rows.T, 1e-5)
    np.testing.assert_allclose(matmul_cpu._small_product(matrix.T, matrix), matrix.T @ matrix, 1e-5)
    inputs = jnp.abs(x[0, 0]), matrix[:6]
    here, there = (
        jax.vjp(of, *inputs)[1](jnp.ones((8, 5))) for of in (matmul_cpu._deep_product, jnp.matmul)
    )
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one, other, 1e-5)
    images, index = jnp.arange(5 * 12).reshape(5, 2, 2, 3), jnp.array([4, 0, 0, 2])
    np.testing.assert_array_equal(gather._copied(images, index), images[index])
    np.testing.assert_array_equal(gather._gathered(images, index), images[index])


@pytest.mark.parametrize(("rows", "columns"), [(2, 1024), (128, 1024), (32, 8)])
def test_deep_products_are_not_turned_first(rows, columns):
    """YNNPACK would transpose the whole matrix first; a device's share must avoid it too."""
    x = jax.ShapeDtypeStruct((rows, 2048), jnp.float32)
    matrix = jax.ShapeDtypeStruct((2048, columns), jnp.float32)
    with platform.using("auto", platform.PLAIN_CPU):
        text = compilation.compiled(matmul.fully_connected, x, matrix).as_text()
    assert "ynn_fusion" not in text
    assert "dot(" in text


def test_the_activations_that_a_network_may_have(rng):
    x = rng.normal(0, 3, (7, 5)).astype(np.float32)
    wanted = {"relu": np.maximum(x, 0), "tanh": np.tanh(x), "sigmoid": 1 / (1 + np.exp(-x))}
    assert wanted.keys() == elementwise.ACTIVATIONS.keys()
    for name, want in wanted.items():
        np.testing.assert_allclose(elementwise.ACTIVATIONS[name](x), want, rtol=2e-6, atol=1e-7)
