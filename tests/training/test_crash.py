"""After a crash in native code, a run's next start says so and names the way out."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import small

from alexnet_jax import train
from alexnet_jax.config import to_json
from alexnet_jax.training import crash

DIE = """
import ctypes, sys, signal, os
import alexnet_jax.train as train
from alexnet_jax.config import from_json
from alexnet_jax.training import loop
def die(self, state, start):
    os.kill(os.getpid(), int(sys.argv[3]))
loop.Loop.run = die
train.train(from_json(open(sys.argv[1]).read()), sys.argv[2])
"""


@pytest.fixture
def config(tmp_path):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps, config.optimizer.schedule.kind = 2, "constant"
    return config


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGILL, signal.SIGABRT])
def test_a_signal_in_native_code_is_told_of(config, tmp_path, capsys, number):
    (tmp_path / "config.json").write_text(to_json(config))
    command = [sys.executable, "-c", DIE, "config.json", "w", str(int(number))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -number
    train.train(config, tmp_path / "w")
    said = capsys.readouterr().out
    assert "was ended in native code before (" in said and "kernels=reference" in said
    assert "train.py" in (tmp_path / "w" / "native_crash.txt").read_text()
    train.train(config, tmp_path / "w")  # it is told once
    assert "native code" not in capsys.readouterr().out


def test_a_run_that_ends_leaves_nothing(config, tmp_path, capsys):
    train.train(config, tmp_path / "w")
    assert not list((tmp_path / "w").glob(f"{crash.NAME}*"))
    config.on_bad_image = "nonsense"
    with pytest.raises(ValueError):
        train.train(config, tmp_path / "w")
    assert not list((tmp_path / "w").glob(f"{crash.NAME}*"))
    assert "native" not in capsys.readouterr().out


def test_the_kernels_may_change_on_a_resume(config, tmp_path, capsys):
    train.train(config, tmp_path / "w")
    config.num_steps, config.kernels = 4, "reference"
    train.train(config, tmp_path / "w")
    said = capsys.readouterr().out
    assert "kernels changes from auto to reference: the last bits change from here on" in said
    assert json.loads((tmp_path / "w" / "config.json").read_text())["kernels"] == "reference"
    (tmp_path / "again").mkdir()
    auto = small.config(tmp_path / "set")
    auto.num_steps, auto.optimizer.schedule.kind = 4, "constant"
    train.train(auto, tmp_path / "again")
    losses = [
        [r["loss"] for r in small.rows(tmp_path / w) if r["split"] == "train"]
        for w in ("w", "again")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_launcher_says_what_the_signal_was(tmp_path):
    script = pathlib.Path(__file__).parents[2] / "launch" / "environment.sh"
    command = f"venv={sys.prefix}; source {script}; say_signal 139; say_signal 1; say_signal 143"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.count("ended by signal 11 in native code") == 1
    assert done.stderr.count("\n") == 1
