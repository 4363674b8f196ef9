"""Convolutions and matrix products by oneDNN on a CPU.

jaxlib's wheels for x86-64 Linux include oneDNN. XLA calls it where a program says `__onednn$...`;
there, XLA's own passes never insert it. oneDNN convolves the layers of `paper` a seventh to a third
faster than XLA's products, those of `default` up to two and a half times (experiments/speed, s1).
For a kernel's gradient, whose windows are as large as the images, XLA's products are faster. oneDNN
multiplies matrices up to a fifth faster; with several rows, it seldom sums a share of the rows or
columns in another order than the whole matrix. Three things limit its use:

- a call's configuration is private to XLA and changes between versions; a wrong one aborts the
  process. So it is called only with the jaxlib versions in `VERSIONS`, which passed the tests;
- XLA cannot serialise such a program, and reads out of bounds when it tries. So these programs stay
  out of JAX's persistent cache (`calls`), and each run compiles its steps again;
- it has no gradients: `convolution_cpu` and `matmul_cpu` define them.
"""

import contextlib
import functools
import json
import logging
import math
import platform
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from alexnet_jax.ops.convolution_xla import Padding
from alexnet_jax.ops.platform import PLAIN_CPU, computed_on

VERSIONS = ("0.10.2", "0.11.2", "0.12.0.1")  # of jaxlib; Python 3.11 gets the first, 3.12 the last
CONVOLUTION, PRODUCT = "__onednn$convolution", "__onednn$matmul"

# JAX traces again where this differs.
_in_use = jax.make_user_context(False)
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def calls() -> Iterator[None]:
    """Lets the network's operations call oneDNN in programs traced and compiled inside.

    These programs are not cached for later processes: compile inside what you trace inside, and do
    not serialise it. Changes nothing where oneDNN is unavailable or unwanted (PLAIN_CPU).
    """
    if computed_on() == PLAIN_CPU or not available():
        yield
        return
    with _in_use(True), _kept_nowhere():
        yield


def takes(x: jax.Array, weights: jax.Array, padding: Padding = ()) -> bool:
    """Says whether to call `conv` or `product` for these arrays: float32, inside `calls`.

    oneDNN ends the process on negative padding and on empty arrays.
    """
    if not _in_use.value or x.dtype != jnp.float32 or weights.dtype != jnp.float32:
        return False
    return min(x.size, weights.size) > 0 and min((0, *(min(sides) for sides in padding))) >= 0


@functools.cache
def available() -> bool:
    """Says whether this process's CPU programs can call oneDNN, by a small convolution of ones."""
    here = (sys.platform, platform.machine(), jax.default_backend())
    if here != ("linux", "x86_64", "cpu") or jaxlib.version.__version__ not in VERSIONS:
        return False
    x, kernel = np.ones((1, 3, 3, 2), np.float32), np.ones((3, 3, 1, 2), np.float32)
    try:
        # The first call may come inside a trace, or in the training loop, which forbids implicit
        # transfers to a device.
        with _kept_nowhere(), jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
            call = functools.partial(conv, stride=1, padding=((0, 0), (0, 0)), groups=2)
            computed = np.asarray(jax.jit(call)(x, kernel))
        right = (computed == kernel[..., 0].size).all()
        wrong = "" if right else f"ones sum up to {computed.ravel()}"
    except jax.errors.JaxRuntimeError as error:
        wrong = str(error)
    if wrong:
        logging.warning("steps will be slower: oneDNN cannot be called (%s)", wrong)
    return not wrong


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int) -> jax.Array:
    """Convolves as `convolution.conv` does, where oneDNN is `available` and `takes` these.

    Args:
      x: (B, H, W, C) float32.
      kernel: (h, w, C / groups, O) float32, group 0's outputs first.
      stride: in pixels, both ways.
      padding: zeros around x.
      groups: number of channel groups that do not see each other.

    Returns:
      (B, H', W', O) float32.
    """
    (batch, *sides, _), (*taps, _, out) = x.shape, kernel.shape
    places = [
        max(0, (side + sum(zeros) - reach) // stride + 1)
        for side, reach, zeros in zip(sides, taps, padding, strict=True)
    ]
    # Fields of XLA's OneDnnConvolutionConfig (xla/service/cpu/onednn_config.proto).
    images = {"dims": 4, "data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}}
    kernels = {"input_feature_dim": 2, "output_feature_dim": 3, "spatial_dims": [0, 1]}
    before, after = zip(*padding, strict=True)
    window = {
        "pad_left": [int(zeros) for zeros in before],
        "pad_right": [int(zeros) for zeros in after],
        "strides": [int(stride)] * 2,
        "window_dilations": [1, 1],
    }
    attributes = {
        "dims": 4,
        "input": images,
        "kernel": {"dims": 4, "filter": kernels},
        "output": images,
        "window": window,
        "feature_groups": int(groups),
    }
    return _call(CONVOLUTION, (batch, *places, out), {"onednn_conv_config": attributes}, x, kernel)


def product(
    a: jax.Array, b: jax.Array, transpose_a: bool = False, transpose_b: bool = False
) -> jax.Array:
    """Multiplies two float32 matrices as they lie in memory, where oneDNN `takes` them.

    Args:
      a: (rows, depth), or (depth, rows) where it is to be transposed.
      b: (depth, columns), or (columns, depth).
      transpose_a: see a.
      transpose_b: see b.

    Returns:
      (rows, columns) float32.
    """
    # Fields of XLA's OneDnnMatMulConfig, of the same file.
    attributes = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    shape = a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1]
    return _call(PRODUCT, shape, {"onednn_matmul_config": attributes}, a, b)


def products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies float32 matrices pair by pair, as they lie in memory.

    Args:
      a: (n, rows, depth), or (1, rows, depth) for all.
      b: (n, depth, columns).

    Returns:
      (n, rows, columns) float32.
    """
    attributes = {"transpose_a": False, "transpose_b": False}
    shape = len(b), a.shape[1], b.shape[2]
    return _call(PRODUCT, shape, {"onednn_matmul_config": attributes}, a, b)


def _call(target: str, shape: tuple[int, ...], attributes: Any, *operands: jax.Array) -> jax.Array:
    call = jax.ffi.ffi_call(
        target,
        jax.ShapeDtypeStruct(shape, jnp.float32),
        vmap_method="sequential",
        custom_call_api_version=1,
        legacy_backend_config=json.dumps(attributes),
    )
    return call(*operands)


@contextlib.contextmanager
def _kept_nowhere() -> Iterator[None]:
    """Keeps programs that are compiled inside out of the persistent cache."""
    name = "jax_persistent_cache_min_compile_time_secs"
    with _one_at_a_time:  # the option is the whole process's
        before = jax.config.values[name]
        jax.config.update(name, math.inf)
        try:
            yield
        finally:
            jax.config.update(name, before)
