"""The processor, and the cores and memory that this machine grants a process."""

import os
import pathlib
import platform
from collections.abc import Iterator

CPU_INFO = pathlib.Path("/proc/cpuinfo")
CONTROL_GROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_GROUPS = pathlib.Path("/proc/self/cgroup")


def processor() -> str:
    """Returns the processor's name as its maker gives it, else its instruction set."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Returns how many cores this process may run on: a job's share of its machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Returns the bytes that this machine has, or that this process's container or job may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits()])


def _limits() -> Iterator[int]:
    """Yields the limits of Linux's control groups (v1 and v2), from this process's own upwards."""
    try:
        groups = OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux, or hidden
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version_1 = controllers == "memory"
        mount = CONTROL_GROUPS / "memory" if version_1 else CONTROL_GROUPS
        name = "memory.limit_in_bytes" if version_1 else "memory.max"
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                text = (folder / name).read_text().strip()
            except OSError:  # a container sees its own group alone, at the top
                text = ""
            if text.isdigit():
                yield int(text)
            if folder == mount:
                break
