"""A command's first steps: no foreign modules, this machine's paths, one process at a time."""

import os
import subprocess
import sys
import threading

import pytest

from alexnet_jax.host import files, paths
from alexnet_jax.host.paths import PathError


@pytest.mark.parametrize("module", ["checkpoints", "main", "evaluate"])
def test_folders_called_like_packages_are_not_imported(tmp_path, module):
    for name in ("torch", "absl", "jax", "numpy", "tensorflow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')")
    done = subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{module}", "--workdir=s3://bucket/run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},  # it does not start again
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: --workdir: s3://bucket/run is neither on this machine's disks nor "
        "gs://BUCKET/PATH; mount the bucket as a folder, or copy it\n"
    )
    assert not (tmp_path / "s3:").exists()


def test_a_path_of_this_machine(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(paths.local("~/runs/a b[1]", "--workdir")) == "/home/me/runs/a b[1]"
    for wrong in ("", "  ", "s3://b", "hdfs://x/y", "http://x", "a\0b"):
        with pytest.raises(PathError, match="--workdir: "):
            paths.local(wrong, "--workdir")


def test_who_comes_second_waits_with_a_line(tmp_path, monkeypatch):
    order, held, waits = [], threading.Event(), threading.Event()

    def said(line: str, **_: bool) -> None:
        order.append(line)
        waits.set()

    def second() -> None:
        held.wait()
        with files.in_turn(tmp_path / "set", "it is being prepared; waiting"):
            order.append("second")

    monkeypatch.setattr(files, "print", said, raising=False)
    thread = threading.Thread(target=second)
    thread.start()
    with files.in_turn(tmp_path / "set", "never said"):
        held.set()
        waits.wait()
        order.append("first")
    thread.join()
    assert order == ["it is being prepared; waiting", "first", "second"]


def test_room_and_fullness_are_said(tmp_path):
    assert "MiB of" in files.room(tmp_path / "not" / "there")
    assert files.is_full(OSError(28, "No space left on device"))
    assert files.is_full(ValueError("RESOURCE_EXHAUSTED: write: No space left on device"))
    assert not files.is_full(ValueError("NOT_FOUND"))


def test_a_console_script_says_what_its_module_says():
    program = "import sys; sys.argv = ['bin/alexnet-evaluate', '--help']\n"
    program += "from alexnet_jax.evaluate import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "python -m alexnet_jax.evaluate --workdir=W [--split=S]" in done.stdout
    assert "--class_names: a file of the network's classes" in done.stdout


@pytest.mark.parametrize("name", ["evaluate", "predict", "visualize", "probe"])
def test_help_lists_what_commands_share(name):
    done = subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{name}", "--help"], capture_output=True, text=True
    )
    assert "--checkpoint" in done.stdout and "--kernels" in done.stdout, done.stdout
