"""The one place that chooses kernels, and every choice compared with the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import configs, model
from alexnet_jax.layers import standard_tree
from alexnet_jax.ops import compilation, onednn, platform


@pytest.mark.parametrize(
    ("kernels", "on", "found"),
    [
        ("auto", "cpu", "cpu"),
        ("auto", platform.PLAIN_CPU, "cpu"),
        ("auto", "cuda", "cuda"),
        ("auto", "rocm", "other"),
        ("auto", "tpu", "other"),
        ("reference", "cpu", "reference"),
        ("reference", "cuda", "reference"),
    ],
)
def test_the_choice_is_a_function_of_kernels_and_platform(kernels, on, found):
    assert platform.way(kernels, on) == found
    with platform.using(kernels, on):
        assert platform.current() == found
    assert platform.current() == "cpu"  # where the tests run


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match="'fast' is not one of auto, reference"):
        platform.way("fast", "cpu")
    with pytest.raises(ValueError, match="'fast'"), platform.using("fast"):
        pass


def test_a_platform_that_is_said_stays_where_kernels_change():
    """The config's kernels decide, whichever device the program is for."""
    with platform.using("reference", "cuda"):
        assert platform.current() == "reference"
        with platform.using("auto"):
            assert platform.current() == "cuda"
        assert platform.current() == "reference"


def test_what_has_no_way_of_its_own_is_plain():
    chosen = {}
    for on in ("cpu", "cuda", "tpu"):
        with platform.using("auto", on):
            chosen[on] = platform.choose(reference=min, cuda=max)
    assert chosen == {"cpu": min, "cuda": max, "tpu": min}


def test_a_function_is_traced_again_for_another_way():
    found = []

    @jax.jit
    def traced(x):
        found.append(platform.current())
        return x

    for kernels in ("auto", "reference", "auto"):
        with platform.using(kernels):
            traced(1.0)
    assert found == ["cpu", "reference"]


def test_the_reference_calls_nothing_of_ours():
    """No custom call, no gradient that is not JAX's, in the whole network."""
    config = configs.get("paper")
    config.model.width = 1 / 16
    network = model.build(config.model, 10, "float32")
    params = standard_tree.abstract_parameters(network, config.image_size)
    images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, 3), jnp.float32)

    def gradient(params, images):
        return jax.grad(lambda p: standard_tree.logits(network, p, images).sum())(params)

    with platform.using("reference"):
        jaxpr = str(
            jax.make_jaxpr(lambda p, x: standard_tree.logits(network, p, x))(params, images)
        )
    assert "custom_vjp" not in jaxpr and "ffi_call" not in jaxpr
    assert "custom_vjp" in str(
        jax.make_jaxpr(lambda p, x: standard_tree.logits(network, p, x))(params, images)
    )
    program = compilation.compiled(
        gradient, params, images, numerics=compilation.Numerics("reference")
    )
    assert "__onednn$" not in program.as_text()


def normal(shape, seed):
    return 30 * jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("recipe", ["default", "paper", "original_code", "caffenet"])
@pytest.mark.parametrize("on", ["cpu", platform.PLAIN_CPU, "cuda", "tpu"])
def test_every_way_is_the_reference(recipe, on):
    """Logits to 1e-5 and gradients to 1e-4 of each tensor's maximum, in float32.

    Through `compiled`, so that a CPU has oneDNN's calls where it can have them.
    """
    config = configs.get(recipe)
    config.model.width = 1 / 8
    config.model.init = "he"  # activations of a trained network's size, so that LRN matters
    network = model.build(config.model, 10, "float32")
    images = normal((2, config.image_size, config.image_size, 3), 0)
    params = jax.jit(network.init)(jax.random.key(1), images)["params"]

    def both(params, images):
        def loss(params):
            logits = standard_tree.logits(network, params, images)
            return (logits * jnp.arange(10.0)).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    reference = compilation.compiled(
        both, params, images, numerics=compilation.Numerics("reference")
    )
    with platform.using("auto", on):
        own = compilation.compiled(both, params, images)
    calls_onednn = on == "cpu" and onednn.available()
    assert (onednn.CONVOLUTION in own.as_text()) == calls_onednn
    (gradients, logits), (want_gradients, want) = own(params, images), reference(params, images)
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5 * np.abs(want).max())
    for path, leaf in jax.tree_util.tree_leaves_with_path(want_gradients):
        layer, part = (key.key for key in path)
        np.testing.assert_allclose(
            gradients[layer][part], leaf, rtol=0, atol=1e-4 * np.abs(leaf).max(), err_msg=str(path)
        )
