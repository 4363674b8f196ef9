"""Options that programs are compiled with."""

import jax.numpy as jnp
import pytest

from alexnet_jax import compilation


@pytest.fixture
def fresh():
    compilation._known_to_cpu.cache_clear()
    yield
    compilation._known_to_cpu.cache_clear()


def test_convolutions_are_compiled_as_products(fresh):
    assert compilation.options() == compilation.CPU
    program = compilation.compiled(lambda x: 2 * x, jnp.ones(3))
    assert program(jnp.ones(3)).tolist() == [2, 2, 2]


def test_a_jaxlib_without_the_option_is_slow_and_says_so(fresh, monkeypatch, caplog):
    monkeypatch.setattr(compilation, "CPU", {"xla_cpu_no_such_option": "FAST"})
    assert compilation.options() == {}
    assert "convolutions will be slow: this jaxlib has no option" in caplog.text
    assert compilation.jit(lambda x: 2 * x)(jnp.ones(3)).tolist() == [2, 2, 2]


def test_only_a_gpu_is_asked_for_the_same_bits(monkeypatch):
    monkeypatch.setattr(compilation.jax, "default_backend", lambda: "gpu")
    assert compilation.options() == {}
    assert compilation.options(deterministic=True) == compilation.DETERMINISTIC_GPU
    monkeypatch.setattr(compilation.jax, "default_backend", lambda: "tpu")
    assert compilation.options(deterministic=True) == {}
