"""The machine's best rates, measured."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.ops import compilation, convolution, matmul

LEAST_SECONDS = 0.05  # of calls that are timed together


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """What the device did best in this run.

    Attributes:
      flops: of the fastest large matrix product or convolution of random numbers, FLOP/s.
      bandwidth: of a large copy, bytes read and written a second.
    """

    flops: float
    bandwidth: float


def times(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> list[float]:
    """Returns the seconds that a compiled function takes, with its results ready, for each repeat.

    Each is the mean over enough calls to fill `LEAST_SECONDS`, so that on a fast accelerator the
    host's work for a call is hidden behind the previous call.
    """
    jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    count = max(1, math.ceil(LEAST_SECONDS / (time.perf_counter() - start)))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(count):
            last = function(*arguments)
        jax.block_until_ready(last)
        seconds.append((time.perf_counter() - start) / count)
    return seconds


def ceiling(precision: str) -> Ceiling:
    """Measures the default device's ceiling at a precision: the fastest of large matrix products
    (XLA's and ours) and a convolution, and the bandwidth of a copy."""
    on_cpu = jax.default_backend() == "cpu"
    sides, numbers, images = ((1024, 2048), 2**26, 16) if on_cpu else ((4096, 8192), 2**29, 512)
    x = jnp.ones((numbers,), jnp.float32)
    copy = compilation.compiled(lambda v: v + 1, x)
    products = [_product_flops(side, precision) for side in sides]
    products.append(_convolution_flops(images, precision))
    return Ceiling(max(products), 8 * numbers / min(times(copy, x)))


def _product_flops(side: int, precision: str) -> float:
    """Returns the rate of a large product, by the faster of XLA's and ours."""
    a, b = (jax.random.normal(jax.random.key(n), (side, side), precision) for n in range(2))
    programs = (compilation.compiled(way, a, b) for way in (jnp.matmul, matmul.fully_connected))
    return 2 * side**3 / min(min(times(program, a, b)) for program in programs)


def _convolution_flops(images: int, precision: str) -> float:
    side, taps, channels = 28, 3, 256
    x = jax.random.normal(jax.random.key(0), (images, side, side, channels), precision)
    kernel = jax.random.normal(jax.random.key(1), (taps, taps, channels, channels), precision)

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolution.conv(x, kernel, 1, 1, 1)

    flops = 2 * images * side**2 * taps**2 * channels**2
    return flops / min(times(compilation.compiled(conv, x, kernel), x, kernel))
