"""--dry_run: describes a run, and touches nothing."""

import os
import re
import subprocess
import sys

import pytest

from alexnet_jax import configs, train
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.data.types import DataError
from tests import small


def numbers(text: str) -> list[int]:
    return [int(one.replace(",", "")) for one in re.findall(r"\d[\d,]*", text)]


def listed(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_the_paper_s_layers_and_memory(tmp_path):
    config = configs.get("paper")
    config.data_dir, config.dataset, config.batch_size = str(tmp_path), "drawn_patterns", 8
    config.mesh = MeshConfig(2, 2)
    said = train.preview(config, tmp_path / "w")
    rows = {line.split()[0]: line for line in said.splitlines() if line}
    # Paper, figure 2 and section 3.5; parameters of both columns.
    assert rows["conv1"].startswith("conv1   55 x 55 x 96   11 x 11 x 3 x 96       34,944  17,472,")
    assert "27 x 27 x 256  5 x 5 x 48 x 256      307,456  153,728, cut over model" in rows["conv2"]
    assert "13 x 13 x 384  3 x 3 x 256 x 384     885,120" in rows["conv3"]
    assert "4,096          9,216 x 4,096      37,752,832" in rows["fc6"]
    assert "60,965,224  30,482,612, cut over model" in rows["in"]
    assert "not prepared yet" in rows["data"] and "steps 1 to" in rows["run"]
    of_memory = numbers(rows["memory"])
    # Half of 60,965,224 parameters and velocities of 4 bytes are 232.6 MiB.
    assert of_memory[2] == 233 and of_memory[2] < of_memory[4] <= of_memory[0]
    assert not (tmp_path / "w").exists() and list(tmp_path.iterdir()) == []


def test_a_run_that_is_there_is_left_as_it_is(tmp_path):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps = 2
    train.train(config, tmp_path / "w")
    before = listed(tmp_path)
    config.num_steps = 5
    said = train.preview(config, tmp_path / "w")
    assert "run       steps 3 to 5 of" in said and "w would go on" in said
    assert "for a batch; the train step" in said
    config.feed = "resident"
    assert "for images that stay there" in train.preview(config, tmp_path / "w")
    with pytest.raises(ConfigError, match="holds another run"):
        config.seed += 1
        train.preview(config, tmp_path / "w")
    assert listed(tmp_path) == before


def test_what_train_refuses_is_refused(tmp_path):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps = 2
    train.train(config, tmp_path / "w")
    assert "w is finished; nothing" in train.preview(config, tmp_path / "w")
    config.num_steps = 1
    with pytest.raises(ConfigError, match="past the end at 1"):
        train.preview(config, tmp_path / "w")
    assert "would be begun" in train.preview(config, tmp_path / "w", overwrite=True)
    small.write_folder(tmp_path / "other", train=12)
    config.num_steps, config.dataset = 3, str(tmp_path / "other")
    with pytest.raises(ConfigError, match="has another train_examples than"):
        train.preview(config, tmp_path / "w")
    (tmp_path / "w" / "checkpoints").rename(tmp_path / "gone")
    before = listed(tmp_path)
    with pytest.raises(ConfigError, match="checkpoints: is missing, while metrics.jsonl has rows"):
        train.preview(config, tmp_path / "w")
    assert listed(tmp_path) == before


def test_its_mistakes_are_those_of_the_run(tmp_path):
    config = configs.get("default")
    config.dataset = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no folder"):
        train.preview(config, tmp_path / "w")
    config.batch_size = 0
    with pytest.raises(ConfigError, match="batch_size"):
        train.preview(config, tmp_path / "w")


def test_the_command_prints_it(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_jax.main", "--workdir=w", "--dry_run"],
        cwd=home,
        env=os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert "in all" in done.stdout and "w would be begun; nothing was made" in done.stdout
    assert list(home.iterdir()) == []
