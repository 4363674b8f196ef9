import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax import predict
from alexnet_jax.config import ConfigError


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


def test_the_command_prints_five_best_and_draws_them(run):
    good = sorted((run / "set" / "val" / "light").iterdir())[0]
    bad = run / "broken.jpg"
    bad.write_bytes(b"broken")
    command = [sys.executable, "-m", "alexnet_jax.predict", f"--workdir={run / 'w'}"]
    done = subprocess.run([*command, str(bad), str(good)], capture_output=True, text=True)
    assert done.returncode == 1  # one of the two could not be read, the other was predicted
    assert "broken.jpg: is not a readable image" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(good)
    assert {line.split()[-1] for line in lines[1:3]} == {"dark", "light"}
    total = sum(float(line.split()[0]) for line in lines[1:3])
    assert total == pytest.approx(100, abs=0.02)
    assert (run / "w" / "plots" / "predictions" / f"{good.stem}.png").stat().st_size > 5_000


def test_probabilities_are_an_average_over_views(run):
    image = np.random.default_rng(0).integers(0, 256, (71, 71, 3), dtype=np.uint8)
    ten, one = predict.Predictor(run / "w", 10)(image), predict.Predictor(run / "w", 1)(image)
    assert ten.sum() == pytest.approx(1, abs=1e-5)
    assert (ten != one).any()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json: not found; is .* the workdir of a run"):
        predict.Predictor(tmp_path)


def test_best_five_order_and_unnamed_classes():
    rows = predict.best_five(np.array([0.1, 0.2, 0.05, 0.3, 0.25, 0.1]), ["a", "b", "c"])
    assert [name for name, _ in rows] == ["class 3", "class 4", "b", "a", "class 5"]
