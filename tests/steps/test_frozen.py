"""Frozen layers: they keep every bit, and the backward pass stops where nothing below learns."""

import collections
import itertools

import numpy as np
import pytest
from on_mesh import apart, follow, initial, small, some
from x64 import enable_x64

from alexnet_jax import configs, train
from alexnet_jax.config import CONVOLUTIONS, ConfigError, MeshConfig, ModelConfig
from alexnet_jax.configs.validation import validate
from alexnet_jax.layers.batch_norm import EPSILON
from alexnet_jax.layers.standard_tree import variables
from alexnet_jax.steps import communication
from alexnet_jax.steps.forward import Forward
from alexnet_jax.steps.setup import Setup

LAYERS = ModelConfig().layers()
WAYS = {
    "one device": ((1, 1), {}),
    "columns": ((1, 2), {}),
    "data and columns": ((2, 2), {}),
    "columns in parts": ((1, 4), {}),
    "zero": ((2, 2), {"mesh__zero": True}),
    "hybrid": ((2, 2), {"mesh__scheme": "hybrid"}),
    "in turns": (
        (1, 2),
        {"mesh__scheme": "hybrid_in_turns", "optimizer__fc_updates": 2},
    ),
    "in parts": ((1, 1), {"optimizer__accumulate_steps": 2}),
    "lars": ((1, 2), {"optimizer__kind": "lars"}),
}
FROZEN = {
    "the convolutions": CONVOLUTIONS,
    "the first two": ("conv1", "conv2"),
    "one between": ("conv3",),
    "the classifier": ("fc6", "fc7", "fc8"),
    "all but the classes": LAYERS[:-1],
}
TELLING = [
    *(("the convolutions", way) for way in ("one device", "columns", "zero", "hybrid", "in turns")),
    *[("one between", "in parts"), ("the classifier", "in turns"), ("all but the classes", "lars")],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "way"),
    [
        pytest.param(
            *pair, marks=[] if pair in TELLING else pytest.mark.exhaustive, id=", ".join(pair)
        )
        for pair in itertools.product(FROZEN, WAYS)
    ],
)
def test_frozen_layers_keep_every_bit_and_the_others_learn(what, way):
    shape, fields = WAYS[way]
    frozen = FROZEN[what]
    config = small(shape, optimizer__frozen=frozen, **fields)
    validate(config)
    losses, leaves = follow(config, 20)
    assert np.isfinite(losses).all()
    start = initial(Setup.of(config, 13, 1000))
    for layer in LAYERS:
        for part in ("kernel", "bias"):
            [own] = [v for path, v in leaves.items() if path == f"[0]['{layer}']['{part}']"]
            velocity = [v for path, v in leaves.items() if f"trace['{layer}']['{part}']" in path]
            assert len(velocity) == 1
            same = np.array_equal(own, start.params[layer][part])
            assert same == (layer in frozen), (layer, part)
            assert np.any(velocity[0]) == (layer not in frozen), (layer, part)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    some(["one device", "columns", "data and columns", "zero", "hybrid", "in turns"], "zero"),
)
def test_two_hundred_updates(way):
    shape, fields = WAYS[way]
    frozen = ("conv1", "conv3", "fc6")
    config = small(shape, optimizer__frozen=frozen, model__width=1 / 16, **fields)
    _, leaves = follow(config, 200)
    start = initial(Setup.of(config, 13, 1000))
    for layer in frozen:
        for part in ("kernel", "bias"):
            own = leaves[f"[0]['{layer}']['{part}']"]
            np.testing.assert_array_equal(own, start.params[layer][part])
            [velocity] = [v for path, v in leaves.items() if f"trace['{layer}']['{part}']" in path]
            assert not velocity.any()


@pytest.mark.slow
@pytest.mark.parametrize("way", some(list(WAYS)[1:-3], "zero", "hybrid"))
def test_a_mesh_does_not_change_what_is_learned_beside_them(way):
    shape, fields = WAYS[way]
    frozen = {"optimizer__frozen": ("conv1", "conv2", "conv4"), "precision": "float64"}
    with enable_x64(True):
        _, wanted = follow(small((1, 1), **frozen), 3)
        _, found = follow(small(shape, **frozen, **fields), 3)
    for path, leaf in found.items():
        assert apart(wanted[path], leaf) < 1e-10, path


@pytest.mark.parametrize("parts", [1, 3])
def test_statistics_of_frozen_layers_stay_and_are_used(parts):
    batch_norm = {
        "model__normalisation": "batch",
        "model__layer3": "relu norm",
        "model__layer5": "relu norm pool",
        "optimizer__accumulate_steps": parts,
    }
    frozen = ("conv1", "conv3")
    config = small((2, 1), batch_size=12, optimizer__frozen=frozen, **batch_norm)
    setup = Setup.of(config, 13, 1000)
    start, rng = initial(setup), np.random.default_rng(0)
    for leaves in start.batch_stats.values():  # values whose thirds do not add up to them exactly
        for part in leaves:
            leaves[part] = rng.uniform(0.5, 2, leaves[part].shape).astype(np.float32)
    _, after = follow(config, 2)
    for layer, stays in (("norm1", True), ("norm2", False), ("norm3", True), ("norm5", False)):
        for part in ("mean", "variance"):
            same = np.array_equal(
                after[f"[0]['{layer}']['{part}']"], start.batch_stats[layer][part]
            )
            assert same == stays, (layer, part)
    module = Forward.of(setup, training=True).convolutions
    bound = module.bind(variables(start.weights), mutable=["batch_stats"])
    own = start.batch_stats["norm1"]
    x = rng.normal(3, 5, (4, 7, 7, own["mean"].size)).astype(np.float32)
    wanted = (x - own["mean"]) / np.sqrt(own["variance"] + EPSILON)  # as an evaluation has it
    np.testing.assert_allclose(bound.norm1(x), wanted, rtol=1e-4, atol=1e-5)


def step(frozen: tuple[str, ...], mesh: MeshConfig = MeshConfig(1, 1)):
    config = configs.get("paper")
    config.num_classes, config.batch_size, config.kernels = 1000, 8, "reference"
    config.mesh = mesh
    config.optimizer.frozen = frozen
    return train.compile_train_step(config)


@pytest.mark.slow
def test_a_step_above_frozen_convolutions_costs_less_than_half():
    """FLOPs as XLA counts them, of its own convolutions and products (kernels = reference)."""
    full = step(()).cost_analysis()["flops"]
    share = {
        name: step(layers).cost_analysis()["flops"] / full
        for name, layers in {
            "conv1": ("conv1",),
            "convolutions": CONVOLUTIONS,
            "all but fc8": LAYERS[:-1],
            "fc6": ("fc6",),
        }.items()
    }
    assert share["convolutions"] <= 0.45, share
    # A third of the products are the forward pass's, another the weights' gradients.
    assert 1 / 3 < share["all but fc8"] < share["convolutions"] < share["conv1"] < share["fc6"] < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    some(
        [
            MeshConfig(2, 2),
            MeshConfig(1, 4),
            MeshConfig(2, 2, zero=True),
            MeshConfig(2, 2, "hybrid"),
            MeshConfig(1, 2, "hybrid_in_turns"),
        ],
        MeshConfig(2, 2),
        MeshConfig(2, 2, "hybrid"),
    ),
    ids=str,
)
def test_what_is_not_differentiated_is_neither_computed_nor_sent(mesh):
    found, flops = {}, {}
    for name, layers in (("none", ()), ("convolutions", CONVOLUTIONS)):
        program = step(layers, mesh)
        flops[name] = program.cost_analysis()["flops"]
        found[name] = collections.Counter()
        for one in communication.compiled(program):
            if one.backward or one.layer == "update":
                found[name][one.layer] += one.payload
    assert flops["convolutions"] <= 0.45 * flops["none"]
    convolutions = {layer for layer in found["convolutions"] if layer.startswith("conv")}
    assert not convolutions, found
    by_columns = mesh.scheme == "columns"
    assert by_columns == any(layer.startswith("conv") for layer in found["none"])
    assert sum(found["convolutions"].values()) < sum(found["none"].values())


def test_layers_are_named_as_flags_name_them():
    config = configs.get("default")
    config.optimizer.frozen = ("conv1, conv2",)
    validate(config)
    assert config.optimizer.frozen == ("conv1", "conv2")


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("conv6",), "optimizer.frozen: conv6 is not known; did you mean conv5"),
        (LAYERS, "optimizer.frozen: names every layer"),
        (("conv4",), "optimizer.frozen: conv4 is not known"),
        ("conv1", "is not of type tuple"),
    ],
)
def test_what_cannot_be_frozen_is_refused(frozen, message):
    config = configs.get("default")
    config.optimizer.frozen = frozen
    if frozen == ("conv4",):
        config.model.without = frozen
    with pytest.raises(ConfigError, match=message):
        validate(config)
