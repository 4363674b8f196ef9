"""The watchdog ends a process that makes no progress, and no other."""

import subprocess
import sys

from alexnet_jax.host.watchdog import Watchdog

PROGRAM = """
import pathlib, sys, threading
from alexnet_jax.host.watchdog import Watchdog
kind, trace = sys.argv[1:]
never = threading.Event()
with Watchdog(0.5, pathlib.Path(trace), lambda line: print(line, flush=True)) as watchdog:
    if kind == "before":  # compiling, before anything was finished
        never.wait(2)
    watchdog.beat("step 7")
    if kind == "paused":
        with watchdog.paused():
            never.wait(2)
    if kind == "growing":
        size = iter(range(10**9))
        with watchdog.while_growing(lambda: next(size)):
            never.wait(2)
    if kind == "grown":
        with watchdog.while_growing(lambda: 5):
            never.wait(20)
    if kind == "stuck":
        never.wait(20)
print("ended")
"""


def run(kind: str, trace) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(trace)], capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_who_stands_still_is_ended_with_its_stacks(tmp_path):
    for kind in ("stuck", "grown"):
        code, said = run(kind, tmp_path / "stuck.txt")
        assert code == 124 and said.startswith("step 7: no progress for ")
        text = (tmp_path / "stuck.txt").read_text()
        assert text.startswith("step 7: ") and "in wait" in text


def test_who_works_or_has_not_begun_is_not(tmp_path):
    for kind in ("before", "paused", "growing"):
        assert run(kind, tmp_path / "stuck.txt") == (0, "ended\n")
    assert not (tmp_path / "stuck.txt").exists()


def test_long_updates_are_waited_for(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("alexnet_jax.host.watchdog.time.monotonic", lambda: now[0])
    watchdog = Watchdog(10.0, tmp_path / "stuck.txt", lambda line: None)
    assert watchdog.limit() == 10.0
    for step in range(5):
        watchdog.beat(f"step {step}")
        now[0] += 3.0
    assert watchdog.limit() == 60.0
    watchdog.beat("an evaluation", updates=0)
    assert watchdog.limit() == 60.0


def test_a_folder_that_is_gone_does_not_keep_it_alive(tmp_path):
    code, said = run("stuck", tmp_path / "gone" / "stuck.txt")
    assert code == 124 and "could not be written" in said
