"""Faulty devices are found: replicas that differ, and updates that a replay computes otherwise."""

import dataclasses

import jax
import numpy as np
import pytest
import small
from on_mesh import corrupted, some

from alexnet_jax import train
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.ops import compilation
from alexnet_jax.steps.digests import ReplicaError
from alexnet_jax.training import loop


@pytest.fixture
def config(tmp_path):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.mesh = MeshConfig(2, 2)
    config.num_steps, config.checkpoint_every_steps = 8, 4
    config.eval_every_epochs, config.eval_batch_size = 100, 8
    return config


def spoil(monkeypatch, at: int, layer: str, device: int) -> None:
    """Flips a bit of one device's copy after an update."""
    init = loop.Loop.__init__

    def spoiled(self, run, update, *more):
        def wrong(state, fed):
            state, figures = update(state, fed)
            with jax.transfer_guard("allow"):
                if int(state.step) == at:
                    state = corrupted(state, layer, jax.devices()[device])
            return state, figures

        init(self, run, wrong, *more)

    monkeypatch.setattr(loop.Loop, "__init__", spoiled)


def test_a_flipped_bit_is_found_at_the_next_save(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        spoil(patched, 6, "conv2", 3)
        with pytest.raises(ReplicaError) as raised:
            train.train(config, tmp_path / "w")
    said = str(raised.value)
    assert said.startswith("step 8: params.conv") and "the checkpoint of step 4 is kept" in said
    names = [str(jax.devices()[device]) for device in (1, 3)]
    assert all(name in said for name in names) and "\n" not in said
    _, said, _ = small.quietly(train.train, config, tmp_path / "w")
    assert "continuing" in said and "after step 4" in said
    train.train(config, tmp_path / "whole")
    assert small.rows(tmp_path / "w") == small.rows(tmp_path / "whole")


def test_copies_are_compared_as_often_as_is_asked_for(config, tmp_path, monkeypatch):
    config.check_replicas_every = 2
    spoil(monkeypatch, 5, "fc8", 2)
    with pytest.raises(ReplicaError, match=r"step 6: params\.\w+.\w+ differs between .*step 4"):
        train.train(config, tmp_path / "w")


ONE = MeshConfig(1, 1)


@pytest.mark.parametrize(
    "mesh",
    some([ONE, MeshConfig(2, 2, "hybrid"), MeshConfig(2, 1, zero=True)], ONE),
)
def test_checks_change_no_bit_of_a_run(config, tmp_path, mesh):
    config = dataclasses.replace(config, mesh=mesh)
    train.train(config, tmp_path / "plain")
    checked = dataclasses.replace(config, check_replicas_every=1, replay_every=2)
    train.train(checked, tmp_path / "checked")
    assert small.rows(tmp_path / "checked") == small.rows(tmp_path / "plain")
    own, other = (small.final_state(tmp_path / name, 8) for name in ("checked", "plain"))
    for name, value in own.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_an_update_that_comes_out_otherwise_names_the_device(config, tmp_path, monkeypatch):
    """Like a faulty multiplier: one of the two computations of update 4 sees a flipped bit."""
    from alexnet_jax.steps import replay

    config.replay_every, config.optimizer.schedule.kind = 4, "constant"
    start, calls = replay.Replay.start, []

    def faulty(self, state, fed):
        calls.append(None)
        if len(calls) == 2:
            state = corrupted(state, "conv4", jax.devices()[1])
        return start(self, state, fed)

    monkeypatch.setattr(replay.Replay, "start", faulty)
    with pytest.raises(ReplicaError, match=r"step 4: gradient of \w+\.\w+ on \S+ was computed twi"):
        train.train(config, tmp_path / "w")


@pytest.mark.parametrize("fc_updates", [1, 2])
def test_every_layers_gradient_is_compared(config, fc_updates):
    """Also those of convolutions that learn once for several updates of the classifier."""
    from alexnet_jax.feed.host import HostBatches
    from alexnet_jax.steps.replay import Replay
    from alexnet_jax.steps.setup import Setup

    config.mesh, config.optimizer.fc_updates = MeshConfig(1, 2, "hybrid"), fc_updates
    replay = Replay(Setup.of(config, 2), HostBatches(config.mesh, config.batch_size, config.resize))
    layers = {
        name.split()[-1].split(".")[0] for name in replay._step.names if name.startswith("gradient")
    }
    assert layers == {f"conv{n}" for n in range(1, 6)} | {"fc6", "fc7", "fc8"}


def test_a_gpu_has_to_be_deterministic_for_it(config, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation.platform, "computed_on", lambda: "cuda")
    assert not compilation.repeats_itself(False) and compilation.repeats_itself(True)
    monkeypatch.undo()
    monkeypatch.setattr(compilation, "repeats_itself", lambda deterministic: deterministic)
    config.check_replicas_every = 1
    with pytest.raises(ConfigError, match="check_replicas_every: .*deterministic=True"):
        train.train(config, tmp_path / "w")
