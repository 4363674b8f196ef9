"""The order of devices in a mesh, on TPUs that are described and not there."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from alexnet_jax.parallel import topology


@dataclasses.dataclass(frozen=True)
class Core:
    id: int
    process_index: int
    coords: tuple[int, int, int] = (0, 0, 0)
    slice_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"


@dataclasses.dataclass(frozen=True)
class Gpu:
    id: int
    process_index: int


def pod(shape, kind="TPU v4", slices=1, host=(2, 2, 1)):
    """Chips of a cuboid, each process with a block of them."""
    cores = []
    hosts = [range(0, side, block) for side, block in zip(shape, host, strict=True)]
    for part in range(slices):
        for corner in itertools.product(*reversed(hosts)):
            process = len(cores) // int(np.prod(host))
            for offset in itertools.product(*map(range, reversed(host))):
                z, y, x = (a + b for a, b in zip(corner, offset, strict=True))
                cores.append(Core(len(cores), process, (x, y, z), part, device_kind=kind))
    return cores


def steps(shape, one, other):
    """Links between two chips; axes of four and more are rings."""
    between = [abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)]
    return sum(
        min(gap, side - gap) if side >= 4 else gap for gap, side in zip(between, shape, strict=True)
    )


@pytest.mark.parametrize(
    ("shape", "kind", "host"),
    [
        ((2, 2, 4), "TPU v4", (2, 2, 1)),
        ((4, 4, 4), "TPU v4", (2, 2, 1)),
        ((4, 4, 1), "TPU v5 lite", (2, 2, 1)),
        ((8, 8, 1), "TPU v6 lite", (2, 2, 1)),
        ((2, 4, 1), "TPU v5 lite", (2, 4, 1)),
    ],
)
@pytest.mark.parametrize("model", [1, 2, 4])
def test_groups_are_neighbours_and_rows_of_a_process_together(shape, kind, host, model):
    cores = pod(shape, kind, host=host)
    mesh = topology.grid(cores, len(cores) // model, model)
    assert {core.id for core in mesh.ravel()} == set(range(len(cores)))
    for group in mesh:
        # A ring around a group is no longer than a row of neighbours, there and back.
        around = zip(group, np.roll(group, -1), strict=True)
        assert sum(steps(shape, one, other) for one, other in around) <= 2 * (model - 1)
    assert topology._together(mesh)


def test_numbers_alone_would_put_partners_apart():
    """Why the order matters: hosts are blocks of four, and numbers run block by block."""
    shape = (4, 4, 4)
    cores = pod(shape)

    def length(groups):
        return sum(
            steps(shape, a, b) for g in groups for a, b in zip(g, np.roll(g, -1), strict=True)
        )

    assert length(topology.grid(cores, 16, 4)) == 64  # a ring each
    assert length(np.array(cores).reshape(16, 4)) == 96


@pytest.mark.parametrize("model", [2, 4])
def test_slices_are_parts_of_data(model):
    cores = pod((2, 2, 2), slices=2)
    mesh = topology.grid(cores, len(cores) // model, model)
    for group in mesh:
        assert len({core.slice_index for core in group}) == 1
    assert [core.slice_index for core in mesh[:, 0]] == sorted(c.slice_index for c in mesh[:, 0])


def test_what_has_no_network_is_in_the_order_of_numbers():
    cores = pod((2, 2, 2))
    cases = {
        "a part of them": (cores, 2, 2),
        "a hole": ([*cores[:-1], dataclasses.replace(cores[-1], coords=(5, 5, 5))], 4, 2),
        "a group in two slices": (pod((2, 1, 1), slices=3, host=(2, 1, 1)), 1, 6),
        "GPUs": ([Gpu(core.id, core.process_index) for core in cores[::-1]], 4, 2),
    }
    for name, (devices, data, model) in cases.items():
        found = [core.id for core in topology.grid(devices, data, model).ravel()]
        assert found == list(range(data * model)), name
    own = topology.grid(jax.devices(), 4, 2)
    assert own.shape == (4, 2) and list(own.ravel()) == jax.devices()
