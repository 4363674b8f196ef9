"""Stricter than production, and eight simulated devices for every test."""

import os
import pathlib
import tempfile
from collections.abc import Iterator

# XLA's own passes run, LLVM's do not: programs compile in half the time. Tests of the last bits
# turn LLVM's on again (`as_in_production`).
_QUICK = "--xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{_QUICK} {os.environ.get('XLA_FLAGS', '')}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)

# Programs that several tests compile are compiled once; processes that tests start share them,
# and so do the workers of pytest-xdist.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: real photographs and outside oracles")
    return SHARED


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> pathlib.Path:
    """A folder with a data set `set` and a run on it, `w`, made once for all tests of a worker."""
    import small

    from alexnet_jax import train

    root = tmp_path_factory.mktemp("trained")
    small.write_folder(root / "set")
    config = small.config(root / "set")
    config.num_steps = 6
    train.train(config, root / "w")
    return root


@pytest.fixture
def as_in_production(monkeypatch) -> None:
    """Compiles steps with all of LLVM's passes."""
    from alexnet_jax.ops import compilation

    options = compilation.options() | {"xla_backend_optimization_level": 3}
    monkeypatch.setattr(compilation, "options", lambda *_: options)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=["cpu", "cuda", "tpu", "reference"])
def way(request) -> Iterator[str]:
    """Every way of computing, on this CPU: each platform's, and the reference."""
    from alexnet_jax.ops import platform

    kernels = "reference" if request.param == "reference" else "auto"
    with platform.using(kernels, "cpu" if kernels == "reference" else request.param):
        yield request.param
