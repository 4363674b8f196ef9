"""Digests of a state: equal on every mesh, changed by any bit, and able to name the odd device."""

import re

import jax
import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from on_mesh import corrupted

from alexnet_jax.config import MeshConfig
from alexnet_jax.steps import digests, state
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.stored_form import StoredForm

MESHES = [
    MeshConfig(1, 1),
    MeshConfig(1, 2),
    MeshConfig(4, 2),
    MeshConfig(1, 8),
    MeshConfig(2, 2, "hybrid"),
    MeshConfig(4, 1, zero=True),
]


def made(mesh: MeshConfig, tmp_path) -> state.TrainState:
    config = small.config(tmp_path)
    config.mesh = mesh
    setup = Setup.of(config, 10)
    return StoredForm(setup).of(state.create_state(setup))


def test_any_mesh_and_the_host_have_the_same(tmp_path):
    found = []
    for mesh in MESHES:
        own = made(mesh, tmp_path)
        computed = digests.StateDigests(own)
        found.append(computed.finished(computed.start(own)))
        assert digests.of_tree(jax.device_get(own)) == found[-1]
    assert all(one == found[0] for one in found)
    assert len(set(found[0].values())) > len(found[0]) / 2  # biases and velocities are zero


def by_the_formula(words: list[int]) -> str:
    """The digest by Python's own numbers."""
    sums = [0, 0]
    for index, word in enumerate(words):
        h = (word ^ (index * 0x9E3779B1) % 2**32) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        h ^= h >> 16
        g = (h + index) * 0x27D4EB2F % 2**32
        sums = [(sums[0] + h) % 2**32, (sums[1] + (g ^ (g >> 15))) % 2**32]
    return "".join(f"{number:08x}" for number in sums)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50), st.data())
@settings(max_examples=200, deadline=None)
def test_one_flipped_bit_always_shows(words, data):
    array = np.array(words, np.uint32)
    assert digests.of_array(array) == by_the_formula(words)
    place, bit = data.draw(st.integers(0, len(words) - 1)), data.draw(st.integers(0, 31))
    other = array.copy()
    other[place] ^= np.uint32(1 << bit)
    assert digests.of_array(other) != digests.of_array(array)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bool", "int8", "float32", "int32"])
def test_numbers_of_every_size(dtype, rng):
    array = (rng.standard_normal((3, 300_000)) * 50).astype(dtype)  # more than a chunk
    whole = digests.of_array(array)
    array[2, -1] = not array[2, -1] if dtype == "bool" else array[2, -1] + 1
    assert digests.of_array(array) != whole
    array[2, -1] = not array[2, -1] if dtype == "bool" else array[2, -1] - 1
    array[0, 0], array[1, 7] = array[1, 7], array[0, 0]
    assert (digests.of_array(array) == whole) == (array[0, 0] == array[1, 7])


@pytest.mark.parametrize(
    ("mesh", "device", "said"),
    [
        (MeshConfig(4, 1), 2, r"params.conv3.kernel on DEVICE_2 is not what other devices hold"),
        (MeshConfig(2, 1), 1, r"params.conv3.kernel differs between DEVICE_0, DEVICE_1"),
        (MeshConfig(4, 2), 5, r"params.conv3.kernel on DEVICE_5 is not what other devices hold"),
        (MeshConfig(2, 2), 3, r"params.conv3.kernel differs between DEVICE_1, DEVICE_3"),
    ],
)
def test_a_flipped_bit_in_one_copy_names_the_device(tmp_path, mesh, device, said):
    own = made(mesh, tmp_path)
    computed = digests.StateDigests(own)
    computed.finished(computed.start(own))
    wrong = corrupted(own, "conv3", jax.devices()[device])
    wanted = re.sub(r"DEVICE_(\d)", lambda found: str(jax.devices()[int(found[1])]), said)
    with pytest.raises(digests.ReplicaError, match=wanted):
        computed.finished(computed.start(wrong))


def test_a_part_that_only_one_device_has_is_no_replica(tmp_path):
    own = made(MeshConfig(1, 2), tmp_path)
    computed = digests.StateDigests(own)
    before = computed.finished(computed.start(own))
    after = computed.finished(computed.start(corrupted(own, "fc6", jax.devices()[1])))
    differ = [name for name in before if before[name] != after[name]]
    assert differ == ["params.fc6.kernel"]


def test_names_are_those_of_the_file(tmp_path):
    own = made(MeshConfig(1, 1), tmp_path)
    names = digests.of_tree(jax.device_get(own))
    assert {"step", "params.conv1.kernel", "params.fc8.bias"} <= names.keys()
    assert any(name.endswith("trace.conv1.kernel") for name in names)
    assert not digests.StateDigests.suits(jax.device_get(own))
