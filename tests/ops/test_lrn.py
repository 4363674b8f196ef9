import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from x64 import enable_x64

from alexnet_jax.ops import compilation, elementwise
from alexnet_jax.ops.lrn import lrn, rectified_lrn, spatial_response_norm
from alexnet_jax.ops.lrn_formula import Lrn
from alexnet_jax.ops.lrn_sharded import lrn_between


def naive_lrn(x: np.ndarray, size: int, scale: float, beta: float, k: float, groups: int):
    """The formula, one number at a time."""
    y = np.empty_like(x)
    width = x.shape[-1] // groups
    for where in np.ndindex(*x.shape[:-1]):
        for c in range(x.shape[-1]):
            first = c // width * width
            total = 0.0
            for other in range(c - size // 2, c + size // 2 + 1):
                if first <= other < first + width:
                    total += x[where][other] ** 2
            y[where][c] = x[where][c] / (k + scale * total) ** beta
    return y


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.sampled_from([1, 3, 5, 7]),
    groups=st.sampled_from([1, 2, 3]),
    width=st.integers(1, 7),
    beta=st.sampled_from([0.75, 0.5, 1.0]),
    k=st.sampled_from([1.0, 2.0]),
)
def test_equals_the_naive_loop(way, size, groups, width, beta, k):
    x = np.random.default_rng(1).normal(0, 30, (2, 3, groups * width))
    got = lrn(jnp.asarray(x, jnp.float32), Lrn(size, 1e-3, beta, k), groups)
    np.testing.assert_allclose(got, naive_lrn(x, size, 1e-3, beta, k, groups), rtol=2e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_column_sees_nothing_of_another(rng, way, dtype, lost):
    """Not even NaN or infinity, in values or gradients, in any precision."""
    with enable_x64(dtype == "float64"):
        own, other = jnp.asarray(rng.normal(0, 20, (3, 6)), dtype), jnp.full((3, 6), lost, dtype)
        x = jnp.concatenate([own, other], axis=-1)
        for function in (lrn, lambda x, c, g: jax.grad(lambda x: lrn(x, c, g)[..., :6].sum())(x)):
            alone, beside = function(own, Lrn(5, 1e-3), 1), function(x, Lrn(5, 1e-3), 2)
            np.testing.assert_array_equal(beside[..., :6].view("uint8"), alone.view("uint8"))


@pytest.mark.parametrize("beta", [0.75, 0.6])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradient_equals_finite_differences(rng, way, beta, groups):
    with enable_x64(True):
        x, dy = jnp.asarray(rng.normal(0, 20, (3, 12))), jnp.asarray(rng.normal(0, 1, (3, 12)))
        constants = Lrn(5, 2e-3, beta, 2.0)
        got = jax.grad(lambda v: (lrn(v, constants, groups) * dy).sum())(x)
        for where in np.ndindex(*x.shape):
            step = jnp.zeros_like(x).at[where].set(1e-4)
            up = (lrn(x + step, constants, groups) * dy).sum()
            down = (lrn(x - step, constants, groups) * dy).sum()
            np.testing.assert_allclose(got[where], (up - down) / 2e-4, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("groups", [1, 2])
def test_relu_and_norm_as_one_are_both(rng, way, groups):
    """To the last bit; only in a GPU's bfloat16 may the two differ."""
    x, dy = (jnp.asarray(rng.normal(0, 20, (3, 4, 12)), jnp.float32) for _ in range(2))
    x = x.at[0, 0].set(0)
    both, both_vjp = jax.vjp(lambda x: lrn(elementwise.relu(x), Lrn(5, 1e-3), groups), x)
    one, one_vjp = jax.vjp(lambda x: rectified_lrn(x, Lrn(5, 1e-3), groups), x)
    np.testing.assert_array_equal(one, both)
    np.testing.assert_array_equal(one_vjp(dy)[0], both_vjp(dy)[0])


def test_spatial_norm_equals_a_naive_loop_and_finite_differences(rng):
    with enable_x64(True):
        x = rng.normal(0, 9, (1, 6, 7, 2))
        constants = Lrn(5, 1e-3, 0.75, 1.0)
        want = np.empty_like(x)
        for b, i, j, c in np.ndindex(*x.shape):
            patch = x[b, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3, c]
            want[b, i, j, c] = x[b, i, j, c] / (1 + 1e-3 * (patch**2).sum()) ** 0.75
        x = jnp.asarray(x)
        np.testing.assert_allclose(spatial_response_norm(x, constants), want, rtol=1e-12)
        dy = jnp.asarray(rng.normal(0, 1, x.shape))
        loss = lambda v: (spatial_response_norm(v, constants) * dy).sum()  # noqa: E731
        got = jax.grad(loss)(x)
        for where in [(0, 0, 0, 0), (0, 3, 4, 1), (0, 5, 6, 0)]:
            step = jnp.zeros_like(x).at[where].set(1e-4)
            np.testing.assert_allclose(
                got[where], (loss(x + step) - loss(x - step)) / 2e-4, rtol=1e-5
            )


@pytest.mark.parametrize(
    ("convention", "scale", "k"),
    [
        ("paper", 1e-4, 2.0),
        ("original_code", 2e-5, 2.0),
        ("caffe", 2e-5, 1.0),
        ("torch", 2e-5, 1.0),
    ],
)
def test_conventions(convention, scale, k):
    assert Lrn.named(convention, 5, 1e-4) == Lrn(5, pytest.approx(scale), 0.75, k)


def test_refuses_even_windows_and_unknown_names():
    with pytest.raises(ValueError, match="must be odd"):
        Lrn.named("paper", 4)
    with pytest.raises(ValueError, match="not one of"):
        Lrn.named("tensorflow")


def test_equals_torch(rng, way):
    torch = pytest.importorskip("torch")
    x = rng.normal(0, 40, (2, 10, 3, 3)).astype(np.float32)
    want = torch.nn.LocalResponseNorm(5, alpha=1e-3, beta=0.75, k=1.5)(torch.from_numpy(x))
    got = lrn(jnp.asarray(x.transpose(0, 2, 3, 1)), Lrn.named("torch", 5, 1e-3, k=1.5))
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, rtol=1e-5)


def test_a_part_without_neighbours_is_the_whole_to_the_last_bit(rng, as_in_production):
    """For a column, one device must compute exactly what several devices compute."""
    x = jnp.asarray(rng.normal(0, 30, (4, 5, 5, 48)), jnp.float32)
    dy = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    none = jnp.zeros((*x.shape[:-1], 2))

    def both(norm):
        return compilation.jit(lambda x, dy: (norm(x), *jax.vjp(norm, x)[1](dy)))(x, dy)

    alone = functools.partial(lrn_between, edges=(none, none), constants=Lrn())
    for whole, part in zip(both(lrn), both(alone), strict=True):
        np.testing.assert_array_equal(whole, part)


@pytest.mark.parametrize("size", [3, 5])
def test_parts_with_their_edges_are_the_whole(rng, size):
    """As devices compute it: three parts of the channels, each told its neighbours' edges."""
    half, constants = size // 2, Lrn(size, 2e-3, 0.75, 2.0)
    with enable_x64(True):
        x, dy = jnp.asarray(rng.normal(0, 20, (2, 12))), jnp.asarray(rng.normal(0, 1, (2, 12)))

        def in_parts(v: jax.Array) -> jax.Array:
            wide = jnp.pad(v, ((0, 0), (half, half)))
            parts = [
                lrn_between(
                    v[:, i : i + 4],
                    (wide[:, i : i + half], wide[:, i + half + 4 : i + 2 * half + 4]),
                    constants,
                )
                for i in (0, 4, 8)
            ]
            return jnp.concatenate(parts, axis=1)

        np.testing.assert_allclose(in_parts(x), lrn(x, constants), rtol=1e-12)
        got = jax.grad(lambda v: (in_parts(v) * dy).sum())(x)
        want = jax.grad(lambda v: (lrn(v, constants) * dy).sum())(x)
        np.testing.assert_allclose(got, want, rtol=1e-10)
