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


CRASHES = PYTHON.replace("echo started\n", "kill -SEGV $$\n")


@pytest.fixture
def environment(tmp_path):
    """Makes an environment whose Python is a script."""

    def make(text: str) -> dict[str, str]:
        python = tmp_path / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(text)
        python.chmod(0o755)
        return os.environ | {"ALEXNET_VENV": str(tmp_path / "venv")}

    return make


@pytest.mark.parametrize("script", ["local.sh", "processes.sh"])
def test_a_run_that_native_code_ended_has_a_way_out(environment, script):
    count = ["-n", "1"] if script == "processes.sh" else []
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / script), *count, "--workdir=w"],
        env=environment(CRASHES),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 139
    assert done.stderr.count("ended by signal 11 in native code") == 1
    assert "--config.kernels=reference" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_and_ends_the_script(environment, number):
    script = subprocess.Popen(
        # A shell in the background ignores SIGINT; one that a person starts does not.
        ["env", "--default-signal=INT", "bash", str(ROOT / "launch" / "local.sh"), "--workdir=w"],
        env=environment(PYTHON),
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
