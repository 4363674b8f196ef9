"""The choice of how a program is computed: by the kernels asked for, and the platform.

reference  XLA's own convolutions and products, the formulas of normalisation and pooling, and the
           gradients that JAX derives from them. Runs wherever JAX runs.
cpu, cuda  What makes these platforms fast: the files `*_cpu.py` and `*_gpu.py`.
other      TPUs and GPUs of other makes: rewrites that need nothing of one platform.

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
# A CPU as of ARM, or with a jaxlib that nobody tested oneDNN's calls with; x86-64 can be it too.
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


# What a program that leaves this package is compiled for.
EXPORTED_TO = ("cpu", "cuda", "tpu")
# The environment of a process that leaves the devices to others.
WITHOUT_DEVICES = {"JAX_PLATFORMS": "cpu"}


def leave_devices() -> None:
    """Lets this process compute on the CPU alone; before JAX's first use."""
    jax.config.update("jax_platforms", WITHOUT_DEVICES["JAX_PLATFORMS"])


def simulate(devices: int) -> None:
    """Lets JAX have so many devices of a CPU, and no others; before its first use."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def simulated() -> bool:
    """Are the devices shares of one processor, as a CPU's are?"""
    return platform_in_use() == "cpu"


@contextlib.contextmanager
def using(kernels: str, platform: str | None = None) -> Iterator[None]:
    """Traces programs inside for these kernels, and for a platform that may be another's.

    Args:
      kernels: one of KERNELS.
      platform: to compute for; None: what is said around, else that in use.

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
      auto: of every platform that has none of its own; None: the plain one.
      cpu: a CPU's.
      cuda: an NVIDIA GPU's.
    """
    kind = current()
    if kind == "reference":
        return reference
    return {"cpu": cpu, "cuda": cuda}.get(kind) or auto or reference


def columns_apart() -> bool:
    """Are the columns of one device arrays of their own?

    A GPU's convolutions read and write them so; as one array each would be copied. A CPU and a TPU
    are slow with few channels.
    """
    return current() == "cuda"


def in_memory(tree: Any) -> Any:
    """Keeps XLA from computing a tree's arrays again wherever they are read, on an NVIDIA GPU.

    They are written to memory once, and how they are made does not depend on who reads them.
    """
    return choose(reference=_as_it_is, cuda=lax.optimization_barrier)(tree)


def before_others(tree: Any) -> Any:
    """Has all of a tree computed before anything that reads it, on a CPU.

    An update's velocity first, then its weights: each changes in its own memory, and none is
    copied. A GPU or a TPU changes both in one pass.
    """
    return choose(reference=_as_it_is, cpu=lax.optimization_barrier)(tree)


def _as_it_is(tree: Any) -> Any:
    return tree
