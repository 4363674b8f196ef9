"""Runs that are killed or stopped, and resume as if nothing had happened.

Each run is a process of its own (run_and_die.py). Kills are chained: a run is killed at one point,
restarted, killed at a later one, and so on to the end. The first point of a chain hits a run that
was never interrupted; the others hit one that was.
"""

import copy
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import small
from on_mesh import some

from alexnet_jax.config import Config, to_json

pytestmark = pytest.mark.slow

# Five steps of 8 images are two epochs of 20: evaluation after steps 3 and 5, checkpoints after
# 2, 3 (evaluated), 4 and 5.
CHAINS = [
    ("step 1", "save 2", "committing 2", "sealing 2", "step 4", "evaluate 5"),
    ("step 2", "save 3", "sealed 3", "evaluate 3", "save 4", "committing 5"),
    ("step 3", "row 3", "committing 3", "committing 4", "step 5", "sealed 5"),
]


def run(config: Config, workdir: pathlib.Path, end_at: str = "") -> tuple[int, str]:
    """Trains in another process, which ends itself at `end_at`; returns its status and output."""
    workdir.mkdir(exist_ok=True)
    recipe = workdir.with_suffix(".json")
    recipe.write_text(to_json(config))
    program = pathlib.Path(__file__).parents[1] / "run_and_die.py"
    command = [sys.executable, str(program), str(recipe), str(workdir), end_at]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("set")
    small.write_folder(folder)
    return small.config(folder)


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("uninterrupted") / "w"
    status, said = run(config, workdir)
    assert status == 0, said
    return workdir


def assert_same_run(workdir: pathlib.Path, uninterrupted: pathlib.Path) -> None:
    assert small.rows(workdir) == small.rows(uninterrupted)
    got, expected = small.final_state(workdir, 5), small.final_state(uninterrupted, 5)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("chain", some(CHAINS, CHAINS[1]))
def test_resume_after_sigkill_is_exact_to_the_last_bit(config, tmp_path, uninterrupted, chain):
    for point in chain:
        status, said = run(config, tmp_path / "w", point)
        assert status == -signal.SIGKILL, f"{point}: {said}"
    status, said = run(config, tmp_path / "w")
    assert status == 0, said
    assert_same_run(tmp_path / "w", uninterrupted)


def test_a_run_that_began_with_weights_is_exact_too(config, tmp_path, uninterrupted):
    """After six kills; the source is gone once there is a checkpoint."""
    source = shutil.copytree(uninterrupted, tmp_path / "source")
    tuned = copy.deepcopy(config)
    tuned.init.weights, tuned.init.layers = str(source), ("conv*", "fc6")
    tuned.optimizer.frozen = ("conv1",)
    tuned.optimizer.schedule.layer_rates = ("new: x10",)
    status, said = run(tuned, tmp_path / "whole")
    assert status == 0 and "fc7, fc8: anew: is left out" in said, said
    for point in CHAINS[0]:
        status, said = run(tuned, tmp_path / "w", point)
        assert status == -signal.SIGKILL, f"{point}: {said}"
        if point == "sealing 2":
            assert not list((tmp_path / "w" / "checkpoints").glob("[0-9]"))
        if point == "step 4":
            shutil.rmtree(source)
    status, said = run(tuned, tmp_path / "w")
    assert status == 0, said
    assert_same_run(tmp_path / "w", tmp_path / "whole")


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_and_the_same_command_goes_on(config, tmp_path, uninterrupted, number, step):
    """The signal travels with the next batch. All processes stop when they have that batch's
    figures, or before an evaluation if that comes first."""
    status, said = run(config, tmp_path / "w", f"signal {int(number)} {step}")
    assert status == 128 + number, said
    assert "stopped and saved after step 3; run again to go on" in said
    status, said = run(config, tmp_path / "w")
    assert status == 0, said
    assert "continuing" in said
    assert_same_run(tmp_path / "w", uninterrupted)


def test_a_row_is_the_same_where_a_kill_came_after_the_save_before_it(
    config, tmp_path, uninterrupted
):
    """A row of steps 1 to 3 averages over all of them; two of them were before the kill."""
    seldom = copy.deepcopy(config)
    seldom.log_every_steps = 3
    assert run(seldom, tmp_path / "whole")[0] == 0
    assert run(seldom, tmp_path / "w", "committing 3")[0] == -signal.SIGKILL
    assert run(seldom, tmp_path / "w")[0] == 0
    assert_same_run(tmp_path / "w", tmp_path / "whole")
    each = [row for row in small.rows(tmp_path / "whole") if row["split"] == "train"]
    assert [row["step"] for row in each] == [3, 5]
    ones = [row["loss"] for row in small.rows(uninterrupted) if row["split"] == "train"]
    assert each[0]["loss"] == pytest.approx(sum(ones[:3]) / 3, rel=1e-6)
