"""Memory of a device."""

import jax

from alexnet_jax.host import machine

GIB = 2**30


def device_memory() -> int:
    """Returns the bytes of memory that this process's first device has."""
    about = jax.local_devices()[0].memory_stats()
    if about and "bytes_limit" in about:
        return about["bytes_limit"]
    # A CPU's devices share the host's memory, and so do its processes.
    return machine.memory() // len(jax.devices())
