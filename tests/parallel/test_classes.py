"""Classes that do not divide over a mesh: zeros pad them, which nothing sees."""

import jax
import numpy as np
import pytest
import small as runs
from on_mesh import apart, batches, follow, small
from x64 import enable_x64

from alexnet_jax import configs, train
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.inference import trained
from alexnet_jax.parallel import mesh
from alexnet_jax.parallel.schemes import MODEL
from alexnet_jax.steps import communication, optimizer, state, training
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.stored_form import StoredForm
from alexnet_jax.training import run_weights
from experiments.sharding.compare import by_layer, state_bytes

BEHIND = {"model__conv6_channels": 64, "model__fc7_linear_units": 512}


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ((1, 2), {}),
        ((2, 4), {}),
        ((2, 2), {"mesh__zero": True}),
        ((2, 2), {"mesh__scheme": "hybrid"}),
        ((1, 2), {"optimizer__kind": "lars"}),
    ],
    ids=str,
)
def test_updates_are_those_of_one_device(shape, fields):
    """13 classes behind conv6 and the linear layer; the weights decay, LARS takes norms."""
    fields = fields | BEHIND
    kind = {name: value for name, value in fields.items() if not name.startswith("mesh")}
    with enable_x64(True):
        wanted = follow(small((1, 1), precision="float64", **kind), 3)
        found = follow(small(shape, precision="float64", **fields), 3)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-9)
    assert found[1].keys() == wanted[1].keys()
    for name, value in wanted[1].items():
        assert value.shape == found[1][name].shape
        assert apart(value, found[1][name]) < 1e-9, name


def test_padding_stays_zero_and_a_share_is_held():
    """Straight after a few updates, as the devices hold it."""
    config = small((1, 4), **BEHIND)
    setup = Setup.of(config, 13, 1000)
    own = state.create_state(setup)
    feeding = HostBatches(config.mesh, config.batch_size, config.resize)
    update = training.compile_train_step(setup, feeding)
    for batch in batches(config, 13, 3):
        own, figures = update(own, mesh.put_batch(batch, setup.mesh, config.mesh))
    assert np.isfinite(float(figures["gradient_norm"]))
    for tree in (own.params["fc8"], own.opt_state[-1].trace["fc8"]):
        for leaf in tree.values():
            assert leaf.shape[-1] == 16 and leaf.sharding.shard_shape(leaf.shape)[-1] == 4
            assert not np.asarray(leaf)[..., 13:].any() and np.asarray(leaf)[..., :13].any()
    kept = StoredForm(setup).of(own).params["fc8"]["kernel"]
    assert kept.shape == (64, 13) and kept.sharding.shard_shape(kept.shape) == (16, 13)


def test_a_run_goes_on_and_is_read_on_other_meshes(tmp_path):
    data = tmp_path / "set"
    runs.write_folder(data)
    config = runs.config(data)
    config.num_classes, config.optimizer.schedule.kind = 5, "constant"
    train.train(config, tmp_path / "alone")
    config.num_steps = 2
    config.mesh = MeshConfig(1, 2)
    train.train(config, tmp_path / "w")
    assert run_weights.read("workdir", tmp_path / "w").params["fc8"]["kernel"].shape == (256, 5)
    config.num_steps, config.mesh = 4, MeshConfig(2, 2)
    train.train(config, tmp_path / "w")
    config.num_steps, config.mesh = 0, MeshConfig(1, 1)
    train.train(config, tmp_path / "w")
    wanted = trained.load(tmp_path / "alone", which="latest").params
    for shape in ((1, 1), (1, 4)):
        network = trained.load(tmp_path / "w", MeshConfig(*shape), "latest")
        padded = -(-5 // shape[1]) * shape[1]
        assert network.params["fc8"]["kernel"].shape == (256, padded)
        for name, leaf in network.params["fc8"].items():
            own = np.asarray(leaf)[..., :5]
            assert apart(np.asarray(wanted["fc8"][name]), own) < 1e-4
    # The mesh that a run used before does not change how its replicas are compared.
    config.num_steps, config.mesh, config.check_replicas_every = 6, MeshConfig(2, 2), 1
    train.train(config, tmp_path / "w")


def test_too_few_inputs_for_zero_are_refused_before_anything_runs():
    config = small((4, 2), mesh__zero=True, model__fc_units=1056)  # 132 units: by 4, not by 8
    with pytest.raises(ConfigError, match="mesh.zero: the inputs of fc8 cannot be shared by 8"):
        StoredForm(Setup.of(config, 13))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["hybrid", "columns"])
def test_21843_classes_on_eight_devices(scheme):
    """No part of fall2011's state is on every device, except a hybrid's convolutions."""
    config = configs.get("fall2011")
    config.num_classes, config.batch_size = 21_843, 128
    config.mesh = MeshConfig(1, 8, scheme)
    setup = Setup.of(config, 21_843)
    own = state.abstract_state(setup)
    whole = {}
    velocity = optimizer.velocity(own.opt_state)
    for path, leaf in (
        *jax.tree_util.tree_leaves_with_path(own.params),
        *jax.tree_util.tree_leaves_with_path(velocity),
    ):
        over = MODEL in mesh.axes_of(leaf.sharding.spec)
        is_convolution = path[0].key.startswith("conv")
        assert over or (scheme == "hybrid" and is_convolution), path
        held = np.prod(leaf.sharding.shard_shape(leaf.shape))
        whole[path[0].key] = whole.get(path[0].key, 0) + int(held)
    assert whole["fc8"] == 2 * 2049 * 2731  # 21,848 classes over eight, and their velocity
    form = StoredForm(setup)
    kernel = form.abstract.params["fc8"]["kernel"]
    assert kernel.shape == (2048, 21_843)
    assert kernel.sharding.shard_shape(kernel.shape) == (256, 21_843)
    unpadded = form._unpadded.lower((own.params["fc8"], own.opt_state[-1].trace["fc8"])).compile()
    update = training.compile_train_step(setup, HostBatches(config.mesh, 128, config.resize))
    held = state_bytes(update)
    # The page of experiments/sharding has these; a replicated fc8 alone would be 341 MiB more.
    assert held["arguments"] < 131 * 2**20 and held["temporary"] < 470 * 2**20
    sent = {
        place: row["bytes"] / 2**20
        for place, row in by_layer(communication.compiled(update)).items()
    }
    assert sent["logits"] < 19 and sum(sent.values()) < {"columns": 169, "hybrid": 56}[scheme]
    text = unpadded.as_text()
    assert "all-to-all" in text and "f32[2048,21843]" not in text and "f32[2048,21848]" not in text
