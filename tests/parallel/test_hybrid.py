"""Krizhevsky's hybrid of 2014 against the same sequence of updates on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from on_mesh import apart, batches, follow, small
from x64 import enable_x64

from alexnet_jax.steps import state
from alexnet_jax.steps.setup import Setup

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("scheme", "passes"),
    [
        pytest.param("hybrid", 1, marks=pytest.mark.exhaustive),
        ("hybrid", 2),
        ("hybrid_in_turns", 2),
        pytest.param("columns", 2, marks=pytest.mark.exhaustive),
    ],
)
def test_a_hybrid_does_not_change_the_updates(hybrid_alone, scheme, passes):
    """Against the same sequence of updates on one device."""
    fields = {"optimizer__fc_updates": passes, "optimizer__fc_rate_factor": 0.5}
    with enable_x64(True):
        config = small((2, 2), precision="float64", mesh__scheme=scheme, **fields)
        losses, leaves = follow(config, 3)
    wanted, reference = hybrid_alone(passes)
    np.testing.assert_allclose(losses, wanted, rtol=1e-10)
    for path, leaf in leaves.items():
        assert apart(reference[path], leaf) < 1e-10, path


@pytest.fixture(scope="module")
def hybrid_alone():
    known: dict = {}

    def run(passes: int) -> tuple[list[float], dict]:
        fields = {"optimizer__fc_updates": passes, "optimizer__fc_rate_factor": 0.5}
        if passes not in known:
            with enable_x64(True):
                known[passes] = follow(small((1, 1), precision="float64", **fields), 3)
        return known[passes]

    return run


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["hybrid", "columns"])
def test_batch_normalisation_is_over_all_images_of_a_mesh(scheme):
    """Its running statistics too: every image counts once, on whichever device."""
    found = []
    for shape, how in (((1, 1), "columns"), ((2, 2), scheme)):
        with enable_x64(True):
            config = small(
                shape, precision="float64", mesh__scheme=how, model__normalisation="batch"
            )
            found.append(follow(config, 3))
    (wanted, reference), (losses, leaves) = found
    assert any("norm1" in path for path in reference)
    np.testing.assert_allclose(losses, wanted, rtol=1e-10)
    for path, leaf in leaves.items():
        assert apart(reference[path], leaf) < 1e-10, path


def test_a_variable_batch_is_a_sequence_of_updates():
    """One step with two fully connected updates, written out with nothing but jax.grad."""
    config = small((1, 1), precision="float64", optimizer__fc_updates=2, model__dropout_rate=0.0)
    config.augment.random_crop = config.augment.flip = False
    config.augment.lighting, config.optimizer.schedule.warmup_epochs = "none", 0.0
    with enable_x64(True):
        _, leaves = follow(config, 1)
        setup = Setup.of(config, 13)
        network, now = setup.network, state.create_state(setup).params
        batch = batches(config, 13, 1)[0]
        crop = batch["image"][:, 2:69, 2:69] - np.float32(config.augment.mean)
        pixels = jnp.asarray(crop, jnp.float32) / jnp.float32(config.augment.pixel_std[0])

        @jax.jit
        @jax.grad
        def gradient(params: dict, part: jax.Array) -> jax.Array:
            scores = jax.nn.log_softmax(network.apply({"params": params}, pixels[part]))
            own = scores[jnp.arange(4), jnp.asarray(batch["label"])[part]]
            return -(own * jnp.asarray(batch["mask"])[part]).sum()

        rate = float(np.float32(config.optimizer.learning_rate))  # schedules are float32
        decay = config.optimizer.weight_decay

        def moved(params: dict, grads: dict, count: float, prefix: str) -> dict:
            step = jax.tree.map(lambda w, g: w - rate * (decay * w + g / count), params, grads)
            return params | {k: v for k, v in step.items() if k.startswith(prefix)}

        first = gradient(now, jnp.arange(4))
        between = moved(now, first, 3.0, "fc")  # one of the first four is masked
        second = gradient(between, jnp.arange(4, 8))
        after = moved(between, second, 4.0, "fc")
        # The second part of an update with momentum also carries on the first's velocity.
        velocity = jax.tree.map(lambda new, old: new - old, between, now)
        carried = jax.tree.map(lambda v: config.optimizer.momentum * v, velocity)
        for layer in ("fc6", "fc7", "fc8"):
            after[layer] = jax.tree.map(jnp.add, after[layer], carried[layer])
        both = jax.tree.map(jnp.add, first, second)
        after = moved(after, both, 7.0, "conv")
    for path, leaf in leaves.items():
        if path.startswith("[0]"):
            layer, name = path[3:].strip("[]'").split("']['")
            assert apart(np.asarray(after[layer][name]), leaf) < 1e-9, path
