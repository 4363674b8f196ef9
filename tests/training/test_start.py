"""Runs that start from weights: the layers they take, whose input, and what a resume needs."""

import hashlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
from on_mesh import apart, some
from x64 import enable_x64

from alexnet_jax import configs, train
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.store import preparation, shard_writer
from alexnet_jax.data.store.store import UNFINISHED
from alexnet_jax.inference import trained
from alexnet_jax.training import loop, run_files, run_weights, start
from alexnet_jax.training.stored import CheckpointError
from alexnet_jax.weights import formats
from alexnet_jax.weights.types import WeightsError


class Begun(Exception):
    """Carries the state that a run begins with, before its first update."""


@pytest.fixture
def begin(monkeypatch):
    """Returns a function that gives the state of a run before update 1, and what was printed."""

    def caught(self, state, at):
        raise Begun(state, at)

    def begin(config, workdir):
        def run():
            with monkeypatch.context() as patched:
                patched.setattr(loop.Loop, "run", caught)
                with pytest.raises(Begun) as raised:
                    train.train(config, workdir)
            return raised.value.args[0]

        state, said, _ = small.quietly(run)
        return state, said

    return begin


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained run on two classes, dark and light, and its data set."""
    folder = tmp_path_factory.mktemp("source")
    small.write_folder(folder / "set")
    train.train(small.config(folder / "set"), folder / "w")
    return folder


def fine_tuning(source, dataset):
    config = configs.get("fine_tune")
    config.init.weights, config.dataset = str(source / "w"), str(dataset)
    config.batch_size, config.num_epochs, config.feed, config.mesh.data = 8, 2, "host", 1
    config.log_every_steps, config.checkpoint_every_steps = 1, 2
    return config


def with_classes(folder, names):
    """Returns a data set with renamed classes, which are sorted by their new names."""
    small.write_folder(folder)
    for split in ("train", "val"):
        for old, new in names.items():
            (folder / split / old).rename(folder / split / new)
    return folder


def weights_of(workdir):
    return trained.load(workdir).params


def assert_taken(state, params, layers):
    for layer in layers:
        for part, values in params[layer].items():
            own = np.asarray(jax.device_get(state.params[layer][part]))
            np.testing.assert_array_equal(own, np.asarray(values), f"{layer}.{part}")


ALL = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def test_all_is_taken_where_the_classes_are_the_same(source, begin, tmp_path):
    config = fine_tuning(source, source / "set")
    state, said = begin(config, tmp_path / "w")
    assert_taken(state, weights_of(source / "w"), ALL)
    assert int(state.step) == 0
    assert all(float(abs(v).max()) == 0 for v in jax.tree.leaves(state.opt_state))
    assert f"weights   {source / 'w'} (workdir, SHA-256 " in said
    assert f"{', '.join(ALL)}: taken" in said and "x10" not in said
    assert "model.width: 0.0625 of the weights in the place of 0.25" in said
    about = json.loads((tmp_path / "w" / start.FILE).read_text())
    step = max(int(path.name) for path in (source / "w" / "checkpoints").iterdir())
    seal = source / "w" / "checkpoints" / str(about["step"]) / "digests.json"
    assert about["weights"] == str(source / "w") and about["step"] <= step
    assert about["sha256"] == hashlib.sha256(seal.read_bytes()).hexdigest()
    assert about["layers"] == dict.fromkeys(ALL, "taken") and about["format"] == "workdir"
    kept = run_files.read_config(tmp_path / "w")
    assert (kept.resize, kept.image_size, kept.model.width) == (71, 67, 1 / 16)
    assert kept.augment.statistics == "imagenet"  # the source read no store


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(1, 2), MeshConfig(2, 2), MeshConfig(2, 2, "hybrid"), MeshConfig(2, 1, zero=True)],
    ids=str,
)
def test_on_any_mesh(source, begin, tmp_path, mesh):
    config = fine_tuning(source, source / "set")
    config.mesh = mesh
    state, _ = begin(config, tmp_path / "w")
    assert_taken(state, weights_of(source / "w"), ALL)


def learned(source, data, workdir, mesh, precision):
    """Fine-tunes for 12 updates: conv1 frozen, a new fc8 at ten times the rate."""
    config = fine_tuning(source, data)
    config.mesh, config.precision, config.num_steps = mesh, precision, 12
    config.optimizer.frozen = ("conv1",)
    train.train(config, workdir)
    return [row["loss"] for row in small.rows(workdir)], small.final_state(workdir, 12)


ONE = MeshConfig(1, 1)
OTHERS = [
    MeshConfig(1, 2),
    MeshConfig(2, 2),
    MeshConfig(2, 2, "hybrid"),
    MeshConfig(2, 1, zero=True),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "bar"),
    [pytest.param("float64", 1e-9, marks=pytest.mark.exhaustive), ("float32", 1e-5)],
)
@pytest.mark.parametrize("mesh", some(OTHERS, OTHERS[1]), ids=str)
def test_a_mesh_changes_nothing_of_what_is_learned(source, tmp_path, mesh, precision, bar):
    data = with_classes(tmp_path / "set", {"dark": "night", "light": "day"})
    with enable_x64(precision == "float64"):
        wanted = learned(source, data, tmp_path / "one", ONE, precision)
        found = learned(source, data, tmp_path / "mesh", mesh, precision)
    np.testing.assert_allclose(found[0], wanted[0], rtol=bar)
    assert found[1].keys() == wanted[1].keys()
    learnt = [name for name in wanted[1] if name.endswith(("['kernel']", "['bias']"))]
    assert len(learnt) == 2 * 2 * len(ALL)  # and the velocity of each
    for name in learnt:
        assert apart(wanted[1][name], found[1][name]) < bar, name
    own = weights_of(source / "w")["conv1"]["kernel"]
    conv1 = found[1][".params['conv1']['kernel']"]
    np.testing.assert_array_equal(conv1.astype(np.float32), own)


def test_other_classes_begin_anew(source, begin, tmp_path):
    data = with_classes(tmp_path / "set", {"dark": "night", "light": "day"})
    state, said = begin(fine_tuning(source, data), tmp_path / "w")
    assert_taken(state, weights_of(source / "w"), ALL[:-1])
    assert "fc8: anew: 0 of the 2 classes are among the weights' 2\n" in said
    assert "rate      fc8: x10\n" in said  # of the recipe's `new: x10`
    assert float(abs(state.params["fc8"]["bias"]).max()) == 0


def test_rows_of_fc8_are_picked_by_name(source, begin, tmp_path):
    data = tmp_path / "set"
    small.write_folder(data)
    for split in ("train", "val"):  # a subset
        shutil.rmtree(data / split / "dark")
    config = fine_tuning(source, data)
    state, said = begin(config, tmp_path / "w1")
    assert (
        "fc8: anew: 1 of the 1 classes are among the weights' 2, init.classes=match picks" in said
    )
    config.init.classes = "match"
    state, said = begin(config, tmp_path / "w2")
    params = weights_of(source / "w")
    np.testing.assert_array_equal(state.params["fc8"]["kernel"], params["fc8"]["kernel"][:, 1:])
    np.testing.assert_array_equal(state.params["fc8"]["bias"], params["fc8"]["bias"][1:])
    assert "fc8: 1 of 2 classes, picked by name" in said
    config.dataset = str(with_classes(tmp_path / "other", {"dark": "night"}))
    with pytest.raises(ConfigError, match=r"init.classes: class night is not among the 2 names"):
        train.train(config, tmp_path / "w3")


def test_classes_of_imagenet_are_the_same_with_their_words_and_without():
    assert start._numbered(["n01440764_tench", "n02085620-Chihuahua"]) == ["n01440764", "n02085620"]
    assert start._numbered(["n01440764_a", "n01440764_b"]) == ["n01440764_a", "n01440764_b"]
    assert start._numbered(["cat", "n0144"]) == ["cat", "n0144"]


def test_what_a_hand_set_otherwise_is_refused(source, tmp_path):
    config = fine_tuning(source, source / "set")
    config.image_size = 83
    config.model.lrn.size = 3
    wanted = (
        r"image_size: 83 is set by hand, and the weights have 67; model.lrn.size: 3 is set by "
        r"hand, and the weights have 5; do not set what comes with .*/w"
    )
    with pytest.raises(ConfigError, match=wanted):
        train.train(config, tmp_path / "w")
    assert not (tmp_path / "w" / "config.json").exists()
    config = fine_tuning(source, source / "set")
    config.image_size = 67  # what they have
    config.model.dropout_rate = 0.1  # no part of the network, where training scales
    train.preview(config, tmp_path / "w")


def test_a_flag_is_a_hand_and_a_recipe_is_none(source, tmp_path):
    command = [
        *(sys.executable, "-m", "alexnet_jax.main", "--dry_run", f"--workdir={tmp_path / 'w'}"),
        *("--config=fine_tune", f"--config.init.weights={source / 'w'}"),
        *(f"--config.dataset={source / 'set'}", "--config.batch_size=8"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "image_size: 67 of the weights in the place of 83" in done.stdout
    done = subprocess.run(
        [*command, "--config.image_size=83"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: image_size: 83 is set by hand, and the weights have 67" in done.stderr


FILES = {  # ways in which a --config file sets values
    "a field": "config = configs.get('fine_tune')\n    config.image_size = 83",
    "Config()": "config = Config(image_size=227, resize=256)",  # what the defaults are
}


@pytest.mark.parametrize("way", FILES)
def test_a_file_of_one_s_own_is_a_hand(source, tmp_path, way):
    path = tmp_path / "own.py"
    path.write_text(
        "from alexnet_jax import configs\nfrom alexnet_jax.config import Config\n\n"
        f"def get_config():\n    {FILES[way]}\n"
        f"    config.init.weights = {str(source / 'w')!r}\n"
        f"    config.dataset, config.batch_size = {str(source / 'set')!r}, 8\n    return config\n"
    )
    command = [sys.executable, "-m", "alexnet_jax.main", "--dry_run", f"--workdir={tmp_path / 'w'}"]
    done = subprocess.run(
        [*command, f"--config={path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    told = {"a field": "image_size: 83", "Config()": "resize: 256"}[way]
    assert f"{told} is set by hand, and the weights have" in done.stderr


def test_a_step_of_a_workdir_is_chosen(source, begin, tmp_path):
    steps = sorted(int(path.name) for path in (source / "w" / "checkpoints").iterdir())
    for which, step in (("latest", steps[-1]), *((str(step), step) for step in steps)):
        config = fine_tuning(source, source / "set")
        config.init.checkpoint = which
        state, _ = begin(config, tmp_path / which)
        assert_taken(state, trained.load(source / "w", which=str(step)).params, ALL)


def test_layers_are_chosen_and_what_follows_them_is_the_runs_own(source, begin, tmp_path):
    config = fine_tuning(source, source / "set")
    config.init.layers = ("conv1-conv3,conv5",)
    config.model.fc_units = 2048  # by hand: no layer that has it is taken
    state, said = begin(config, tmp_path / "w")
    assert_taken(state, weights_of(source / "w"), ("conv1", "conv2", "conv3", "conv5"))
    assert "conv4, fc6, fc7, fc8: anew: is left out" in said
    assert state.params["fc6"]["bias"].shape == (128,)
    config.init.layers = ("conv6",)
    with pytest.raises(ConfigError, match=r"init.layers: conv6 is unknown|init.layers: .*conv5"):
        train.train(config, tmp_path / "w2")


def test_batch_normalisation_has_no_rates_and_goes_with_its_convolution(source, tmp_path, begin):
    made = small.config(source / "set")
    made.model.normalisation, made.num_steps = "batch", 3
    train.train(made, tmp_path / "bn")
    config = fine_tuning(source, source / "set")
    config.init.weights, config.init.layers = str(tmp_path / "bn"), ("conv2-conv5", "fc6")
    state, said = begin(config, tmp_path / "w")
    params = weights_of(tmp_path / "bn")
    assert "conv2, conv3, conv4, conv5, fc6, norm2: taken" in said
    assert "conv1, fc7, fc8, norm1: anew: is left out" in said
    assert "rate      conv1 fc7 fc8: x10\n" in said
    for name, values in params["norm2"].items():
        np.testing.assert_array_equal(state.batch_stats["norm2"][name], values)
    assert not np.asarray(state.batch_stats["norm1"]["mean"]).any()


def test_layers_that_only_the_weights_have_may_be_frozen(source, tmp_path):
    made = small.config(source / "set")
    made.model.conv6_channels, made.num_steps = 32, 3
    train.train(made, tmp_path / "six")
    config = fine_tuning(source, source / "set")
    config.init.weights = str(tmp_path / "six")
    config.optimizer.frozen = ("conv1", "conv6")
    config.num_steps = 2
    config.optimizer.schedule.kind = "constant"
    _, said, _ = small.quietly(train.train, config, tmp_path / "w")
    assert "frozen    conv1, conv6\n" in said
    config.num_steps = 4
    train.train(config, tmp_path / "w")  # and on a resume
    own, other = (weights_of(tmp_path / name) for name in ("w", "six"))
    np.testing.assert_array_equal(own["conv6"]["kernel"], other["conv6"]["kernel"])
    config.optimizer.frozen, config.init.layers = ("conv1",), ("conv1-conv5",)
    said = train.preview(config, tmp_path / "w2")
    assert "conv6: of the weights, not used\n" in said
    config.optimizer.frozen = ("conv7",)
    with pytest.raises(ConfigError, match="optimizer.frozen: conv7 is not known"):
        train.train(config, tmp_path / "w2")


def test_what_was_measured_of_the_source_need_not_be_whole(source, tmp_path):
    shutil.copytree(source / "w", tmp_path / "first")
    for text in ("[", "{}", '{"step": "x"}'):
        (tmp_path / "first" / "summary.json").write_text(text)
        found = run_weights.read("workdir", tmp_path / "first")
        assert found.origin.errors.startswith("top-1 ")


def test_a_shape_that_does_not_fit_names_both(source, tmp_path):
    weights = run_weights.read("workdir", source / "w")
    weights.params["fc7"]["bias"] = np.zeros(3, np.float32)
    made = start.Start(weights.config, {}, weights, "workdir", source / "w", "", ALL)
    from alexnet_jax.steps.setup import Setup

    setup = Setup.of(weights.config, 2)
    with pytest.raises(
        WeightsError, match=r"fc7.bias is \(3,\), in this network \(256,\); leave f"
    ):
        start.fit(made, setup, ["dark", "light"])


def test_rates_of_new_layers_are_the_same_after_a_resume(source, tmp_path):
    data = with_classes(tmp_path / "set", {"dark": "night", "light": "day"})
    config = fine_tuning(source, data)
    config.optimizer.schedule.kind = "constant"
    train.train(config, tmp_path / "whole")
    config.num_steps = 2
    train.train(config, tmp_path / "w")
    assert run_files.read_config(tmp_path / "w").optimizer.schedule.layer_rates == ("fc8: x10",)
    config.num_steps = 0
    train.train(config, tmp_path / "w")
    own, other = (small.final_state(tmp_path / name, 5) for name in ("w", "whole"))
    for name, value in own.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    (tmp_path / "w" / start.FILE).unlink()
    with pytest.raises(ConfigError, match=r"init.json: does not say what the run began with"):
        train.train(config, tmp_path / "w")


def test_a_resume_needs_the_source_no_more(source, tmp_path):
    shutil.copytree(source / "w", tmp_path / "first")
    config = fine_tuning(source, source / "set")
    config.init.weights = str(tmp_path / "first")
    config.optimizer.schedule.kind = "constant"  # which the run's length does not change
    train.train(config, tmp_path / "whole")
    config.num_steps = 3
    train.train(config, tmp_path / "w")
    shutil.rmtree(tmp_path / "first")
    config.num_steps = 0
    _, said, _ = small.quietly(train.train, config, tmp_path / "w")
    assert "after step 3" in said and f"weights   {tmp_path / 'first'} (workdir" in said
    own, other = (small.final_state(tmp_path / name, 5) for name in ("w", "whole"))
    for name, value in own.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert small.rows(tmp_path / "w")[-1] == small.rows(tmp_path / "whole")[-1]
    config.image_size = 83
    with pytest.raises(ConfigError, match="image_size: 67 there, 83 here"):
        train.train(config, tmp_path / "w")
    (tmp_path / "w" / start.FILE).write_text("[")
    assert "init.json is damaged" in start.described(tmp_path / "w")[0]
    with pytest.raises(WeightsError, match="not found; init.weights names a workdir or a file"):
        train.train(config, tmp_path / "new")


def test_the_colours_of_the_weights_stay_theirs(source, begin, tmp_path):
    """A store's own mean image goes with the weights, also to a data set that is a folder."""
    made = small.config(source / "set")
    store = tmp_path / "store"
    (store / UNFINISHED).mkdir(parents=True)
    options = shard_writer.Options(resize=made.resize, shards=2)
    making = preparation.Preparation(open_dataset(made), store, options)
    making.write(1, lambda images: None)
    making.finish()
    made.dataset, made.augment.mean_image = str(store), "moving"
    train.train(made, tmp_path / "of_store")
    wanted = run_files.read_statistics(tmp_path / "of_store")
    config = fine_tuning(source, source / "set")
    config.init.weights = str(tmp_path / "of_store")
    begin(config, tmp_path / "w")
    found = run_files.read_statistics(tmp_path / "w")
    np.testing.assert_array_equal(found.mean_image, wanted.mean_image)
    assert run_files.read_config(tmp_path / "w").augment.mean_image == "moving"
    # They are stored nowhere else: a run that has lost them does not resume with others.
    config.num_steps, config.model.dropout_rate = 2, 0.3
    train.train(config, tmp_path / "w3")
    (tmp_path / "w3" / "statistics.npz").unlink()
    config.num_steps = 4
    with pytest.raises(ConfigError, match=r"statistics.npz: is missing, and nothing else"):
        train.train(config, tmp_path / "w3")
    # If the weights have no store's colours, a store adds none of its own.
    config = fine_tuning(source, store)
    begin(config, tmp_path / "w2")
    assert run_files.read_statistics(tmp_path / "w2") is None
    assert run_files.read_config(tmp_path / "w2").augment.statistics == "imagenet"


def test_what_cannot_be_begun_with(source, tmp_path):
    config = fine_tuning(source, source / "set")
    for weights, wanted in {
        "": "init.weights: empty, and init.layers names all",
        str(tmp_path / "none.pth"): "none.pth: not found",
        f"caffe:{source / 'w'}": "is not a file of weights of the format caffe",
        str(source / "set"): "config.json: not found",
    }.items():
        config.init.weights = weights
        with pytest.raises((ConfigError, WeightsError), match=wanted):
            train.train(config, tmp_path / "w")
    config.init.weights, config.init.checkpoint = str(source / "w"), "7"
    with pytest.raises(ConfigError, match="checkpoint: 7 is not best, latest or one of"):
        train.train(config, tmp_path / "w")
    config.init.checkpoint = "best"
    with pytest.raises(ConfigError, match="is the workdir of this run itself"):
        train.train(config, source / "w", overwrite=True)
    assert weights_of(source / "w")
    shutil.copytree(source / "w", tmp_path / "damaged")
    for path in (tmp_path / "damaged").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    config.init.weights = str(tmp_path / "damaged")
    with pytest.raises(CheckpointError, match="no whole checkpoint is left to use"):
        train.train(config, tmp_path / "w")


def test_a_file_of_ours_and_formats_by_name(source, begin, tmp_path):
    run = run_weights.read("workdir", source / "w")
    path = tmp_path / "net"
    formats.write_safetensors(run, path)
    assert formats.format_of(path) == "safetensors"
    config = fine_tuning(source, source / "set")
    for name in (str(path), f"safetensors:{path}"):
        config.init.weights = name
        state, said = begin(config, tmp_path / f"w{len(name)}")
        assert_taken(state, run.params, ALL)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"weights   {path} (safetensors, SHA-256 {sha256[:12]}...)" in said
    for name, form in {"a.caffemodel": "caffe", "b.ONNX": "onnx", "c.pth": "torchvision"}.items():
        assert formats.format_of(tmp_path / name) == form
    (tmp_path / "odd").write_text("what?")
    with pytest.raises(WeightsError, match="put the format before the path, such as caffe:"):
        formats.format_of(tmp_path / "odd")


def test_the_preview_says_it_too(source, tmp_path):
    said = train.preview(fine_tuning(source, source / "set"), tmp_path / "w")
    assert f"{', '.join(ALL)}: taken" in said and "67x67 crops of 71x71" in said
    assert not (tmp_path / "w").exists()
