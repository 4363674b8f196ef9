import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import configs
from alexnet_jax.config import LAYERS, Config, ConfigError, ScheduleConfig
from alexnet_jax.configs.validation import validate
from alexnet_jax.steps import optimizer


def params():
    rng = np.random.default_rng(0)
    return {
        name: {
            "kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
        }
        for name in ("conv1", "fc8")
    }


def test_update_is_the_papers_across_rate_drops():
    """Against a numpy loop of 200 steps: v <- 0.9 v - rate (decay w + g); w <- w + v."""
    config = Config(batch_size=10, num_epochs=20)
    o = config.optimizer
    o.bias_rate_factor, o.decay_biases, o.learning_rate = 2.0, False, 0.05
    o.schedule = ScheduleConfig(kind="step", steps=((7.0, 5e-3), (14.0, 5e-4)))
    tx, rates = optimizer.build(o), optimizer.Schedule(config, 100)
    weights = params()
    state, rng = tx.init(weights), np.random.default_rng(1)
    mirror = jax.tree.map(lambda p: np.asarray(p, np.float64), weights)
    velocity = jax.tree.map(np.zeros_like, mirror)

    @jax.jit
    def update(weights, state, grads, step):
        tree = optimizer.rate_tree(rates(step, jnp.int32(0)), weights)
        updates, state = tx.update(grads, state, weights, rates=tree, finite=jnp.bool_(True))
        return jax.tree.map(jnp.add, weights, updates), state

    for step in range(200):
        grads = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), mirror)
        weights, state = update(weights, state, grads, jnp.int32(step))
        rate = 0.05 if step < 70 else 5e-3 if step < 140 else 5e-4
        for layer in mirror:
            for part, own, decay in (("kernel", rate, 5e-4), ("bias", 2 * rate, 0.0)):
                w, g = mirror[layer][part], grads[layer][part]
                velocity[layer][part] = 0.9 * velocity[layer][part] - own * (decay * w + g)
                mirror[layer][part] = w + velocity[layer][part]
    for got, wanted in ((weights, mirror), (optimizer.velocity(state), velocity)):
        for layer, parts in wanted.items():
            for part, want in parts.items():
                error = np.linalg.norm(got[layer][part] - want) / np.linalg.norm(want)
                assert error <= 1e-6, (layer, part)


def rate_at(config, epoch, drops=0, n=1000):
    step = jnp.int32(round(epoch * n / config.batch_size))
    return {k: float(v) for k, v in optimizer.Schedule(config, n)(step, jnp.int32(drops)).items()}


def with_schedule(**changes) -> Config:
    config = Config(batch_size=10, num_epochs=100)
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = ScheduleConfig(**changes)
    return config


def test_original_code_follows_its_notebook():
    config = dataclasses.replace(configs.get("original_code"), batch_size=10)
    rows = {  # epoch: conv1 kernel, other kernels, biases (the authors' notebook, run #145 on 2012)
        0: (1e-2, 1e-2, 2e-2),
        24.9: (1e-2, 1e-2, 2e-2),
        25: (1e-3, 1e-3, 2e-2),
        51: (1e-4, 1e-4, 2e-2),
        67: (1e-5, 1e-4, 2e-2),
        72: (0.0, 1e-4, 2e-2),
        79: (0.0, 1e-5, 2e-2),
    }
    for epoch, (conv1, kernel, bias) in rows.items():
        got = rate_at(config, epoch)
        want = {"conv1_kernel": conv1, "kernel": kernel, "bias": bias}
        assert {k: got[k] for k in want} == pytest.approx(want, rel=1e-5)
        assert got["conv1_bias"] == pytest.approx(0.0 if conv1 == 0 else bias, rel=1e-5)


PRE_TRAINING = {  # run: epoch: kernels of conv1, conv2 to conv5, conv6, fc6 and fc7, fc8
    "fall2009": {
        0: (1e-3, 1e-3, 1e-2, 1e-2, 1e-2),
        2.15: (1e-3, 1e-3, 1e-2, 1e-2, 1e-2),
        2.16: (1e-3, 1e-3, 1e-3, 1e-3, 1e-3),
        6.6: (1e-3, 1e-3, 1e-3, 1e-3, 1e-3),
    },
    "fall2011": {
        0: (1e-3, 1e-3, 1e-3, 1e-2, 1e-2),
        5.99: (1e-3, 1e-3, 1e-3, 1e-2, 1e-2),
        6: (1e-3, 1e-3, 1e-3, 1e-3, 1e-3),
    },
    "original_code_conv6": {
        0: (1e-4, 1e-3, 1e-3, 1e-3, 1e-3),
        2.99: (1e-4, 1e-3, 1e-3, 1e-3, 1e-3),
        3: (1e-4, 1e-3, 1e-3, 1e-3, 1e-2),  # after 300 batches
        5: (1e-5, 1e-3, 1e-3, 1e-3, 1e-2),
        7: (0.0, 1e-3, 1e-3, 1e-3, 1e-2),
        9: (0.0, 1e-3, 1e-3, 1e-3, 1e-3),
        22: (1e-4, 1e-4, 1e-4, 1e-4, 1e-4),
        42: (1e-5, 1e-5, 1e-5, 1e-5, 1e-5),
    },
}


@pytest.mark.parametrize("recipe", PRE_TRAINING)
def test_pre_training_follows_its_notebook(recipe):
    """Nets #146-2009, -2011 and -2012-2011: rates of weights as noted, biases 0.02 throughout."""
    config = dataclasses.replace(configs.get(recipe), batch_size=10)
    for epoch, wanted in PRE_TRAINING[recipe].items():
        got = rate_at(config, epoch)
        for layers, rate in zip(
            (("conv1",), ("conv2", "conv5"), ("conv6",), ("fc6", "fc7"), ("fc8",)),
            wanted,
            strict=True,
        ):
            for layer in layers:
                own = got.get(f"{layer}_kernel", got["kernel"])
                assert own == pytest.approx(rate, rel=1e-5), (epoch, layer)
                assert got.get(f"{layer}_bias", got["bias"]) == pytest.approx(2e-2), (epoch, layer)
    noise = {"fall2009": 0, "fall2011": 0, "original_code_conv6": 38}
    assert config.augment.lighting_off_epoch == noise[recipe]


def test_rates_of_layers_are_said_in_words():
    """The authors' rates for net #146 on 2012, from 2011 (their notebook), and Caffe's lr_mult."""
    rules = (
        *("conv1 weights: 1e-4", "conv1 weights: 1e-5 from epoch 5", "conv1: 0 from epoch 7"),
        *("fc8 weights: 0", "fc8 weights: 0.01 from update 300", "fc8 weights: 0.001 from epoch 9"),
        "conv1-fc8 weights: 1e-4 from epoch 22",
    )
    config = with_schedule(kind="constant", layer_rates=rules)
    config.optimizer.learning_rate, config.optimizer.bias_rate_factor = 0.001, 20.0
    rows = {  # epoch: conv1, conv2, fc8
        0: (1e-4, 1e-3, 0.0),
        2.9: (1e-4, 1e-3, 0.0),
        3: (1e-4, 1e-3, 0.01),  # 300 updates of 10 of 1,000 images
        5: (1e-5, 1e-3, 0.01),
        7: (0.0, 1e-3, 0.01),
        9: (0.0, 1e-3, 0.001),
        22: (1e-4, 1e-4, 1e-4),
    }
    for epoch, (conv1, conv2, fc8) in rows.items():
        got = rate_at(config, epoch)
        found = [got[f"{layer}_kernel"] for layer in ("conv1", "conv2", "fc8")]
        assert found == pytest.approx([conv1, conv2, fc8], rel=1e-5), epoch
        assert got["conv1_bias"] == pytest.approx(0.02 if epoch < 7 else 0, rel=1e-5)
        assert got["fc8_bias"] == pytest.approx(0.02, rel=1e-5)
    config = with_schedule(kind="cosine", layer_rates=("fc8: x10", "all biases: x2 from epoch 50"))
    config.optimizer.fc_rate_factor = 0.5
    for epoch in (0, 30, 60):
        got = rate_at(config, epoch)
        assert got["fc8_kernel"] == pytest.approx(5 * got["kernel"], rel=1e-5)
        assert got["fc8_bias"] == pytest.approx((5 if epoch < 50 else 1) * got["bias"], rel=1e-5)
        assert got["conv3_bias"] == pytest.approx((1 if epoch < 50 else 2) * got["bias"], rel=1e-5)


def test_a_rate_reaches_its_leaf_alone():
    params = {layer: {"kernel": 0.0, "bias": 0.0} for layer in LAYERS}
    config = with_schedule(kind="constant", layer_rates=("conv2 fc7 weights: 3", "conv4: x2"))
    config.optimizer.fc_rate_factor = 10.0
    schedule = optimizer.Schedule(config, 100)
    tree = optimizer.rate_tree(schedule(jnp.int32(0), jnp.int32(0)), params, 10.0)
    found = {(la, part): float(v) for la, leaves in tree.items() for part, v in leaves.items()}
    for (layer, part), rate in found.items():
        usual = 0.1 if layer.startswith("fc") else 0.01
        if (layer, part) in (("conv2", "kernel"), ("fc7", "kernel")):
            usual = 3.0
        assert rate == pytest.approx(0.02 if layer == "conv4" else usual, rel=1e-5), (layer, part)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("conv9: 1", "layer_rates: conv9 is not known; did you mean"),
        ("conv1-conv9: 1", "layer_rates: conv9 is not known"),
        ("fc8-conv1: 1", "fc8-conv1 runs backwards; write conv1-fc8"),
        ("conv1 1e-5", "'conv1 1e-5' is no rule, such as conv1 weights: 1e-5 from epoch 67"),
        ("conv1 kernels: 1", "kernels is not known"),
        ("conv1: fast", "fast is no number from 0 on"),
        ("conv1: -1", "-1 is no number"),
        ("conv1: nan", "nan is no number"),
        ("conv1: 1 from epoch soon", "soon is no number"),
        ("conv1: 1 from update 2.5", "the update must be a whole number"),
    ],
)
def test_what_is_no_rate_is_refused(rule, message):
    config = configs.get("default")
    config.optimizer.schedule.layer_rates = ("conv2: 0.1", rule)
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_dexp_divides_equally_at_each_quarter():
    config = with_schedule(kind="dexp")
    config.optimizer.bias_rate_factor = 2.0
    for epoch, stage in ((0, 0), (24.9, 0), (25, 1), (50, 2), (75, 3), (99, 3)):
        got = rate_at(config, epoch)
        assert got["kernel"] == pytest.approx(0.01 * 250 ** (-stage / 3), rel=1e-5)
        assert got["bias"] == pytest.approx(0.02 if epoch < 50 else 0.002, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "middle"), [("polynomial", 0.25), ("cosine", 0.5), ("constant", 1.0)]
)
def test_smooth_schedules_and_warm_up(kind, middle):
    config = with_schedule(kind=kind, warmup_epochs=2.0)
    assert rate_at(config, 50)["kernel"] == pytest.approx(0.01 * middle, rel=1e-4)
    early = [rate_at(config, e)["kernel"] for e in (0, 0.5, 1, 1.5)]
    assert early == sorted(early)
    assert early[0] == pytest.approx(0.01 / 200, rel=0.05)


def test_plateau_divides_by_ten_at_most_three_times():
    schedule = ScheduleConfig(kind="plateau", patience=2)
    state, drops = optimizer.plateau_start(), []
    for error in [0.9, 0.8, 0.8, 0.8, 0.7, 0.7, 0.75, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]:
        state = optimizer.plateau_update(state, error, schedule)
        drops.append(int(state.drops))
    assert drops == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert float(state.best) == pytest.approx(0.7)
    config = with_schedule(kind="plateau")
    assert [rate_at(config, 1, d)["kernel"] for d in range(4)] == pytest.approx(
        [1e-2, 1e-3, 1e-4, 1e-5]
    )


def test_lars_scales_each_kernel_by_its_own_trust():
    config = Config()
    config.optimizer.kind, config.optimizer.trust_coefficient = "lars", 0.02
    tx, weights = optimizer.build(config.optimizer), params()
    grads = jax.tree.map(lambda p: p * 3 + 1, weights)
    rates = jax.tree.map(lambda p: jnp.float32(0.1), weights)
    updates, _ = tx.update(grads, tx.init(weights), weights, rates=rates, finite=jnp.bool_(True))
    for layer in weights:
        w, b = (np.asarray(weights[layer][p], np.float64) for p in ("kernel", "bias"))
        decayed = 5e-4 * w + (w * 3 + 1)
        want = -0.1 * 0.02 * np.linalg.norm(w) / np.linalg.norm(decayed) * decayed
        np.testing.assert_allclose(updates[layer]["kernel"], want, rtol=1e-5)
        bias = -0.1 * (5e-4 * b + b * 3 + 1)
        np.testing.assert_allclose(updates[layer]["bias"], bias, rtol=1e-5)


@pytest.mark.parametrize(("decay_biases", "first"), [(True, "EmptyState"), (False, "MaskedState")])
def test_the_state_is_that_of_earlier_checkpoints(decay_biases, first):
    """Orbax restores no other structure: a change here makes every saved run unreadable."""
    config = Config().optimizer
    config.decay_biases = decay_biases
    kinds = [type(part).__name__ for part in optimizer.build(config).init(params())]
    assert kinds == [first, "EmptyState", "TraceState"]


def test_what_is_not_finite_changes_nothing_to_the_last_bit():
    """Not even the sign of a zero; whatever the gradients hold."""
    tx, weights = optimizer.build(Config().optimizer), params()
    weights["conv1"]["bias"] = jnp.asarray([-0.0, 0.0, 1e-30, -3e38], jnp.float32)
    rates = jax.tree.map(lambda p: jnp.float32(0.1), weights)
    state = tx.init(weights)
    lost = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), weights)
    updates, after = tx.update(lost, state, weights, rates=rates, finite=jnp.bool_(False))
    moved = optax.apply_updates(weights, updates)
    for kept, before in zip(
        jax.tree.leaves((moved, after)), jax.tree.leaves((weights, state)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(kept).view("u4"), np.asarray(before).view("u4"))
