"""How much memory there is."""

import os
import pathlib

import jax


def device_memory() -> int:
    """Returns the bytes of memory that this process's first device has."""
    about = jax.local_devices()[0].memory_stats()
    if about and "bytes_limit" in about:
        return about["bytes_limit"]
    # A CPU's devices share the host's memory, and so do its processes.
    return _host_memory() // len(jax.devices())


def _host_memory() -> int:
    """Returns the bytes that this host lets its processes have; a container may have fewer."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    told = limit.read_text().strip() if limit.is_file() else "max"
    return min(host, int(told)) if told.isdigit() else host
