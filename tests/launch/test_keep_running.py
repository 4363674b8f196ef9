"""launch/keep_running.sh: starts again while a run gets on, and gives up where it does not."""

import json
import os
import signal
import subprocess

import pytest
from notebooks import ROOT

RUN = """
trap 'echo saved; exit 143' TERM
n=$(cat count 2>/dev/null || echo 0); n=$((n + 1)); echo $n > count
mkdir -p w
case "$1" in
  refused) exit 1 ;;
esac
echo '{"event": "start"}' >> w/history.jsonl
case "$1" in
  stuck) exit 3 ;;
  slow) echo began; while :; do sleep 0.05; done ;;
esac
if [ $n -gt 4 ]; then exit 0; fi
if [ $((n % 2)) = 0 ]; then echo '{"event": "save"}' >> w/history.jsonl; fi
kill -KILL $$
"""


def start(tmp_path, kind, **environment):
    script = ROOT / "launch" / "keep_running.sh"
    (tmp_path / "run.sh").write_text(RUN)
    command = ["bash", str(script), "bash", "run.sh", kind, "--workdir", "w"]
    return subprocess.Popen(
        ["env", "--default-signal=INT", *command],
        cwd=tmp_path,
        env=os.environ | {"WAIT_AT_MOST": "1", "GIVE_UP_AFTER": "3"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def starts(tmp_path):
    return int((tmp_path / "count").read_text())


def test_a_run_that_is_killed_is_started_until_it_ends(tmp_path):
    process = start(tmp_path, "killed")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert starts(tmp_path) == 5 and said.count("starting again in 1 s") == 4


def test_it_gives_up_where_nothing_is_saved(tmp_path):
    process = start(tmp_path, "stuck")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and starts(tmp_path) == 3
    assert "3 ends without a new checkpoint, the last with 3; giving up" in said


def test_what_is_refused_is_not_tried_again(tmp_path):
    process = start(tmp_path, "refused")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and starts(tmp_path) == 1
    assert "before the run began" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_it(tmp_path, number):
    process = start(tmp_path, "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and said == "saved\n" and starts(tmp_path) == 1


def test_without_a_workdir_it_says_how(tmp_path):
    script = str(ROOT / "launch" / "keep_running.sh")
    for arguments, told in ([], "keep_running.sh COMMAND"), (["true"], "--workdir: is needed"):
        done = subprocess.run(["bash", script, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and told in done.stderr


def test_events_are_written_as_the_script_looks_for_them():
    """It counts lines that begin so."""
    assert json.dumps({"event": "save", "at": ""}).startswith('{"event": "save"')
