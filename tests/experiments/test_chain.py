"""The chain of pre-trainings by its commands, at a sixteenth of the width."""

import json
import subprocess
import sys

import pytest
import small

from alexnet_jax.training import run_files, run_weights

SMALL = (
    *("--config.model.width=0.0625", "--config.resize=71", "--config.image_size=68"),
    *("--config.batch_size=8", "--config.num_steps=3", "--config.eval_views=1"),
    *("--config.augment.mean_image=none", "--config.steps_per_dispatch=1"),
    *("--config.log_every_steps=1", "--config.feed=host"),
)
CLASSES = {"ilsvrc2012": 2, "fall2009": 3, "fall2011": 5}  # each among those of the next


def data_sets(folder):
    """Returns flags of three data sets; classes of the later ones are copies with other names."""
    flags = []
    for name, classes in CLASSES.items():
        small.write_folder(folder / name, train=24, val=8)
        for split in ("train", "val"):
            for extra in range(classes - 2):
                new = folder / name / split / f"n{extra}"
                new.mkdir()
                for i in range(4):
                    old = sorted((folder / name / split / "dark").iterdir())[i % 4]
                    (new / f"{i}.png").write_bytes(old.read_bytes() + b" " * extra)
        flags.append(f"--{name}={folder / name}")
    return flags


def chain(tmp_path, *flags):
    command = [sys.executable, "-m", "experiments.fidelity.chain", f"--out={tmp_path / 'runs'}"]
    return subprocess.run([*command, *flags], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_chain_at_small_width(tmp_path):
    splits = ("--config.eval_split=val", "--config.train_split=train", "--config.num_classes=0")
    flags = (*data_sets(tmp_path), "--", *SMALL, *splits)
    done = chain(tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    runs = {
        name: run_weights.read("workdir", tmp_path / "runs" / name, which="latest")
        for name in ("145", "146-2009", "146-2011", "146-2012-2011")
    }
    layers = {name: set(weights.params) for name, weights in runs.items()}
    paper = {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}
    assert layers["145"] == paper and layers["146-2009"] == paper | {"conv6"}
    assert layers["146-2011"] == paper | {"conv6", "fc7_linear"}
    assert [len(weights.params["fc8"]["bias"]) for weights in runs.values()] == [2, 3, 5, 2]
    taken = {}
    for name in list(runs)[1:]:
        said = json.loads((tmp_path / "runs" / name / "init.json").read_text())["layers"]
        taken[name] = [layer for layer, what in said.items() if what == "taken"]
    five = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert taken == {
        "146-2009": five,
        "146-2011": [*five, "conv6"],
        "146-2012-2011": [*five, "conv6", "fc6", "fc7"],
    }
    last = run_files.read_config(tmp_path / "runs" / "146-2012-2011")
    assert last.model.fc7_linear_units == 0 and last.model.conv6_channels == 256
    again = chain(tmp_path, *flags)
    assert again.returncode == 0 and again.stdout.count("is finished at step 3") == 4


def test_the_commands_are_printed_and_nothing_runs(tmp_path):
    flags = [f"--{name}=data/{name}" for name in CLASSES]
    done = chain(tmp_path, *flags, "--dry_run", "--", "--config.mesh.model=2")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and not (tmp_path / "runs").exists()
    assert lines[3].startswith("python -m alexnet_jax.main --workdir=")
    assert "--config=original_code_conv6 --config.dataset=data/ilsvrc2012" in lines[3]
    assert lines[3].endswith("runs/146-2011 --config.mesh.model=2")
