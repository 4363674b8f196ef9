"""launch/keep_running.sh: restarts a run while it makes progress, and gives up when it does not."""

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
  aside) mkdir -p w/checkpoints/5; echo '{"event": "save"}' >> w/history.jsonl; exit 3 ;;
  anew) case "$*" in *overwrite*) rm -rf w/checkpoints; mkdir w/checkpoints; echo anew ;; esac
    mkdir -p w/checkpoints/$n; if [ $n -gt 2 ]; then ls w/checkpoints; exit 0; fi; exit 9 ;;
  slow) echo began; while :; do sleep 0.05; done ;;
esac
if [ $n -gt 4 ]; then exit 0; fi
if [ $((n % 2)) = 0 ]; then mkdir -p w/checkpoints/$n; fi
kill -KILL $$
"""


def start(tmp_path, kind, *more, **environment):
    script = ROOT / "launch" / "keep_running.sh"
    (tmp_path / "run.sh").write_text(RUN)
    command = ["bash", str(script), "bash", "run.sh", kind, "--workdir", "w", *more]
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


def test_a_checkpoint_that_is_made_again_and_again_is_no_progress(tmp_path):
    process = start(tmp_path, "aside")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and starts(tmp_path) == 4, said


def test_what_is_begun_anew_is_so_once(tmp_path):
    process = start(tmp_path, "anew", "--overwrite")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and said.count("anew") == 1
    assert said.split("s\n")[-1].split() == ["1", "2", "3"], said


def test_a_home_is_found(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "run.sh").write_text(RUN)
    command = ["bash", str(ROOT / "launch" / "keep_running.sh"), "bash", "run.sh", "killed"]
    done = subprocess.run(
        [*command, "--workdir=~/w"],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path), "WAIT_AT_MOST": "1", "GIVE_UP_AFTER": "3"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


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
