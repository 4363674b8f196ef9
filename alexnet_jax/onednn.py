"""Convolutions by oneDNN on a CPU, and the gradients of their inputs.

jaxlib's wheels for x86-64 Linux hold oneDNN, and XLA calls it where a program says `__onednn$...`;
none of XLA's own passes does so there. It convolves the layers of `paper` a seventh to a third
faster than XLA's products, those of `default` up to two and a half times (experiments/speed). A
kernel's gradient, whose windows are as large as the images, XLA's products give faster.
Three things bound its use:

- what a call says is XLA's own affair and has changed between versions, and one that is wrong ends
  the process, so that only versions are used that the tests have passed with (`VERSIONS`);
- XLA cannot write such a program down, and reads memory that is not its own when it tries, so that
  programs are kept from JAX's persistent cache (`convolutions`): each run compiles its steps again;
- there is no gradient in it: `convolution` says what they are.
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

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

Padding = tuple[tuple[int, int], tuple[int, int]]  # of zeros: (top, bottom), (left, right)

VERSIONS = ("0.10.2", "0.11.2", "0.12.0.1")  # of jaxlib; Python 3.11 gets the first, 3.12 the last
TARGET = "__onednn$convolution"

# JAX traces again where this differs.
_in_use = jax.make_user_context(False)
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def convolutions() -> Iterator[None]:
    """Lets `convolution.conv` call oneDNN in programs that are traced and compiled inside.

    They are not kept for later processes, so that one traced here is to be compiled here too, and
    not to be serialised. Where oneDNN is not to be had, nothing changes.
    """
    if not available():
        yield
        return
    with _in_use(True), _kept_nowhere():
        yield


def takes(x: jax.Array, kernel: jax.Array, padding: Padding) -> bool:
    """Says whether `conv` is to be called for these: float32 inside `convolutions`.

    oneDNN ends the process for zeros that are fewer than none, or without channels.
    """
    if not _in_use.value or x.dtype != jnp.float32 or kernel.dtype != jnp.float32:
        return False
    return min(x.size, kernel.size) > 0 and min(min(sides) for sides in padding) >= 0


@functools.cache
def available() -> bool:
    """Says whether this process's CPU programs can call oneDNN, by a small convolution."""
    here = (sys.platform, platform.machine(), jax.default_backend())
    if here != ("linux", "x86_64", "cpu") or jaxlib.version.__version__ not in VERSIONS:
        return False
    x, kernel = np.ones((1, 3, 3, 2), np.float32), np.ones((3, 3, 1, 2), np.float32)
    try:
        # This may be asked first in a trace, or in the training loop, which lets nothing go to a
        # device by accident.
        with _kept_nowhere(), jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
            call = functools.partial(conv, stride=1, padding=((0, 0), (0, 0)), groups=2)
            found = np.asarray(jax.jit(call)(x, kernel))
        wrong = "" if (found == kernel[..., 0].size).all() else f"ones sum up to {found.ravel()}"
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
    said = {
        "dims": 4,
        "input": images,
        "kernel": {"dims": 4, "filter": kernels},
        "output": images,
        "window": window,
        "feature_groups": int(groups),
    }
    call = jax.ffi.ffi_call(
        TARGET,
        jax.ShapeDtypeStruct((batch, *places, out), x.dtype),
        vmap_method="sequential",
        custom_call_api_version=1,
        legacy_backend_config=json.dumps({"onednn_conv_config": said}),
    )
    return call(x, kernel)


@contextlib.contextmanager
def _kept_nowhere() -> Iterator[None]:
    """Keeps what is compiled inside from JAX's persistent cache, as if it had taken no time."""
    name = "jax_persistent_cache_min_compile_time_secs"
    with _one_at_a_time:  # the option is the whole process's
        before = jax.config.values[name]
        jax.config.update(name, math.inf)
        try:
            yield
        finally:
            jax.config.update(name, before)
