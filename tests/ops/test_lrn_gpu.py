"""Four channels packed into a word, compared with the plain array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from alexnet_jax.ops import lrn_gpu, platform
from alexnet_jax.ops.lrn import lrn, rectified_lrn
from alexnet_jax.ops.lrn_formula import Lrn


def test_lanes_are_the_channels_around_and_go_back(rng):
    x = jnp.asarray(rng.normal(size=(5, 12)), jnp.bfloat16)
    wide = np.pad(np.asarray(x, np.float32), ((0, 0), (4, 4)))
    around = lrn_gpu.around(x)
    for i, lane in enumerate(around):
        assert lane.dtype == jnp.float32
        np.testing.assert_array_equal(lane, wide[:, i : i + 12 : 4][:, :3])
    np.testing.assert_array_equal(lrn_gpu.packed(around[4:8]), x)


def test_what_is_no_number_stays_what_it_is():
    x = jnp.asarray([[np.nan, -np.inf, np.inf, -0.0, 1e-40, 3e38, -1.5, 0.0]], jnp.bfloat16)
    back = lrn_gpu.packed(lrn_gpu.around(x)[4:8])
    np.testing.assert_array_equal(back.view(jnp.uint16), x.view(jnp.uint16))


@pytest.mark.parametrize(
    ("dtype", "channels", "reach", "fits"),
    [
        ("bfloat16", 48, 4, True),
        ("bfloat16", 48, 5, False),
        ("bfloat16", 50, 4, False),
        ("float32", 48, 4, False),
        ("float16", 48, 4, False),
    ],
)
def test_what_fits(dtype, channels, reach, fits):
    assert lrn_gpu.fit(jnp.zeros((2, channels), dtype), reach) == fits


@pytest.mark.parametrize("function", [lrn, rectified_lrn])
@pytest.mark.parametrize(("size", "groups", "beta"), [(5, 2, 0.75), (3, 1, 0.75), (5, 1, 0.6)])
def test_normalisation_of_words_is_that_of_float64(rng, monkeypatch, function, size, groups, beta):
    """Values and gradients are those of float64, rounded once each to bfloat16."""
    asked = []
    fit = lrn_gpu.fit
    monkeypatch.setattr(lrn_gpu, "fit", lambda *about: asked.append(fit(*about)) or asked[-1])
    x = jnp.asarray(rng.normal(0, 30, (3, 4, 16)), jnp.bfloat16)
    dy = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)
    constants = Lrn(size, 1e-3, beta, 2.0)
    with platform.using("auto", "cuda"):
        y, vjp = jax.vjp(lambda x: function(x, constants, groups), x)
        (dx,) = vjp(dy)
    assert asked and all(asked)
    with platform.using("reference"), enable_x64(True):
        exact = [jnp.asarray(np.asarray(v, np.float64)) for v in (x, dy)]
        want, want_vjp = jax.vjp(lambda x: function(x, constants, groups), exact[0])
        (want_dx,) = want_vjp(exact[1])
    for got, wanted in ((y, want), (dx, want_dx)):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(got, np.float64), wanted, rtol=2**-8, atol=2**-8 * 1e-4
        )


def test_a_window_wider_than_the_words_is_computed_on_rows(rng):
    x = jnp.asarray(rng.normal(0, 30, (6, 16)), jnp.bfloat16)

    def gradient(x):
        return jax.grad(lambda x: lrn(x, Lrn(7, 1e-3)).astype(jnp.float32).sum())(x)

    with platform.using("auto", "cuda"):
        got = gradient(x)
    np.testing.assert_allclose(
        np.asarray(got, np.float32), np.asarray(gradient(x), np.float32), rtol=0.02, atol=1e-3
    )
