"""launch/local.sh: signals reach the run, and the script ends when it has."""

import os
import signal
import subprocess

import pytest
from notebooks import ROOT

PYTHON = """#!/usr/bin/env bash
# Stands for an environment's Python: a run that saves itself in half a second.
case "$*" in
  "-m alexnet_jax.main"*) ;;
  *) exit 0 ;;
esac
trap 'sleep 0.5; echo saved; exit 143' TERM
trap '' INT
echo started
for i in $(seq 600); do sleep 0.1; done
exit 7
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_and_ends_the_script(tmp_path, number):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    script = subprocess.Popen(
        # A shell in the background ignores SIGINT; one that a person starts does not.
        ["env", "--default-signal=INT", "bash", str(ROOT / "launch" / "local.sh"), "--workdir=w"],
        env=os.environ | {"ALEXNET_VENV": str(tmp_path / "venv")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert script.stdout is not None
    try:
        while "started" not in (line := script.stdout.readline()):
            assert line, "it ended before the run began"
        script.send_signal(number)
        said, _ = script.communicate(timeout=30)
    finally:
        script.kill()
        script.wait()
    assert said == "saved\n" and script.returncode == 143
