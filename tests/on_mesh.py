"""Small networks on meshes: their configs, batches and updates."""

import dataclasses

import jax
import numpy as np
import pytest

from alexnet_jax import configs
from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.parallel import mesh
from alexnet_jax.steps import state, training
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.stored_form import StoredForm

MESHES = [(1, 1), (1, 2), (2, 2), (4, 2), (2, 4), (1, 8)]


def some(cases: list, *telling: object) -> list:
    """Marks all but the telling cases of a family as exhaustive."""
    exhaustive = pytest.mark.exhaustive
    return [case if case in telling else pytest.param(case, marks=exhaustive) for case in cases]


def small(shape: tuple[int, int], **fields) -> Config:
    """Returns an eighth of the default network on a mesh; fields by dotted name."""
    config = configs.get("default")
    config.resize, config.image_size, config.batch_size = 71, 67, 8
    config.model.width, config.num_classes, config.num_steps = 1 / 8, 13, 100
    config.mesh.data, config.mesh.model = shape
    for name, value in fields.items():
        *path, last = name.split("__")
        owner = config
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, value)
    return config


def batches(config: Config, classes: int, steps: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    size, side = config.batch_size, config.resize
    return [
        {
            "image": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
            "label": rng.integers(0, classes, size).astype(np.int32),
            "mask": (np.arange(size) != 3).astype(np.float32),
            "position": np.arange(size, dtype=np.int32) + n * size,
            "epoch": np.full(size, n // 4, np.int32),
            "index": rng.integers(0, 1000, size).astype(np.int32),
            "place": np.arange(size, dtype=np.int32),
            "bad": np.zeros(size, np.float32),
            "stop": np.zeros(size, np.float32),
        }
        for n in range(steps)
    ]


def arranged(batch: dict, config: Config, devices: jax.sharding.Mesh) -> dict:
    """Puts the rows where a scheme wants them, as the trainer does."""
    passes, size = config.optimizer.fc_updates, config.batch_size
    order = mesh.row_order(devices, config.mesh, size, passes)
    return {name: values[order] for name, values in batch.items()}


_known: dict = {}


def initial(setup: Setup) -> state.TrainState:
    """Returns the state before the first update as a checkpoint has it, computed once for each
    network."""
    config = setup.config
    key = repr((config.model, config.optimizer, config.precision, setup.network.num_classes))
    if key not in _known:
        alone = dataclasses.replace(setup, mesh=mesh.build(MeshConfig(1, 1)))
        made = jax.jit(lambda: state.initial_state(alone))()
        _known[key] = jax.tree.map(np.asarray, made)
    return _known[key]


def follow(config: Config, steps: int, classes: int = 13) -> tuple[list[float], dict]:
    """Runs a few updates; returns each loss, and the state as NumPy arrays by path."""
    setup = Setup.of(config, classes, 1000)
    devices = setup.mesh
    form = StoredForm(setup)
    now = form.state(
        jax.tree.map(
            lambda leaf, place: jax.device_put(leaf.copy(), place.sharding),  # it is donated
            initial(setup),
            form.abstract,
        )
    )
    feeding = HostBatches(config.mesh, config.batch_size, config.resize)
    losses = []
    update = training.compile_train_step(setup, feeding)
    for batch in batches(config, classes, steps):
        now, figures = update(
            now, mesh.put_batch(arranged(batch, config, devices), devices, config.mesh)
        )
        sums = jax.device_get(figures["sums"]["loss"])
        losses.append(float(sums.total) / float(sums.count))
    now = form.of(now)
    leaves = jax.tree_util.tree_leaves_with_path((now.weights, now.opt_state))
    return losses, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30))


def flipped(array: jax.Array, device: jax.Device) -> jax.Array:
    """Returns the array with a bit flipped in one device's copy."""
    parts = []
    for shard in array.addressable_shards:
        own = np.array(shard.data)
        if shard.device == device:
            own.reshape(-1).view(np.uint32)[-1] ^= 1 << 7
        parts.append(jax.device_put(own, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def corrupted(own: state.TrainState, layer: str, device: jax.Device) -> state.TrainState:
    params = {name: dict(leaves) for name, leaves in own.params.items()}
    params[layer]["kernel"] = flipped(params[layer]["kernel"], device)
    return own.replace(params=params)
