"""launch/tpu_vm.sh: its calls of a stand-in gcloud; no TPU is present, and none is requested."""

import os
import shlex
import subprocess

import pytest
from notebooks import ROOT

SCRIPT = str(ROOT / "launch" / "tpu_vm.sh")
SLICE = ["--type=v5litepod-8", "--zone=us-west4-a"]
RUN = ["--", "--workdir=/mnt/b/my run", "--config=paper"]

# A slice is WAITING at first, then ACTIVE; its first TAKEN runs end because it is taken away.
GCLOUD = """#!/usr/bin/env bash
printf '%q ' "$@" >> calls; echo >> calls
n=$(grep -c 'queued-resources create' calls)
case "$*" in
  *describe*) if [ -e taken ]; then echo SUSPENDED
    elif [ ! -e asked ]; then touch asked; echo WAITING_FOR_RESOURCES
    else echo ACTIVE; fi ;;
  *create*) rm -f taken ;;
  *local.sh*) if [ "$n" -le "${TAKEN:-0}" ]; then touch taken; exit 255; fi; exit "${CODE:-0}" ;;
esac
"""


def called(tmp_path, *arguments, **environment):
    """Runs the script with a gcloud that records its calls; returns exit code, output and calls."""
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(GCLOUD)
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "ASK_EVERY": "0"} | environment,
        capture_output=True,
        text=True,
    )
    calls = tmp_path / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, done.stdout + done.stderr, [shlex.split(line) for line in lines]


def verbs(calls):
    """Names the calls: create, describe, scp, ssh, delete."""
    known = ("create", "describe", "scp", "ssh", "delete")
    return [next(word for word in call if word in known) for call in calls]


def test_a_dry_run_prints_every_command_and_runs_none(tmp_path):
    code, said, calls = called(
        tmp_path, "run", "first", *SLICE, "--spot", "--delete", "--slices=2", "--dry_run", *RUN
    )
    assert code == 0 and calls == []
    commands = [shlex.split(line) for line in said.splitlines()]
    create = commands[0]
    assert create[:6] == "gcloud compute tpus queued-resources create first".split()
    assert {"--node-count=2", "--node-prefix=first", "--spot"} <= set(create)
    assert "--runtime-version=v2-alpha-tpuv5-lite" in create
    started = [c for c in commands if "local.sh" in c[-1]]
    assert [c[5] for c in started] == ["first-0", "first-1"]
    # What reaches the shell of a host is what was asked for.
    inner = shlex.split(started[0][-1].split("local.sh ")[1])
    assert inner[:3] == ["--distributed", "--workdir=/mnt/b/my run", "--config=paper"]
    assert commands[-1][4] == "delete"


def test_a_run_waits_for_its_slice_and_the_slice_stays(tmp_path):
    code, said, calls = called(tmp_path, "run", "first", *SLICE, *RUN)
    assert code == 0
    assert verbs(calls) == ["create", "describe", "describe", "scp", "ssh", "ssh"]
    assert "waiting for first: WAITING" in said
    assert "first stays, and costs: bash launch/tpu_vm.sh delete first --zone=us-west4-a" in said


def test_a_slice_that_is_taken_away_is_asked_for_again(tmp_path):
    code, said, calls = called(
        tmp_path, "run", "first", *SLICE, "--spot", "--delete", *RUN, TAKEN="2"
    )
    assert code == 0, said
    assert verbs(calls).count("create") == 3 and said.count("asking for it again") == 2
    assert verbs(calls)[-1] == "delete"


def test_a_run_that_fails_keeps_its_slice(tmp_path):
    code, said, calls = called(
        tmp_path, "run", "first", *SLICE, "--spot", "--delete", *RUN, CODE="3"
    )
    assert code == 3 and "first stays, and costs" in said
    assert verbs(calls).count("create") == 1 and "delete" not in verbs(calls)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "First", *SLICE, *RUN], "lower-case"),
        (["run", "first", "--type=v5litepod-8", *RUN], "--zone: is needed"),
        (["run", "first", "--zone=z", *RUN], "--type: is needed"),
        (["run", "first", *SLICE, "--", "--config=paper"], "--workdir: is needed"),
        (["run", "first", *SLICE, "--config=paper"], "stands after --"),
        (["fly", "first", *SLICE], "tpu_vm.sh run NAME"),
        ([], "tpu_vm.sh run NAME"),
    ],
)
def test_what_is_missing_is_said(tmp_path, arguments, told):
    code, said, calls = called(tmp_path, *arguments)
    assert code == 2 and told in said and calls == []
