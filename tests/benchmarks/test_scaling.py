"""benchmark scaling: what it measures and says, on simulated devices."""

import json
import subprocess
import sys

import jax
import pytest

from alexnet_jax import configs
from alexnet_jax.benchmarks import scaling
from alexnet_jax.config import ConfigError
from alexnet_jax.parallel.schemes import LAYOUTS
from alexnet_jax.steps import communication


@pytest.fixture
def narrow():
    config = configs.get("paper")
    config.model.width, config.num_classes = 1 / 8, 16
    return config


def test_every_scheme_on_two_devices(narrow):
    found = scaling.measure(narrow, [1, 2], LAYOUTS, [4], 1)
    assert found.simulated and "cpu" in found.machine
    assert [(arm.devices, arm.scheme) for arm in found.arms] == [
        (1, "data"),
        *((2, scheme) for scheme in LAYOUTS),
    ]
    by_scheme = {arm.scheme: arm for arm in found.arms if arm.devices == 2}
    assert all(arm.batch_size == 4 * arm.devices for arm in found.arms)
    assert found.arms[0].efficiency == 1 and found.arms[0].megabytes_sent == 0
    own = scaling._arm(narrow, 2, "columns", 4)
    wanted = sum(c.moved for c in communication.expected(own, 16, 1)) / 1e6
    assert by_scheme["columns"].megabytes_sent == pytest.approx(wanted, rel=0.01)
    assert by_scheme["zero"].memory_mib < by_scheme["data"].memory_mib
    assert all(0 < share <= 1 for arm in found.arms for share in arm.predicted.values())
    text = scaling.table(found)
    assert "SIMULATED" in text and "74.6" not in text and "75 % at 8" in text
    assert scaling.draw(found).axes[0].get_xlabel() == "devices"


def test_what_cannot_be_measured_is_refused(narrow):
    with pytest.raises(ConfigError, match=f"{len(jax.devices())} are here"):
        scaling.measure(narrow, [1024], ["data"], [4], 1)
    with pytest.raises(ConfigError, match="--schemes: rows is not one of data"):
        scaling.measure(narrow, [2], ["rows"], [4], 1)


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [sys.executable, "-m", "alexnet_jax.benchmark", "scaling", "--devices=1,2"]
    command += [
        "--schemes=data",
        "--batch_per_device=2,4",
        "--rounds=1",
        "--config.model.width=0.125",
    ]
    command += [f"--json={tmp_path / 'a.json'}", f"--picture={tmp_path / 'a.png'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "a.json").read_text())
    assert [(arm["batch_size"], arm["devices"]) for arm in about["arms"]] == [
        *((2, 1), (4, 2)),
        *((4, 1), (8, 2)),
    ]
    assert [arm["efficiency"] for arm in about["arms"] if arm["devices"] == 1] == [1, 1]
    assert about["published"]["P100, DGX-1 (TensorFlow, 2017)"]["8"] == 17822
    assert "SIMULATED" in done.stdout
    assert (tmp_path / "a.png").stat().st_size > 10_000
    wrong = subprocess.run([*command[:4], "--devices=two"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "must be counts" in wrong.stderr
    wrong = subprocess.run([*command[:4], "--batch_per_device=0"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "--batch_per_device: 0 must be counts such as" in wrong.stderr
