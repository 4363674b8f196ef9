"""Runs that start from other people's networks compute, before update 1, what those compute."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import configs, model
from alexnet_jax.layers import standard_tree
from alexnet_jax.steps import augment
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import create_state, with_weights
from alexnet_jax.training import run_weights, start
from alexnet_jax.weights import formats, layout
from tests.weights.test_convert import caffe_layers, narrow, net_parameter, onnx_graph
from tests.weights.test_convert import random_params as drawn

__all__ = ["narrow"]
NAMES = [f"class {i}" for i in range(13)]


def caffe_file(narrow, folder):
    tensors = layout.from_standard(drawn(narrow("bvlc_alexnet")), layout.LAYOUTS["caffe"])
    path = folder / "net.caffemodel"
    path.write_bytes(net_parameter(caffe_layers(tensors, ("LRN", "Pooling")), False))
    return path


def onnx_file(narrow, folder):
    onnx = pytest.importorskip("onnx")
    params = drawn(narrow("caffenet"))
    nodes, stored = onnx_graph(onnx, layout.from_standard(params, layout.LAYOUTS["onnx"]))
    nodes[1:1] = [onnx.helper.make_node(k, ["a"], [k]) for k in ("MaxPool", "LRN")]
    path = folder / "net.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", [], [], stored)), path)
    return path


def torchvision_file(narrow, folder):
    torch = pytest.importorskip("torch")
    tensors = layout.from_standard(drawn(narrow("torchvision")), layout.LAYOUTS["torchvision"])
    path = folder / "net.pth"
    torch.save({name: torch.from_numpy(values.copy()) for name, values in tensors.items()}, path)
    return path


FILES = {"caffe": caffe_file, "onnx": onnx_file, "torchvision": torchvision_file}


def outputs(config, classes, tree, statistics, images):
    """Returns every layer's output for an evaluation's view."""
    network = model.build(config.model, classes, "float32")
    [view] = augment.Views.of(config, statistics).evaluation(jnp.asarray(images), 1)
    found, kept = network.apply(
        standard_tree.variables(tree),
        view,
        capture_intermediates=standard_tree.layer_outputs,
        mutable=["intermediates"],
    )
    layers = {name: one["__call__"][0] for name, one in dict(kept)["intermediates"].items()}
    return jax.device_get(layers | {"logits": found})


def begun(weights, class_names, **init):
    """Starts a run from weights; returns its config, its weights, and what became of each layer."""
    config = configs.get("fine_tune")
    config.init = dataclasses.replace(config.init, weights=str(weights), **init)
    found = start.read(config)
    assert found is not None
    setup = Setup.of(found.config, len(class_names), statistics=found.weights.statistics)
    fitted = start.fit(found, setup, class_names)
    state = with_weights(create_state(setup), fitted.params)
    return found.config, state.weights, fitted.layers


@pytest.mark.parametrize("form", FILES)
def test_before_update_1_it_is_the_imported_network(form, narrow, tmp_path, rng):
    path = FILES[form](narrow, tmp_path)
    weights = run_weights.read(form, path)
    images = rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    wanted = outputs(weights.config, 13, weights.params, weights.statistics, images)

    # A file without class names gives all layers but fc8, and its own network's input settings.
    config, tree, layers = begun(path, ["a", "b"])
    assert layers["fc8"] == "anew: the weights do not name their classes"
    for name in ("augment", "image_size", "resize"):
        own, theirs = getattr(config, name), getattr(weights.config, name)
        if name == "augment":
            own, theirs = (own.mean, own.pixel_std), (theirs.mean, theirs.pixel_std)
        assert own == theirs
    np.testing.assert_array_equal(outputs(config, 2, tree, None, images)["fc7"], wanted["fc7"])

    # An imported run with class names gives the whole network, or some rows of fc8.
    run_weights.write("workdir", dataclasses.replace(weights, class_names=NAMES), tmp_path / "w")
    config, tree, layers = begun(tmp_path / "w", NAMES)
    assert set(layers.values()) == {"taken"}
    found = outputs(config, 13, tree, None, images)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, name)
    some = [7, 3, 11]
    config, tree, _ = begun(tmp_path / "w", [NAMES[i] for i in some], classes="match")
    found = outputs(config, 3, tree, None, images)["logits"]
    np.testing.assert_allclose(
        found, wanted["logits"][:, some], rtol=1e-6, atol=1e-6 * abs(found).max()
    )


def test_formats_are_found_by_what_is_in_the_files(narrow, tmp_path):
    for form, make in FILES.items():
        path = make(narrow, tmp_path)
        assert formats.format_of(path) == form
    bare = tmp_path / "net"
    (tmp_path / "net.pth").rename(bare)
    assert formats.format_of(bare) == "torchvision"
