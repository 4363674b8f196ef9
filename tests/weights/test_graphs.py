"""Networks as ONNX and StableHLO: other programs compute from them what we compute."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from alexnet_jax import configs, model
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.layers import standard_tree
from alexnet_jax.steps.augment import Views
from alexnet_jax.weights import formats
from alexnet_jax.weights.types import Origin, Weights, WeightsError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
CLASSES = 13


def weights_of(recipe, tmp_path, rng, change=None, width=1 / 16, statistics=None, classes=CLASSES):
    """Random weights, with activations of a trained network's size."""
    config = configs.get(recipe)
    config.model.width, config.num_classes = width, classes
    config.model.conv_std = 0.0
    config.model.init = "he"
    if change:
        change(config)
    network = model.build(config.model, classes, "float32")
    size = config.image_size
    params, batch_stats = jax.jit(lambda key: standard_tree.initial_variables(network, key, size))(
        jax.random.key(3)
    )
    tree = jax.tree.map(np.asarray, params)
    for layer in tree.values():
        layer["bias"] = rng.normal(scale=0.1, size=layer["bias"].shape).astype(np.float32)
    for layer, parts in batch_stats.items():
        shape = parts["mean"].shape
        mean = rng.normal(size=shape).astype(np.float32)
        variance = rng.uniform(0.5, 2, shape).astype(np.float32)
        tree[layer] = {"mean": mean, "variance": variance}
    names = [f"class {i}" for i in range(classes)]
    origin = Origin("photographs", "top-1 12 %")
    return Weights(tree, config, names, statistics, 7, tmp_path, origin)


def logits(weights, views, classes=CLASSES):
    network = model.build(weights.config.model, classes, "float32")
    return np.asarray(
        jax.jit(lambda p, x: standard_tree.logits(network, p, x))(weights.params, views)
    )


def close(found, wanted, share=1e-4):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=share * np.abs(wanted).max())


def spatial_norm(config):
    config.model.spatial_norm2 = True


def apart(config):
    config.model.columns_meet = False


def tanh_without_fc7(config):
    config.model.activation = "tanh"
    config.model.without = ("conv4", "fc7")


def pools_of_two(config):
    config.model.pool_size = 2


KINDS = {
    "paper": ("paper", None),
    "paper_conv6": ("paper_conv6", None),
    "caffenet": ("caffenet", None),
    "bvlc_alexnet": ("bvlc_alexnet", None),
    "torchvision": ("torchvision", None),
    "original_code": ("original_code", None),
    "one_weird_trick": ("one_weird_trick", None),
    "alexnet_bn": ("alexnet_bn", None),
    "fall2011": ("fall2011", None),
    "the norm of run #145": ("original_code", spatial_norm),
    "columns that do not meet": ("paper", apart),
    "tanh, two layers left out": ("paper", tanh_without_fc7),
    "pools of two": ("paper", pools_of_two),
}


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_computes_what_we_do(kind, tmp_path, rng):
    recipe, change = KINDS[kind]
    weights = weights_of(recipe, tmp_path, rng, change)
    path = tmp_path / "out.onnx"
    formats.write_onnx(weights, path)
    size = weights.config.image_size
    views = (50 * rng.normal(size=(3, size, size, 3))).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    [found] = session.run(["logits"], {"views": views.transpose(0, 3, 1, 2)})
    close(found, logits(weights, views))
    lrn = [n for n in session.get_modelmeta().custom_metadata_map if n == "config"]
    assert lrn == ["config"]
    card = path.with_name("out.onnx.md").read_text()
    assert f"SHA-256 of {path.name}" in card and f"takes `views`, (N, 3, {size}, {size})" in card


def test_local_normalisation_is_onnxs_own(tmp_path, rng):
    import onnx

    path = tmp_path / "out.onnx"
    formats.write_onnx(weights_of("paper", tmp_path, rng), path)
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    # One for each of two columns, in each of two layers.
    assert kinds.count("LRN") == 4 and "Pow" not in kinds
    formats.write_onnx(weights_of("bvlc_alexnet", tmp_path, rng), path)  # its windows cross columns
    assert [node.op_type for node in onnx.load(str(path)).graph.node].count("LRN") == 2
    assert kinds.count("Conv") == 5 and kinds.count("Gemm") == 3


def mean_image(kind):
    def change(config):
        config.augment.mean_image, config.augment.statistics = kind, "auto"
        config.augment.pixel_std = (58.0, 57.0, 57.5)

    return change


@pytest.mark.parametrize("mean", ["none", "centre", "moving"])
@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_a_graph_that_takes_images_does_what_an_evaluation_does(form, mean, tmp_path, rng):
    size = configs.get("paper").resize
    pixels = rng.uniform(90, 150, (size, size, 3)).astype(np.float32)
    statistics = Statistics(pixels, pixels.mean((0, 1)), np.eye(3), np.ones(3), np.eye(3))
    weights = weights_of("paper", tmp_path, rng, mean_image(mean), statistics=statistics)
    config, path = weights.config, tmp_path / f"out.{form}"
    formats.GRAPHS[form](weights, path, True)
    images = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    [views] = Views.of(config, statistics).evaluation(images, 1)
    low = (size - config.image_size) // 2
    crops = images[:, low : low + config.image_size, low : low + config.image_size]
    if form == "onnx":
        session = onnxruntime.InferenceSession(str(path))
        [found] = session.run(None, {"images": crops})
    else:
        found = np.asarray(jax.export.deserialize(path.read_bytes()).call(crops))
    close(found, logits(weights, views))
    card = path.with_name(f"{path.name}.md").read_text()
    assert "(N, 227, 227, 3) uint8 RGB, centre crops; it takes the mean off" in card
    assert form == "onnx" or f"Written by JAX {jax.__version__}" in card


@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", ["paper", "caffenet", "torchvision", "paper_conv6"])
def test_the_five_likeliest_of_photographs_are_the_same(recipe, tmp_path, rng, shared_data):
    """At full width, through images: 200 photographs, a thousand classes."""
    config = configs.get(recipe)
    photographs = ImageReader(
        open_dataset(dataclasses.replace(config, dataset=str(shared_data / "imagenette"))).open(
            "val"
        ),
        config.resize,
    )
    images = np.empty((200, config.resize, config.resize, 3), np.uint8)
    photographs.read(np.arange(0, 2000, 10), images)
    weights = weights_of(recipe, tmp_path, rng, width=1.0, classes=1000)
    formats.write_onnx(weights, tmp_path / "out.onnx", True)
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    low = (config.resize - config.image_size) // 2
    crops = images[:, low : low + config.image_size, low : low + config.image_size]
    views = Views.of(config, None).evaluation(jax.numpy.asarray(images), 1)[0]
    found, wanted = [], []
    for first in range(0, len(images), 50):
        own = slice(first, first + 50)
        found.append(session.run(None, {"images": crops[own]})[0])
        wanted.append(logits(weights, views[own], 1000))
    found, wanted = np.concatenate(found), np.concatenate(wanted)
    close(found, wanted)
    five = [np.argsort(-values, axis=1, kind="stable")[:, :5] for values in (found, wanted)]
    np.testing.assert_array_equal(*five)


WITHOUT_US = """
import pathlib, sys
import jax, numpy as np
found = jax.export.deserialize(pathlib.Path("out.bin").read_bytes())
print(found.platforms)
np.save("logits.npy", found.call(np.load("views.npy")))
assert not any(name.startswith("alexnet_jax") for name in sys.modules)
"""


def test_an_artefact_needs_jax_alone(tmp_path, rng):
    weights = weights_of("paper", tmp_path, rng)
    formats.write_stablehlo(weights, tmp_path / "out.bin")
    size = weights.config.image_size
    views = (50 * rng.normal(size=(5, size, size, 3))).astype(np.float32)
    np.save(tmp_path / "views.npy", views)
    command = [sys.executable, "-I", "-c", WITHOUT_US]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "('cpu', 'cuda', 'tpu')"
    close(np.load(tmp_path / "logits.npy"), logits(weights, views))


@pytest.mark.parametrize("recipe", ["paper", "caffenet", "torchvision", "paper_conv6", "fall2011"])
def test_what_we_wrote_comes_back_to_the_last_bit(recipe, tmp_path, rng):
    weights = weights_of(recipe, tmp_path, rng)
    formats.write_onnx(weights, tmp_path / "out.onnx")
    back = formats.read("onnx", tmp_path / "out.onnx")
    assert back.config == weights.config and back.class_names == weights.class_names
    assert (back.step, back.origin) == (weights.step, weights.origin)
    for layer, parts in weights.params.items():
        for part, values in parts.items():
            np.testing.assert_array_equal(back.params[layer][part], values)


def test_what_onnx_does_not_hold_is_not_read_back(tmp_path, rng):
    formats.write_onnx(weights_of("alexnet_bn", tmp_path, rng), tmp_path / "out.onnx")
    with pytest.raises(WeightsError, match="use safetensors or the workdir"):
        formats.read("onnx", tmp_path / "out.onnx")


def test_the_command_writes_both(trained_run, tmp_path):
    for form in ("onnx", "stablehlo"):
        out = tmp_path / f"net.{form}"
        command = [sys.executable, "-m", "alexnet_jax.convert", "--from=workdir", "w"]
        command += [f"--to={form}", str(out), "--from_images"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=trained_run)
        assert done.returncode == 0, done.stderr
        assert out.stat().st_size > 100_000
    done = subprocess.run(
        [*command[:5], "--to=safetensors", str(out), "--from_images"],
        capture_output=True,
        text=True,
        cwd=trained_run,
    )
    assert done.returncode == 1 and "--from_images: safetensors holds weights alone" in done.stderr


def test_metadata_say_what_the_network_is(tmp_path, rng):
    weights = weights_of("paper", tmp_path, rng)
    path = tmp_path / "out.onnx"
    formats.write_onnx(dataclasses.replace(weights, class_names=["eins", "이"]), path)
    said = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == ["eins", "이"] and said["step"] == "7"
