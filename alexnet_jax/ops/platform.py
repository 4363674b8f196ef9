"""The choice of an implementation, by the kernels asked for and the platform.

reference  XLA's own convolutions and products, the formulas of normalisation and pooling, and the
           gradients that JAX derives from them. Runs wherever JAX runs.
cpu, cuda  What makes these platforms fast: the files `*_cpu.py` and `*_gpu.py`.
other      TPUs and GPUs of other makes: rewrites that depend on no single platform.

A program is traced for one way, by default that of `kernels` = auto on JAX's platform. `using`
overrides it; JAX then traces again.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

KERNELS = ("auto", "reference")
WAYS = ("reference", "cpu", "cuda", "other")
# A CPU without oneDNN's calls, as on ARM or with a jaxlib that they were not tested with. A program
# can be traced for it on x86-64 too.
PLAIN_CPU = "cpu without oneDNN"

Computation = Callable[..., Any]
# (kernels, platform or "" for that in use); jit traces again where it differs.
_asked = jax.make_user_context(("auto", ""))


def way(kernels: str, platform: str) -> str:
    """Returns how programs are computed, one of WAYS.

    Args:
      kernels: `Config.kernels`, one of KERNELS.
      platform: as `platform_in_use` names it, or PLAIN_CPU.

    Raises:
      ValueError: no such kernels.

    >>> way("auto", "cpu"), way("auto", "tpu"), way("reference", "cuda")
    ('cpu', 'other', 'reference')
    """
    if kernels not in KERNELS:
        raise ValueError(f"kernels: {kernels!r} is not one of {', '.join(KERNELS)}")
    if kernels == "reference":
        return "reference"
    if platform == PLAIN_CPU:
        return "cpu"
    return platform if platform in ("cpu", "cuda") else "other"


def platform_in_use() -> str:
    """Returns the platform that JAX computes on: cpu, cuda, rocm, tpu or another's name."""
    backend = jax.default_backend()
    if backend != "gpu":
        return backend
    return "rocm" if "rocm" in jax.devices()[0].client.platform_version.lower() else "cuda"


# Platforms that exported programs are compiled for.
EXPORTED_TO = ("cpu", "cuda", "tpu")
# The environment of a process that leaves the devices to others.
WITHOUT_DEVICES = {"JAX_PLATFORMS": "cpu"}


def leave_devices() -> None:
    """Restricts this process to the CPU; call it before JAX's first use."""
    jax.config.update("jax_platforms", WITHOUT_DEVICES["JAX_PLATFORMS"])


def simulate(devices: int) -> None:
    """Gives JAX so many CPU devices, and no others; call it before JAX's first use."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def simulated() -> bool:
    """Are the devices shares of one processor, as a CPU's are?"""
    return platform_in_use() == "cpu"


@contextlib.contextmanager
def using(kernels: str, platform: str | None = None) -> Iterator[None]:
    """Traces the programs inside for the given kernels and platform.

    Args:
      kernels: one of KERNELS.
      platform: to compute for; None: that of the enclosing `using`, else the one in use.

    Raises:
      ValueError: no such kernels.
    """
    way(kernels, "")
    with _asked((kernels, _asked.value[1] if platform is None else platform)):
        yield


def current() -> str:
    """Returns the way that programs are traced for here, one of WAYS."""
    return way(_asked.value[0], computed_on())


def computed_on() -> str:
    """Returns the platform that programs are traced for here; see `platform_in_use`."""
    return _asked.value[1] or platform_in_use()


def choose(
    reference: Computation,
    auto: Computation | None = None,
    cpu: Computation | None = None,
    cuda: Computation | None = None,
) -> Computation:
    """Returns the function that computes something the current way.

    Args:
      reference: the plain one.
      auto: for every platform without a function of its own; None: `reference`.
      cpu: a CPU's.
      cuda: an NVIDIA GPU's.
    """
    kind = current()
    if kind == "reference":
        return reference
    return {"cpu": cpu, "cuda": cuda}.get(kind) or auto or reference


def columns_apart() -> bool:
    """Are the columns of one device arrays of their own?

    A GPU's convolutions read and write separate arrays; columns in one array would each be copied.
    A CPU and a TPU are slow with few channels.
    """
    return current() == "cuda"


def in_memory(tree: Any) -> Any:
    """Keeps XLA from recomputing a tree's arrays wherever they are read, on an NVIDIA GPU.

    They are written to memory once, so how they are computed does not depend on their readers.
    """
    return choose(reference=_as_it_is, cuda=lax.optimization_barrier)(tree)


def before_others(tree: Any) -> Any:
    """Makes XLA compute all of a tree before anything that reads it, on a CPU.

    An update computes the velocity first, then the weights: each changes in place, and neither is
    copied. A GPU or a TPU updates both in one pass.
    """
    return choose(reference=_as_it_is, cpu=lax.optimization_barrier)(tree)


def _as_it_is(tree: Any) -> Any:
    return tree
