"""The order of devices in a mesh: near each other in the network where they talk the most."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils


def grid(devices: Sequence[Any], data: int, model: int) -> np.ndarray:
    """Returns devices as a (data, model) grid.

    TPU cores follow their network, with the cores of a `model` group nearest to each other. If a
    slower network joins several slices, each slice is a part of `data`. The rows of a batch that a
    process reads are contiguous, so that it reads no others. Other devices are sorted by process
    and number: a node of GPUs is one process, and its GPUs are equally near to each other.

    Args:
      devices: all of the run; data * model of them are used.
      data: of the mesh.
      model: of the mesh.
    """
    plain = sorted(devices, key=lambda device: (device.process_index, device.id))
    plain = plain[: data * model]
    in_order = np.array(plain).reshape(data, model)
    if not hasattr(plain[0], "coords") or len(plain) < len(devices):  # only TPUs have coordinates
        return in_order
    slices = len({getattr(device, "slice_index", 0) for device in plain})
    if data % slices:
        return in_order  # a group would lie in two slices, in whatever order
    try:
        if slices > 1:
            near = mesh_utils.create_hybrid_device_mesh(
                (data // slices, model), (slices, 1), plain, allow_split_physical_axes=True
            )
        else:
            near = mesh_utils.create_device_mesh(
                (data, model), plain, allow_split_physical_axes=True
            )
    except (AssertionError, NotImplementedError, ValueError):  # a part of a slice, say
        return in_order
    # Any group may take any part of the batch: sort the groups by process.
    order = sorted(range(data), key=lambda row: sorted(d.process_index for d in near[row]))
    near = near[order]
    return near if _together(near) else in_order


def _together(mesh: np.ndarray) -> bool:
    """Are the rows of each process next to each other?"""
    rows: dict[int, set[int]] = {}
    for row, group in enumerate(mesh):
        for device in group:
            rows.setdefault(device.process_index, set()).add(row)
    return all(max(indices) - min(indices) + 1 == len(indices) for indices in rows.values())
