"""Compilation: options that make a back end fast or deterministic, and the cache of programs."""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax

from alexnet_jax.ops import onednn, platform

Options = dict[str, str | bool]

# XLA's CPU back end computes convolutions as matrix products only on request; these are two to
# eight times faster than its own convolutions (jaxlib 0.10.2; experiments/speed, s2). On a CPU with
# 512-bit vectors it uses only half their width by default; on other CPUs this changes nothing.
CPU: Options = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    "xla_cpu_prefer_vector_width": "512",
}
KEPT_SECONDS = 0.1  # a program that compiles faster than this is not cached
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
    """Caches compiled programs for later runs on this machine, in the user's cache folder.

    A folder that the user set in `JAX_COMPILATION_CACHE_DIR` takes precedence.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if cache.startswith("~"):
        return  # the home folder is unknown: cache nothing
    # One folder per machine: machines with different CPUs may share a home.
    folder = pathlib.Path(cache) / "alexnet_jax" / f"compiled-{socket.gethostname()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Loading a network compiles many small programs; keep those too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)


class _Asks(Protocol):
    kernels: str
    deterministic: bool
    matmul_precision: str


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How a program computes, as a config asks for it.

    Attributes:
      kernels: as of `platform.using`.
      deterministic: ask a GPU for kernels that give the same bits every time.
      matmul_precision: of float32 products and convolutions: `highest` computes them in float32
        everywhere; `default` in the device's fast type: bfloat16 on a TPU, TF32 (10 bits of 23) on
        an NVIDIA GPU that has it. On a CPU both are the same.
    """

    kernels: str = "auto"
    deterministic: bool = False
    matmul_precision: str = "default"

    @classmethod
    def of(cls, config: _Asks) -> "Numerics":
        """Returns what a config asks for."""
        return cls(config.kernels, config.deterministic, config.matmul_precision)

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Applies these settings to everything that the block traces."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(platform.using(self.kernels))
            if self.matmul_precision != "default":  # default keeps the user's setting for JAX
                stack.enter_context(jax.default_matmul_precision(self.matmul_precision))
            yield

    def multiplied_in(self, precision: str) -> str:
        """Returns the type that numbers of a precision are multiplied in, "" if it is their own."""
        if precision != "float32" or self.matmul_precision == "highest":
            return ""
        return {"tpu": "bfloat16", "cuda": "TF32"}.get(platform.computed_on(), "")


def jit(
    function: Callable[..., Any], numerics: Numerics = Numerics(), **arguments: Any
) -> Callable[..., Any]:
    """Like `jax.jit`, with `options`, and computed as `numerics` says."""
    with numerics.apply():
        jitted = jax.jit(function, compiler_options=options(), **arguments)

    @functools.wraps(function)
    def call(*operands: Any) -> Any:
        with numerics.apply():
            return jitted(*operands)

    return call


def kept(
    function: Callable[..., Any], *abstract: Any, numerics: Numerics = Numerics()
) -> jax.stages.Compiled:
    """Compiles now what `jit` would at its first call, and keeps it for later processes."""
    with numerics.apply():
        return jax.jit(function, compiler_options=options()).lower(*abstract).compile()


def compiled(
    function: Callable[..., Any],
    *abstract: Any,
    numerics: Numerics = Numerics(),
    **arguments: Any,
) -> jax.stages.Compiled:
    """Compiles a function for abstract arguments, with `options`.

    On a CPU the program calls oneDNN where it can, and is then not cached for later runs.

    Args:
      function: to compile.
      *abstract: its arguments as shapes, with their shardings.
      numerics: how it computes.
      **arguments: of `jax.jit`.
    """
    with _traced(numerics):
        lowered = jax.jit(function, **arguments).lower(*abstract)
        return lowered.compile(options(numerics.deterministic))


def abstract(function: Callable[..., Any], *arguments: Any, numerics: Numerics = Numerics()) -> Any:
    """Returns what `compiled`'s program would return, as shapes."""
    with _traced(numerics):
        return jax.eval_shape(function, *arguments)


@contextlib.contextmanager
def _traced(numerics: Numerics) -> Iterator[None]:
    with numerics.apply(), platform.choose(contextlib.nullcontext, cpu=onednn.calls)():
        yield
