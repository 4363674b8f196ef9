"""Kernels packed for inference: the same answers, and packed only if that is faster."""

import jax
import numpy as np
import pytest

from alexnet_jax import configs
from alexnet_jax.config import MeshConfig
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.layers.linear import PACKED
from alexnet_jax.ops import compilation, matmul, onednn
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import evaluation
from alexnet_jax.steps.forward import Forward
from alexnet_jax.steps.packing import Packing
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import abstract_state, create_state, initial_state

# fc8 of 1,000 classes too, but not of the 100 here.
PACKED_LAYERS = {"conv2", "conv3", "conv4", "conv5", "fc6", "fc7"}
needs_onednn = pytest.mark.skipif(not onednn.available(), reason="oneDNN cannot be called here")


def setup_of(recipe: str, mesh=MeshConfig(1, 1), **fields) -> Setup:
    config = configs.get(recipe)
    config.mesh, config.num_classes = mesh, 100
    for name, value in fields.items():
        setattr(config, name, value)
    return Setup.of(config, 100)


def logits(setup, weights, views, kernels=None):
    own = meshes.specs(weights, setup.mesh, setup.config.mesh)
    step = meshes.per_device(
        lambda w, v: Forward.of(setup).logits(w, v), setup.mesh, own, meshes.EVERYWHERE
    )
    numerics = compilation.Numerics(kernels or setup.config.kernels)
    return np.asarray(compilation.compiled(step, weights, views, numerics=numerics)(weights, views))


@needs_onednn
@pytest.mark.parametrize(
    ("recipe", "images", "packed"),
    [
        ("paper", 1, PACKED_LAYERS),
        ("torchvision", 5, PACKED_LAYERS),
        ("default", 5, set()),
        pytest.param("caffenet", 5, PACKED_LAYERS, marks=pytest.mark.exhaustive),
        pytest.param("paper_conv6", 5, PACKED_LAYERS | {"conv6"}, marks=pytest.mark.exhaustive),
        pytest.param("original_code", 9, PACKED_LAYERS, marks=pytest.mark.exhaustive),
    ],
)
def test_packed_weights_say_what_the_reference_says(recipe, images, packed, rng):
    """To 1e-5 of the largest logit; 5 images are a whole group of `winograd` and a remainder."""
    setup = setup_of(recipe)
    weights = initial_state(setup).weights
    packing = Packing(setup, weights)
    ready = packing(weights)
    assert ready.get(PACKED, {}).keys() == packed
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (ready, packing.abstract))
    assert shapes[0] == shapes[1]
    side = setup.config.image_size
    views = (50 * rng.standard_normal((images, side, side, 3))).astype(np.float32)
    wanted = logits(setup, weights, views, "reference")
    found = logits(setup, ready, views)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    # The original kernels are not read: a program that used them would need each of them twice.
    if packed:
        zeros = jax.tree.map(np.zeros_like, {n: ready[n] for n in packed}) | {PACKED: ready[PACKED]}
        for name in packed:
            zeros[name]["bias"] = ready[name]["bias"]
        np.testing.assert_array_equal(logits(setup, ready | zeros, views), found)


@needs_onednn
def test_devices_that_share_the_images_have_packed_kernels_each(rng):
    one, two = setup_of("torchvision"), setup_of("torchvision", MeshConfig(2, 1))
    views = (50 * rng.standard_normal((4, 224, 224, 3))).astype(np.float32)
    found = []
    for setup in (one, two):
        weights = create_state(setup).weights
        ready = Packing(setup, weights)(weights)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(ready[PACKED]))
        found.append(logits(setup, ready, views))
    assert np.abs(found[1] - found[0]).max() < 1e-6 * np.abs(found[0]).max()


@needs_onednn
def test_classes_that_are_no_whole_blocks_are_padded(rng):
    """Their zeros are cut off again, and what is left is the product."""
    x, matrix = (rng.standard_normal(s).astype(np.float32) for s in ((3, 2100), (2100, 1001)))

    def both(x, matrix):
        packed = matmul.pack(matrix)
        assert packed.shape == (1, 32, 2100, 32)
        return matmul.packed(x, packed, 1001), matmul.fully_connected(x, matrix)

    blocks, whole = compilation.compiled(both, x, matrix)(x, matrix)
    wanted = x.astype(np.float64) @ matrix
    for found in (blocks, whole):
        assert np.abs(found - wanted).max() < 3e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "setup",
    [
        {"recipe": "paper", "kernels": "reference"},
        {"recipe": "paper", "precision": "bfloat16"},
        {"recipe": "paper", "mesh": MeshConfig(1, 2)},
        {"recipe": "paper", "mesh": MeshConfig(2, 1, zero=True)},
    ],
    ids=lambda fields: str(list(fields.values())[1]),
)
def test_what_is_not_faster_stays_as_it_is(setup):
    setup = setup_of(**setup)
    weights = abstract_state(setup).weights
    packing = Packing(setup, weights)
    assert packing.abstract is weights and packing(weights) is weights


@needs_onednn
def test_an_evaluation_has_no_kernel_twice():
    """Packed kernels are arguments of its program; the kernels they were made from are not."""
    setup = setup_of("paper")
    weights = Packing(setup, abstract_state(setup).weights).abstract
    feeding = HostBatches(setup.config.mesh, 8, setup.config.resize)
    step = evaluation.compile_eval_step(setup, feeding, weights, 1)
    sizes = step.memory_analysis().argument_size_in_bytes
    own = sum(leaf.size * 4 for leaf in jax.tree.leaves(setup_weights(weights)))
    images = 8 * setup.config.resize**2 * 3
    assert sizes < own + images + 10**6


def setup_weights(weights):
    """The leaves that the program reads: all but the kernels that have a packed form."""
    packed = weights[PACKED]
    rest = {
        layer: {
            name: leaf for name, leaf in leaves.items() if layer not in packed or name == "bias"
        }
        for layer, leaves in weights.items()
        if layer != PACKED
    }
    return packed, rest
