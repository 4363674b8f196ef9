import subprocess
import sys

import pytest


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
