"""Large pages for the arrays of a CPU, which glibc can be asked for only when a program starts."""

import os
import sys

# Pages of 2 MiB that are kept for the next step: a step touches gigabytes, and finding pages for
# them takes a fifth to a third of it (experiments/speed).
TUNABLES = {
    "glibc.malloc.hugetlb": "1",
    "glibc.malloc.mmap_max": "0",
    "glibc.malloc.trim_threshold": "8589934592",
}


def asked() -> str:
    """Returns what GLIBC_TUNABLES says of them."""
    return ":".join(f"{name}={value}" for name, value in TUNABLES.items())


def start_again_with_them() -> None:
    """Starts this command again, as the same process, if it runs on Linux without them.

    A command that has GLIBC_TUNABLES of its own keeps them; one that only says what it does needs
    none.
    """
    if any(argument.startswith(("--help", "-h")) for argument in sys.argv):
        return
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = asked()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
