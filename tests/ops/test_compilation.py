"""Options that programs are compiled with."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook

from alexnet_jax import configs, model
from alexnet_jax.layers import standard_tree
from alexnet_jax.ops import compilation, convolution
from alexnet_jax.ops import platform as ways


@pytest.fixture
def fresh():
    compilation._known.cache_clear()
    yield
    compilation._known.cache_clear()


has_options = pytest.mark.skipif(
    not all(compilation._known(*option) for option in compilation.CPU.items()),
    reason="this jaxlib has not all of XLA's options",
)


@has_options
def test_a_convolution_is_compiled_with_the_options(fresh, rng):
    """Without oneDNN, so that the options reach XLA's convolution; against the textbook's."""
    assert compilation.options() == compilation.CPU
    x = jnp.asarray(rng.normal(size=(2, 9, 9, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 6)), jnp.float32)

    def conv(x, kernel):
        return convolution.conv(x, kernel, padding=1, groups=2)

    with ways.using("auto", ways.PLAIN_CPU):
        program = compilation.compiled(conv, x, kernel)
    assert program.as_text().count(" convolution(") == 2  # a column each
    want = textbook.conv(x, kernel, padding=1, groups=2)
    np.testing.assert_allclose(program(x, kernel), want, rtol=0, atol=1e-4)


@has_options
def test_a_jaxlib_without_the_option_is_slow_and_says_so(fresh, monkeypatch, caplog):
    monkeypatch.setattr(compilation, "CPU", compilation.CPU | {"xla_cpu_no_such_option": "FAST"})
    without = {name: value for name, value in compilation.CPU.items() if "no_such" not in name}
    assert compilation.options() == without and len(without) == 2  # those that it has stay
    assert "steps will be slow: this jaxlib has no option xla_cpu_no_such_option" in caplog.text
    assert compilation.jit(lambda x: 2 * x)(jnp.ones(3)).tolist() == [2, 2, 2]


def test_only_a_gpu_is_asked_for_the_same_bits():
    for kernels in ("auto", "reference"):
        with ways.using(kernels, "cuda"):
            assert compilation.options() == {}
            assert compilation.options(deterministic=True)["xla_gpu_deterministic_ops"] is True
        with ways.using(kernels, "tpu"):
            assert compilation.options(deterministic=True) == {}


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_highest_asks_for_every_product_forwards_and_back(kernels, platform):
    config = configs.get("paper")
    assert config.matmul_precision == "highest"
    config.model.width, config.kernels = 1 / 16, kernels
    network = model.build(config.model, 10, "float32")
    params = standard_tree.abstract_parameters(network, config.image_size)
    images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, 3), jnp.float32)

    def gradient(params, images):
        return jax.grad(lambda p: standard_tree.logits(network, p, images).sum())(params)

    def asked(numerics):
        with numerics.apply(), ways.using(kernels, platform):
            text = str(jax.make_jaxpr(gradient)(params, images))
        return set(re.findall(r"precision=(.*)", text))

    plain = asked(compilation.Numerics(kernels))
    highest = asked(compilation.Numerics.of(config))
    assert plain == {"None"}
    assert highest and all(found.count("HIGHEST") == 2 for found in highest), highest


def test_what_numbers_are_multiplied_in_is_said_where_it_is_coarser():
    said = {}
    for platform in ("cpu", "cuda", "tpu"):
        with ways.using("auto", platform):
            said[platform] = compilation.Numerics().multiplied_in("float32")
            assert compilation.Numerics(matmul_precision="highest").multiplied_in("float32") == ""
            assert compilation.Numerics().multiplied_in("bfloat16") == ""
    assert said == {"cpu": "", "cuda": "TF32", "tpu": "bfloat16"}


def test_the_reference_has_no_options_of_ours():
    with ways.using("reference"):
        assert compilation.options() == {}
    assert compilation.options()


def test_programs_are_kept_for_later_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    least = "jax_persistent_cache_min_compile_time_secs"
    names = ("jax_compilation_cache_dir", least)
    before = {name: jax.config.values[name] for name in names}
    try:
        jax.config.update("jax_compilation_cache_dir", "own")
        jax.config.update(least, 7.0)
        compilation.keep_programs()
        assert jax.config.jax_compilation_cache_dir == "own" and jax.config.values[least] == 7.0
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv(least.upper(), "7")  # what a user says stays
        compilation.keep_programs()
        assert pathlib.Path(jax.config.jax_compilation_cache_dir).parent == tmp_path / "alexnet_jax"
        assert jax.config.values[least] == 7.0
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.delenv(least.upper())
        compilation.keep_programs()
        assert jax.config.values[least] == compilation.KEPT_SECONDS
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_matrix_units_are_fed_as_they_like(platform):
    """bfloat16 products of plain convolutions with channels in eights, for a float32 gradient."""
    config = configs.get("paper")
    network = model.build(config.model, 1000, "bfloat16")
    params = standard_tree.abstract_parameters(network, config.image_size)
    images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, 3), jnp.float32)

    def gradient(params, images):
        return jax.grad(lambda p: network.apply({"params": p}, images).sum())(params)

    # There is no such device here: the program is lowered for one, not compiled.
    with ways.using("auto", platform):
        lowered = jax.jit(gradient).trace(params, images).lower(lowering_platforms=(platform,))
    assert {leaf.dtype for leaf in jax.tree.leaves(lowered.out_info)} == {jnp.dtype("float32")}
    found = re.findall(
        r"stablehlo.convolution.*?feature_group_count = (\d+)"
        r".*?\(tensor<([^>]+)>, tensor<([^>]+)>\) -> tensor<([^>]+)>",
        lowered.as_text(),
    )
    assert len(found) == 8 + 7 + 8  # columns count twice; conv1's input has no gradient
    for groups, *tensors in found:
        assert groups == "1"
        for tensor in tensors:
            *_, channels, kind = tensor.split("x")
            assert kind == "bf16" and int(channels) % 8 == 0, tensor
