"""How programs are compiled: what makes a back end fast, its kernels deterministic, and where
compiled ones are kept."""

import contextlib
import functools
import logging
import os
import pathlib
import socket
from collections.abc import Callable
from typing import Any

import jax

from alexnet_jax.ops import onednn, platform

Options = dict[str, str | bool]

# XLA's CPU back end computes convolutions as matrix products only where it is asked to; they are
# two to eight times faster than its own (jaxlib 0.10.2; experiments/speed, s2). Of a CPU with
# vectors of 512 bits it uses half unless told; where there are none, nothing changes.
CPU: Options = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    "xla_cpu_prefer_vector_width": "512",
}
DETERMINISTIC_GPU: Options = {
    "xla_gpu_deterministic_ops": True,
    "xla_gpu_exclude_nondeterministic_ops": True,
}


def options(deterministic: bool = False) -> Options:
    """Returns XLA's options for the current way; CPU kernels are deterministic as they are."""
    if platform.current() == "cpu":
        return {name: value for name, value in CPU.items() if _known(name, value)}
    if deterministic and platform.computed_on() in ("cuda", "rocm"):
        return dict(DETERMINISTIC_GPU)
    return {}


def repeats_itself(deterministic: bool) -> bool:
    """Does a program give the same bits each time it is run on the same arguments?"""
    return deterministic or platform.computed_on() not in ("cuda", "rocm")


@functools.cache
def _known(name: str, value: str | bool) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        logging.warning(
            "steps will be slow: this jaxlib has no option %s=%s (%s)", name, value, error
        )
        return False
    return True


def keep_programs() -> None:
    """Keeps what is compiled for later runs on this machine, in the user's cache folder.

    A folder of one's own in `JAX_COMPILATION_CACHE_DIR` stays as it is.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # One for each machine: a home may be shared by machines whose CPUs differ.
    if cache.startswith("~"):
        return  # nobody knows a home; then nothing is kept
    folder = pathlib.Path(cache) / "alexnet_jax" / f"compiled-{socket.gethostname()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))


def jit(
    function: Callable[..., Any], kernels: str = "auto", **arguments: Any
) -> Callable[..., Any]:
    """Like `jax.jit`, with `options`, for `kernels` as of `platform.using`."""
    with platform.using(kernels):
        jitted = jax.jit(function, compiler_options=options(), **arguments)

    @functools.wraps(function)
    def call(*given: Any) -> Any:
        with platform.using(kernels):
            return jitted(*given)

    return call


def compiled(
    function: Callable[..., Any],
    *abstract: Any,
    kernels: str = "auto",
    deterministic: bool = False,
    **arguments: Any,
) -> jax.stages.Compiled:
    """Compiles a function for abstract arguments, with `options`; on a CPU, where it can be, with
    calls of oneDNN, and then it is not kept for later runs.

    Args:
      function: to compile.
      *abstract: its arguments as shapes, with their shardings.
      kernels: as of `platform.using`.
      deterministic: ask a GPU for kernels that give the same bits every time.
      **arguments: of `jax.jit`.
    """
    with platform.using(kernels), platform.choose(contextlib.nullcontext, cpu=onednn.calls)():
        lowered = jax.jit(function, **arguments).lower(*abstract)
        return lowered.compile(options(deterministic))
