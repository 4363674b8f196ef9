"""Inference of the same network by ONNX Runtime or OpenVINO, of the graph that convert writes."""

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from alexnet_jax import model
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.layers import standard_tree
from alexnet_jax.weights import onnx_graph
from alexnet_jax.weights.types import Weights

RUNTIMES = ("onnxruntime", "openvino")
CALLS = 200  # of one batch, for the times of single calls

Contender = tuple[str, Callable[[], Any], Callable[[Any], Any]]


@contextlib.contextmanager
def contenders(name: str, config: Config) -> Iterator[list[Contender]]:
    """Yields a runtime as a contender, with its own choice of threads.

    Args:
      name: one of RUNTIMES.
      config: of the network and the batch; float32.

    Raises:
      ConfigError: it is not installed, or another precision is asked for.
    """
    if config.precision != "float32":
        raise ConfigError(f"--against={name}: is compared in float32, not {config.precision}")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.onnx"
        onnx_graph.write(_random(config, path), path)
        rng = np.random.default_rng(0)
        shape = (config.batch_size, 3, config.image_size, config.image_size)
        views = rng.standard_normal(shape, np.float32)
        again = {"onnxruntime": _onnxruntime, "openvino": _openvino}[name](path, views)
        yield [(name, again, lambda outputs: outputs)]


def _random(config: Config, path: pathlib.Path) -> Weights:
    network = model.build(config.model, config.num_classes, "float32")
    key, size = jax.random.key(config.seed), config.image_size
    draw = jax.jit(lambda key: standard_tree.initial_variables(network, key, size))
    params, statistics = draw(key)
    tree = jax.tree.map(np.asarray, params | statistics)
    return Weights(tree, config, [], None, 0, path)


def _onnxruntime(path: pathlib.Path, views: np.ndarray) -> Callable[[], Any]:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "--against=onnxruntime: is not installed; pip install onnxruntime"
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {onnx_graph.VIEWS: views})


def _openvino(path: pathlib.Path, views: np.ndarray) -> Callable[[], Any]:
    try:
        import openvino  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("--against=openvino: is not installed; pip install openvino") from error
    read = openvino.Core().read_model(str(path))
    read.reshape(list(views.shape))
    hint = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(read, "CPU", hint)
    request = compiled.create_infer_request()
    return lambda: request.infer({0: views})


def latencies(again: Callable[[], Any], wait: Callable[[Any], Any]) -> dict[str, float]:
    """Returns the median and the 99th percentile of a call's milliseconds."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        wait(again())
        times.append(1e3 * (time.perf_counter() - start))
    middle, late = np.percentile(times, [50, 99])
    return {"milliseconds_p50": float(middle), "milliseconds_p99": float(late)}
