"""Files that be20fbf wrote: its runs resume, evaluate and convert, and its store opens.

That version itself wrote the files of `be20fbf/`: two runs of four updates on `set`, their state
after eight, their safetensors, and a store of `set`.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import small
import tensorflow_datasets as tfds
from on_mesh import apart

from alexnet_jax import configs, inference, train
from alexnet_jax.config import ConfigError, to_json
from alexnet_jax.configs import earlier_versions, layer_rates
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.inference import trained
from alexnet_jax.training import run_files, run_weights
from alexnet_jax.weights import formats

EARLIER = pathlib.Path(__file__).with_name("be20fbf")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("run", ["plain", "batch_norm"])
def test_a_run_goes_on_as_it_would_have(folder, run, as_in_production):
    """Equal up to rounding, which LARS amplifies; to the last bit on the machine that wrote it.

    A lost velocity would differ by more than a half.
    """
    config = run_files.read_config(folder / run)
    config.num_steps = 8
    train.train(config, folder / run)
    wanted = json.loads((folder / f"{run}_rows.json").read_text())
    rows = [[row["step"], row["split"], row["loss"]] for row in small.rows(folder / run)]
    assert [row[:2] for row in rows] == [row[:2] for row in wanted]
    np.testing.assert_allclose([row[2] for row in rows], [row[2] for row in wanted], rtol=1e-5)
    ends = small.final_state(folder / run, 8)
    earlier = np.load(folder / f"{run}_after_8.npz")
    compared, ours, theirs = set(), {}, {}
    for name, values in ends.items():
        old = name.replace(".batch_stats", "['params']").replace(".params", "['params']")
        old = old.replace(".opt_state", "['opt']").replace(".trace", "['trace']")
        if old in earlier:
            part = old.split("]")[0]  # parameters, or velocity
            ours.setdefault(part, []).append(values.ravel())
            theirs.setdefault(part, []).append(earlier[old].ravel())
            compared.add(old)
    for part, near in (("['params'", 1e-4), ("['opt'", 0.1)):
        assert apart(np.concatenate(theirs[part]), np.concatenate(ours[part])) < near
    statistics_s_velocity = {name for name in earlier if "['opt']" in name and "['norm" in name}
    assert compared == set(earlier) - statistics_s_velocity


@pytest.mark.parametrize("run", ["plain", "batch_norm"])
def test_a_run_is_evaluated(folder, run):
    summary = json.loads((folder / run / "summary.json").read_text())
    found = inference.load(folder / run).evaluate(views=1)
    assert found["count"] == summary["count"] == 6
    assert found["top1_error"] == summary["top1_error"]


@pytest.mark.parametrize("run", ["plain", "batch_norm"])
def test_its_weights_are_read_to_the_last_bit(folder, run):
    """A checkpoint's weights, and those of a file that be20fbf converted from it."""
    now = trained.load(folder / run).params
    then = formats.read("safetensors", folder / f"{run}.safetensors")
    assert set(now) == set(then.params)
    for layer, parts in then.params.items():
        for part, values in parts.items():
            np.testing.assert_array_equal(now[layer][part], values)
    assert then.config == run_files.read_config(folder / run)
    again = folder / "again.safetensors"
    formats.write_safetensors(run_weights.read("workdir", folder / run), again)
    read = formats.read("safetensors", again).params
    jax.tree.map(np.testing.assert_array_equal, read, then.params)


def test_its_store_opens(folder):
    config = small.config(folder / "store")
    dataset = open_dataset(config)
    assert dataset.prepared and {s: dataset.size(s) for s in ("train", "val")} == {
        "train": 12,
        "val": 6,
    }
    source = tfds.builder_from_directory(folder / "store").as_data_source("train")
    assert len(source) == 12


def test_rates_of_conv1_are_said_in_words():
    """`conv1_steps` of be20fbf and later: at a rate of 0 the bias stood still too."""
    values = json.loads(to_json(configs.get("original_code")))
    wanted = values["optimizer"]["schedule"].pop("layer_rates")
    values["optimizer"]["schedule"]["conv1_steps"] = [[67.0, 1e-5], [72.0, 0.0]]
    read = earlier_versions.config_of(json.dumps(values)).optimizer.schedule.layer_rates
    assert [layer_rates.parse(rule) for rule in read] == [layer_rates.parse(r) for r in wanted]
    for wrong in ("x", 3, [[1]], [["a", 1]], None, [None]):
        values["optimizer"]["schedule"]["conv1_steps"] = wrong
        with pytest.raises(ConfigError, match="conv1_steps"):
            earlier_versions.config_of(json.dumps(values))
