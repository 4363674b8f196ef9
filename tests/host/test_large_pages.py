"""Which commands start again with large pages: those that compute on a CPU, once."""

import os
import pathlib
import subprocess
import sys

import pytest

from alexnet_jax.host import large_pages


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The command lines with which this process would have restarted."""
    found: list[list[str]] = []
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(large_pages, "ACCELERATORS", ())
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", ["main", "--workdir=w"])
    monkeypatch.setattr(os, "execv", lambda _, arguments: found.append(arguments))
    yield found
    os.environ.pop("GLIBC_TUNABLES", None)


def test_a_command_on_a_cpu_starts_again(started):
    large_pages.start_again_with_them("auto")
    [[python, *_]] = started
    assert python == sys.executable
    assert os.environ["GLIBC_TUNABLES"] == large_pages.tunables()


DEVICES = [f"/dev/{name}" for name in ("nvidia0", "nvidiactl", "dxg", "kfd", "accel0", "vfio/0")]


@pytest.mark.parametrize("device", DEVICES)
def test_no_command_does_beside_an_accelerator(started, monkeypatch, device):
    monkeypatch.undo()
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "argv", ["main", "--workdir=w"])
    monkeypatch.setattr(os, "execv", lambda _, arguments: started.append(arguments))
    monkeypatch.setattr(pathlib.Path, "exists", lambda path: str(path) == device)
    large_pages.start_again_with_them("auto")
    assert not started


@pytest.mark.parametrize("why", ["reference", "notebook", "help", "own tunables", "another system"])
def test_nor_where_it_is_not_wanted(started, monkeypatch, why):
    if why == "notebook":
        monkeypatch.setattr(large_pages, "in_notebook", lambda: True)
    elif why == "help":
        monkeypatch.setattr(sys, "argv", ["prepare", "--help"])
    elif why == "own tunables":
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    elif why == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    large_pages.start_again_with_them("reference" if why == "reference" else "auto")
    assert not started


def test_a_command_starts_again_with_large_pages_once():
    code = (
        "import os; from alexnet_jax.host import large_pages; large_pages.start_again_with_them(); "
        "print(os.getpid(), os.environ.get('GLIBC_TUNABLES'))"
    )
    clean = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    for own, want in ((None, "glibc.malloc.hugetlb=1:"), ("glibc.malloc.check=0", "check=0")):
        environment = clean | ({"GLIBC_TUNABLES": own} if own else {})
        with subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            said = process.communicate()[0]
        pid, tunables = said.split()
        assert int(pid) == process.pid
        if sys.platform == "linux":
            assert want in tunables
    assert set(large_pages.TUNABLES) == {
        f"glibc.malloc.{name}" for name in ("hugetlb", "mmap_max", "trim_threshold")
    }
