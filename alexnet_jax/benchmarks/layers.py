"""Each layer alone: its time, the least time the machine allows, and the roofline picture."""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax import model
from alexnet_jax.benchmarks import work
from alexnet_jax.benchmarks.rows import Row
from alexnet_jax.benchmarks.steps import prepared
from alexnet_jax.config import CONVOLUTIONS, FULLY_CONNECTED, Config
from alexnet_jax.figures import roofline
from alexnet_jax.figures.roofline import Point
from alexnet_jax.host import machine
from alexnet_jax.layers import linear, standard_tree
from alexnet_jax.layers.batch_norm import alone
from alexnet_jax.ops import compilation, convolution, matmul
from alexnet_jax.steps import augment, optimizer
from alexnet_jax.steps.flops import forward_flops


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of the network with its inputs.

    Attributes:
      name: of the layer and the pass.
      function: what is computed.
      arguments: of it, random.
      flops: of its products.
      bytes: that it must read and write at the least, whatever it is made of.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    flops: float
    bytes: int


def _random(seed: int, *shape: int, dtype: str) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def _bytes(*arrays: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


def _passes(
    name: str,
    function: Callable[..., jax.Array],
    arguments: tuple[jax.Array, ...],
    flops: float,
    reads_again: bool = False,
) -> list[Part]:
    """Returns the forward pass, and the gradient of each argument except the images.

    The gradient of a product moves the same three arrays as the product. The gradient of a
    nonlinear function (`reads_again`) must also read the function's input again.
    """
    y = jax.eval_shape(function, *arguments)
    dy = jnp.ones(y.shape, y.dtype)
    size = _bytes(*arguments, y)
    parts = [Part(f"{name} forward", function, arguments, flops, size)]
    for at, argument in enumerate(arguments):
        if name == "conv1" and at == 0:
            continue  # nobody asks for the gradient of an image

        def back(dy: jax.Array, *arguments: jax.Array, at: int = at) -> jax.Array:
            def of_one(x: jax.Array) -> jax.Array:
                return function(*arguments[:at], x, *arguments[at + 1 :])

            return jax.vjp(of_one, arguments[at])[1](dy)[0]

        of = ("input", "kernel")[at] if len(arguments) == 2 else "input"
        moved = size + _bytes(argument) if reads_again else size
        parts.append(Part(f"{name} gradient of {of}", back, (dy, *arguments), flops, moved))
    return parts


def parts(config: Config) -> list[Part]:
    """Returns the layers of a network at a config's batch and precision."""
    network = model.build(config.model, config.num_classes, config.precision)
    shapes = standard_tree.abstract_parameters(network, config.image_size)
    flops = forward_flops(config, config.num_classes)
    size, side, dtype = config.batch_size, config.image_size, config.precision
    c, bound = config.model, network.bind(standard_tree.variables(shapes))
    before = (size, side, side, 3)  # what a layer reads
    _, statistics = standard_tree.parameters_and_statistics(shapes)
    running = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), statistics)
    training = network.clone(over_devices=alone)
    layers: list[Part] = []
    for n, layer in enumerate(CONVOLUTIONS):
        if layer in c.without:
            continue
        x, made = _random(n, *before, dtype=dtype), getattr(bound, layer)
        kernel = _random(n + 9, *shapes[layer]["kernel"].shape, dtype=dtype)

        def conv(x: jax.Array, kernel: jax.Array, made: linear.Conv = made) -> jax.Array:
            return convolution.conv(x, kernel, made.stride, made.padding, made.groups)

        layers += _passes(layer, conv, (x, kernel), flops[layer] * size)
        after = jax.eval_shape(conv, x, kernel)
        y = _random(n + 20, *after.shape, dtype=dtype)

        def rest(y: jax.Array, n: int = n) -> jax.Array:
            z, _ = training.apply(
                {"batch_stats": running},
                y,
                method=lambda m, v: getattr(m, f"stage{n + 1}")(v),
                mutable=["batch_stats"],
            )
            return jnp.asarray(z)

        kind = ", ".join(getattr(c, f"layer{n + 1}").split())
        layers += _passes(f"{layer}: {kind}", rest, (y,), 0.0, reads_again=True)
        before = jax.eval_shape(rest, y).shape
    for layer in FULLY_CONNECTED:
        if layer in shapes:
            shape = shapes[layer]["kernel"].shape
            x, kernel = (
                _random(i, *s, dtype=dtype) for i, s in enumerate(((size, shape[0]), shape))
            )
            layers += _passes(layer, matmul.fully_connected, (x, kernel), flops[layer] * size)
    return [*layers, _augmentation(config), _update(config, network)]


def _augmentation(config: Config) -> Part:
    views, size, side = augment.Views.of(config), config.batch_size, config.resize
    image = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), np.uint8)
    numbers = jnp.arange(size, dtype=jnp.int32)
    batch = {"image": jnp.asarray(image), "index": numbers, "epoch": numbers, "position": numbers}

    def draw(batch: dict[str, jax.Array]) -> jax.Array:
        return views.training(batch, jax.random.key(0))

    out = jax.eval_shape(draw, batch)
    crops = out.size  # of a byte each
    return Part("crop, flip, lighting", draw, (batch,), 0.0, _bytes(out) + crops)


def _update(config: Config, network: model.AlexNet) -> Part:
    shapes = standard_tree.abstract_parameters(network, config.image_size)
    learned, _ = standard_tree.parameters_and_statistics(shapes)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), learned)
    tx = optimizer.build(config.optimizer)
    rates = jax.tree.map(lambda leaf: jnp.float32(0.01), params)

    def update(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        moved, state = tx.update(grads, state, params, rates=rates, finite=jnp.bool_(True))
        return optax.apply_updates(params, moved), state

    # Reads parameters, gradients and velocities, and writes all but the gradients.
    return Part("update", update, (params, params, tx.init(params)), 0.0, 5 * _bytes(params))


def _machine() -> str:
    """Names the measured device; for a CPU its processor, which JAX does not name."""
    kind = jax.devices()[0].device_kind
    return f"{machine.processor()}, {machine.cores()} cores" if kind == "cpu" else kind


def measure(config: Config, rounds: int, picture: pathlib.Path | None = None) -> list[Row]:
    """Measures every part alone.

    Args:
      config: of the network, the batch and the precision.
      rounds: of each part; the median counts.
      picture: where to draw the roofline, if anywhere.
    """
    config = prepared(config)
    best = work.ceiling(config.precision)
    rows, points = [], []
    for part in parts(config):
        program = compilation.compiled(
            part.function, *part.arguments, numerics=compilation.Numerics.of(config)
        )
        times = work.times(program, *part.arguments, repeats=rounds)
        spent = statistics.median(times)
        floor = max(part.flops / best.flops, part.bytes / best.bandwidth)
        speed, slowest, fastest = (config.batch_size / t for t in (spent, max(times), min(times)))
        more = {
            "batch_size": config.batch_size,
            "precision": config.precision,
            "milliseconds": 1e3 * spent,
            "floor_milliseconds": 1e3 * floor,
            "tflops": part.flops / spent / 1e12,
            "flops": part.flops,
            "bytes": part.bytes,
            "ceiling_flops": best.flops,
            "ceiling_bytes_per_second": best.bandwidth,
        }
        row = Row(part.name, speed, slowest, fastest, beside="floor", more=more)
        row.ratio, row.ratios = floor / spent, (floor / max(times), floor / min(times))
        rows.append(row)
        points.append(Point(part.name, part.flops / part.bytes, part.flops / spent))
        print(f"{part.name}: {1e3 * spent:.2f} ms, floor {1e3 * floor:.2f}", flush=True)
    if picture:
        title = f"{_machine()}, {config.precision}, {config.batch_size} images a batch"
        roofline.draw(points, best.flops, best.bandwidth, title).save(picture)
    return rows
