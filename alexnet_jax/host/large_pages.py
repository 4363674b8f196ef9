"""Large pages for a CPU's arrays; glibc takes the request only when a program starts."""

import os
import pathlib
import sys

from alexnet_jax.errors import in_notebook

# Pages of 2 MiB that are kept for the next step: a step touches gigabytes, and finding pages for
# them takes a fifth to a third of it (experiments/speed, s9).
TUNABLES = {
    "glibc.malloc.hugetlb": "1",
    "glibc.malloc.mmap_max": "0",
    "glibc.malloc.trim_threshold": "8589934592",
}
# Device files of NVIDIA GPUs (dxg in WSL), AMD GPUs and TPUs.
ACCELERATORS = tuple(
    f"/dev/{name}" for name in ("nvidia0", "nvidiactl", "dxg", "kfd", "accel0", "vfio/0")
)


def tunables() -> str:
    """Returns the value of GLIBC_TUNABLES that requests large pages."""
    return ":".join(f"{name}={value}" for name, value in TUNABLES.items())


def start_again_with_them(kernels: str = "auto") -> None:
    """Restarts this command in the same process, if it computes on a CPU without large pages.

    Only for commands, never for a program that imports this one, or for a notebook: it would
    replace the kernel with all that is in it. A command that has GLIBC_TUNABLES of its own keeps
    them; one that only prints its help needs none.

    Args:
      kernels: does nothing for `reference`.
    """
    if in_notebook() or any(argument.startswith(("--help", "-h")) for argument in sys.argv):
        return
    if kernels != "auto" or not on_a_cpu() or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = tunables()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def on_a_cpu() -> bool:
    """Is this a Linux machine without accelerators? Asked without starting JAX."""
    if sys.platform != "linux":
        return False
    return not any(pathlib.Path(device).exists() for device in ACCELERATORS)
