"""The Python interface: a run's network, used as in a notebook."""

import builtins
import doctest
import importlib
import inspect
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from alexnet_jax import inference, train
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.data.types import DataError
from alexnet_jax.host import files
from alexnet_jax.inference import images, pictures, predictions
from alexnet_jax.inference.images import squares
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import processes
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.stored_form import StoredForm
from alexnet_jax.training import candidates, run_files
from alexnet_jax.training.stored import CheckpointError, Stored


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


@pytest.fixture(scope="module")
def network(run):
    return inference.load(str(run / "w"))


@pytest.fixture(scope="module")
def photograph(run) -> pathlib.Path:
    return sorted((run / "set" / "val" / "light").iterdir())[3]


PACKAGE = pathlib.Path(inference.__file__).parent.parent
WITH_EXAMPLES = sorted(
    ".".join(("alexnet_jax", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text() and path != PACKAGE / "train.py"  # tests/training has its own
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_are_true(run, photograph, module, monkeypatch):
    monkeypatch.chdir(run)
    monkeypatch.setattr(processes, "say", lambda text: None)  # of the other devices of the tests
    workdir = run / "w"
    given = {"workdir": workdir, "photograph": photograph, "network": inference.load(workdir)}
    found = doctest.testmod(importlib.import_module(module), extraglobs=given)
    assert found.attempted > 0 and not found.failed


def test_what_a_network_compiles_is_kept_for_later_processes(run, monkeypatch):
    kept = []
    monkeypatch.setattr(compilation, "keep_programs", lambda: kept.append(True))
    inference.load(run / "w")
    assert kept


def test_what_is_compiled_while_files_are_read_says_the_same(run, network, photograph):
    """Of one image; several are computed as ever."""
    ahead = inference.load(run / "w", ahead=10)
    for given in (photograph, [photograph] * 3):
        for one, other in zip(ahead.predict(given), network.predict(given), strict=True):
            np.testing.assert_array_equal(one.probabilities, other.probabilities)
    with pytest.raises(ConfigError, match="views: 3 must be 1 or 10"):
        inference.load(run / "w", ahead=3)


def test_files_are_hashed_ahead_of_the_first_choice_alone(run, monkeypatch):
    hashed = []
    monkeypatch.setattr(files, "hash_ahead", lambda paths: hashed.extend(paths))
    candidates.hash_ahead(run / "w", "latest")
    newest = run / "w" / "checkpoints" / str(candidates.steps(run / "w")[-1])
    inside = {path for path in newest.rglob("*") if path.is_file()}
    assert set(hashed) == {path for path in inside if path.name != candidates.SEAL}
    hashed.clear()
    for workdir, which in ((run / "w", "no step"), (run / "nowhere", "best")):
        candidates.hash_ahead(workdir, which)
    assert not hashed


def test_kernels_may_be_chosen_by_who_reads(run, photograph):
    own, plain = inference.load(run / "w"), inference.load(run / "w", kernels="reference")
    assert (own.config.kernels, plain.config.kernels) == ("auto", "reference")
    [a], [b] = own.predict(photograph), plain.predict(photograph)
    np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)
    with pytest.raises(ConfigError, match="kernels"):
        inference.load(run / "w", kernels="fast")


def stored_of(run):
    """The run's checkpoints, its newest step, and the form of its state."""
    config = run_files.read_config(run / "w")
    stored = Stored(run / "w", run_files.identity(run / "w", config))
    config.mesh = MeshConfig(1, 1)
    return stored, stored.steps()[-1], StoredForm(Setup.of(config, 2)).abstract


def test_weights_are_read_without_their_velocity_and_compared_bit_by_bit(run, monkeypatch):
    stored, step, abstract = stored_of(run)
    whole, weights = stored.restore(step, abstract), stored.restore_weights(step, abstract)
    assert weights.opt_state == ()
    jax.tree.map(np.testing.assert_array_equal, whole.weights, weights.weights)
    read = Stored._read

    def spoilt(self, *arguments, **more):
        state = read(self, *arguments, **more)
        flipped = np.array(state.params["fc7"]["kernel"])
        flipped.reshape(-1).view(np.uint32)[7] ^= 1
        kernel = jax.device_put(flipped, state.params["fc7"]["kernel"].sharding)
        return state.replace(
            params=state.params | {"fc7": state.params["fc7"] | {"kernel": kernel}}
        )

    monkeypatch.setattr(Stored, "_read", spoilt)
    with pytest.raises(CheckpointError, match=r"params.fc7.kernel is not what the devices held"):
        inference.load(run / "w")


def test_without_a_seal_another_network_is_refused_all_the_same(run):
    stored, step, abstract = stored_of(run)
    stored._compared[step] = None  # as of older code
    assert stored.restore_weights(step, abstract).opt_state == ()
    for params in (
        abstract.params | {"fc9": abstract.params["fc8"]},
        {layer: abstract.params[layer] for layer in abstract.params if layer != "fc7"},
    ):
        with pytest.raises(CheckpointError, match="cannot be restored"):
            stored.restore_weights(step, abstract.replace(params=params))


def test_every_public_function_has_an_example():
    methods = vars(inference.Network).items()
    found = [one for name, one in methods if inspect.isfunction(one) and not name.startswith("_")]
    for module in (inference.network, images, pictures):
        found += [
            value
            for name, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        ]
    assert len(found) > 12
    assert not [one.__name__ for one in found if ">>>" not in (one.__doc__ or "")]


@pytest.mark.parametrize("kind", ["jax", "strings"])
def test_arrays_of_other_kinds(network, photograph, kind):
    """Iterating over a jax.Array yields its rows, but it is one image all the same."""
    pixels = np.asarray(Image.open(photograph))
    given = jnp.asarray(pixels) if kind == "jax" else np.array([str(photograph)])
    [got], [want] = network.predict(given), network.predict(pixels)
    np.testing.assert_array_equal(got.probabilities, want.probabilities)


def test_sixteen_bits_are_read_as_from_a_file(network, tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (90, 71), dtype=np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    [opened], [read] = network.predict(Image.open(path)), network.predict(path)
    np.testing.assert_allclose(opened.probabilities, read.probabilities, atol=1e-6)


def test_a_photograph_cut_short_is_named(network, tmp_path, photograph):
    path = tmp_path / "short.jpg"
    Image.open(photograph).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:900])
    short = pytest.raises(DataError, match="image 0: is not a readable image, or it is cut short")
    with Image.open(path) as opened, short:
        network.predict(opened)


def test_a_cell_that_ends_with_it_shows_one_line(network):
    assert repr(network).startswith("<Network of ") and len(repr(network)) < 200


def test_a_layer_is_compiled_once(network, photograph):
    network.features(photograph, "fc6")
    compiled = network._programs["fc6"]
    network.features(photograph, "fc6")
    assert network._programs["fc6"] is compiled


def test_one_layer_and_a_list_of_one_are_two_programs(network, photograph):
    logits = network.features(photograph, "fc8")
    pixels, _ = squares(photograph, network.config.resize)
    found = network.layers(pixels, ["fc8"])
    np.testing.assert_array_equal(found["fc8"], logits)
    np.testing.assert_array_equal(network.features(photograph, "fc8"), logits)


def test_an_interrupted_prediction_is_one_line(network, photograph, monkeypatch):
    def interrupted(image):
        raise KeyboardInterrupt

    monkeypatch.setitem(network._programs, 1, interrupted)
    with pytest.raises(KeyboardInterrupt):  # a script's own affair
        network.predict(photograph, views=1)
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    with pytest.raises(train.Interrupted, match="predict was interrupted; call it again"):
        network.predict(photograph, views=1)


def test_the_same_photograph_however_it_is_given(network, photograph):
    """A path, a string, PIL's image, its pixels, alone and in a batch."""
    pixels = np.asarray(Image.open(photograph))
    assert pixels.shape[0] != network.config.resize  # not the run's size: it is prepared
    ways = [photograph, str(photograph), Image.open(photograph), pixels, pixels[None], [pixels]]
    found = [network.predict(way) for way in ways]
    assert all(len(one) == 1 for one in found)
    for [one] in found:
        np.testing.assert_array_equal(one.probabilities, found[0][0].probabilities)
    assert found[0][0].image == str(photograph) and found[3][0].image == "image 0"


def test_it_says_what_the_runs_own_evaluation_says(run, network):
    """Against `predict_split`, which reads the split itself."""
    found = predictions.predict_split([network], "val", 10, progress=False)
    paths = [run / "set" / "val" / name for name in found.names]
    said = network.predict(paths)
    for i, one in enumerate(said):
        best = found.classes[i]
        np.testing.assert_allclose(
            one.probabilities[best], found.probabilities[i], rtol=1e-4, atol=1e-6
        )
    evaluated = network.evaluate("val")
    assert evaluated["count"] == 14 and evaluated["views"] == 10
    assert evaluated["top1_error"] == pytest.approx(found.wrong(1).mean())


@pytest.mark.parametrize("kind", ["grey", "grey with a channel", "transparent"])
def test_other_pixels_become_rgb(network, kind):
    grey = np.random.default_rng(0).integers(0, 256, (90, 71), dtype=np.uint8)
    given = {
        "grey": grey,
        "grey with a channel": grey[:, :, None],
        "transparent": np.repeat(grey[:, :, None], 4, axis=2),
    }[kind]
    [got], [want] = network.predict(given), network.predict(np.repeat(grey[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(got.probabilities, want.probabilities)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((9, 9, 3), np.float32), "image 0: is an array of float32; give uint8 pixels"),
        (np.zeros((3, 9, 9), np.uint8), r"image 0: has shape \(3, 9, 9\); give \(H, W, 3\)"),
        ("nowhere.jpg", "nowhere.jpg: cannot be read"),
        ([], "there is no image"),
    ],
)
def test_what_is_no_image_is_named(network, given, message):
    with pytest.raises(DataError, match=message):
        network.predict(given)


def test_many_images_are_computed_in_batches(network):
    batch = np.random.default_rng(0).integers(0, 256, (19, 71, 71, 3), dtype=np.uint8)
    found = network.predict(batch, views=1)
    assert len(found) == 19
    [alone] = network.predict(batch[18], views=1)
    np.testing.assert_allclose(found[18].probabilities, alone.probabilities, rtol=1e-4)
    assert (network.predict(batch[:1])[0].probabilities != found[0].probabilities).any()
    assert network.features(batch, "conv5").shape[0] == 19


def test_wrong_numbers_and_folders_are_named(network, run, tmp_path):
    with pytest.raises(ConfigError, match="views: 5 must be 1 or 10"):
        network.predict(np.zeros((71, 71, 3), np.uint8), views=5)
    with pytest.raises(ConfigError, match=r"config.json: not found; is .* the workdir of a run"):
        inference.load(tmp_path)
    with pytest.raises(ConfigError, match="7 is not best, latest or one of"):
        inference.load(run / "w", 7)


def test_classes_without_names_have_numbers():
    rows = inference.network.best_five(
        np.array([0.1, 0.2, 0.05, 0.3, 0.25, 0.1]), lambda k: "abc"[k] if k < 3 else f"class {k}"
    )
    assert [name for name, _ in rows] == ["class 3", "class 4", "b", "a", "class 5"]


def test_a_figure_is_shown_and_saved(network, tmp_path):
    figure = pictures.kernels(network)
    assert Image.open(io.BytesIO(figure._repr_png_())).size[0] > 400
    figure.save(tmp_path / "new" / "kernels.pdf")
    assert (tmp_path / "new" / "kernels.pdf").read_bytes()[:4] == b"%PDF"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kernels.pdf"]


def test_errors_are_a_line_in_a_notebook():
    """IPython asks an exception how it is to be shown."""
    for kind in (ConfigError, DataError):
        assert kind("wrong")._render_traceback_() == [f"{kind.__name__}: wrong"]
