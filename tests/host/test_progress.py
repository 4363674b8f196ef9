"""Progress on a terminal of 80 columns, and in a log."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
import small
from commands import config_file

from alexnet_jax.host.progress import Progress

ON_A_TERMINAL = """
from alexnet_jax.host.progress import Progress
with Progress("train", 0, 900_900, "step") as bar:
    bar.about("evaluate 1,024")
    bar.about("train")
    bar.advance(123_456)
    bar.show("step 123,456/900,900", "loss 6.9078, top-1 error 99.9 %, 12,345 images/s")
    bar.advance(1)
    bar._bar.refresh()
"""


def terminal() -> tuple[int, int]:
    """Opens a terminal of 80 columns: our end of it, and a program's."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return ours, theirs


def test_a_bar_shows_all_of_it_on_80_columns():
    ours, theirs = terminal()
    command = [sys.executable, "-c", ON_A_TERMINAL]
    done = subprocess.run(command, stdout=theirs, stderr=theirs, timeout=60)
    os.set_blocking(ours, False)
    lines = os.read(ours, 65_536).decode().replace("\r", "\n").rstrip().split("\n")
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, lines
    assert any(line.startswith("evaluate 1,024") for line in lines)
    assert all(len(line) <= 80 for line in lines), lines[-1]
    last = next(line for line in reversed(lines) if "loss" in line)
    for part in ("train", "123457/900900", "left", "loss 6.9078", "99.9 %", "12,345 images/s"):
        assert part in last, last


def test_a_log_has_lines_whoever_imported_a_kernel(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # a library that can be used in one
    with Progress("train", 0, 100, "step") as bar:
        bar.about("evaluate 1,024")
        bar.show("step 10/100", "loss 1.5")
    assert capsys.readouterr().out == "step 10/100: loss 1.5\n"


TAKES_LONG = """
import threading
from alexnet_jax.host.progress import waiting
with waiting("compiling"):
    threading.Event().wait(2.5)
"""


def test_what_takes_long_shows_its_seconds():
    ours, theirs = terminal()
    subprocess.run([sys.executable, "-c", TAKES_LONG], stdout=theirs, stderr=theirs, check=True)
    said = os.read(ours, 65_536).decode()
    os.close(ours)
    os.close(theirs)
    assert "compiling, 00:01" in said and "compiling, 00:02" in said


@pytest.mark.slow
def test_a_run_on_a_terminal_says_what_goes_on(tmp_path):
    """Compiling and evaluating too, by a bar of 80 columns."""
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps = 4
    ours, theirs = terminal()
    own = config_file(tmp_path / "c.py", config)
    command = [sys.executable, "-m", "alexnet_jax.main", "--workdir=w", own]
    with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs) as run:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the terminal's end
            while part := os.read(ours, 4096):
                said += part
    os.close(ours)
    assert run.returncode == 0, said.decode()
    lines = said.decode().replace("\r", "\n").split("\n")
    assert any(line.startswith("compiling the step, 00:0") for line in lines)
    for what in ("compile ", "evaluate ", "train "):
        bars = [line for line in lines if line.lstrip("\x1b[A").startswith(what) and "left" in line]
        assert bars, (what, lines)
        assert all(len(bar) <= 81 for bar in bars)
