"""Memory of a device, and of a program on it."""

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


def peak_bytes(program: jax.stages.Compiled) -> int:
    """Returns the memory that a program's arguments, results and intermediate values take."""
    memory = program.memory_analysis()
    assert memory is not None
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(total + memory.temp_size_in_bytes - memory.alias_size_in_bytes)
