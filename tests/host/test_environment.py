"""Environments as machines, containers and notebooks give them: a run works, or says why not."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests import small

RECIPE = """
import pathlib
from experiments.reliability import runs

def get_config():
    config = runs.config(pathlib.Path({folder!r}))
    config.num_steps = 1
    return config
"""
CHECKOUT = str(pathlib.Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("environment")
    small.write_folder(made / "set")
    (made / "recipe.py").write_text(RECIPE.format(folder=str(made / "set")))
    return made


def train(folder, workdir, change=(), before=()):
    """Trains for an update; `change` sets variables, and removes those without a value."""
    environment = dict(os.environ) | {"PYTHONPATH": CHECKOUT}
    for text in change:
        name, equals, value = text.partition("=")
        environment.pop(name, None)
        if equals:
            environment[name] = value
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=recipe.py"]
    return subprocess.run(
        [*before, *command, f"--workdir={workdir}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


WORKS = {
    "a terminal without a language": (["LANG=C", "LC_ALL=C", "PYTHONUTF8=0"], ""),
    "no home": (["HOME", "XDG_CACHE_HOME"], ""),
    "a home that cannot be written": (["HOME=/proc", "XDG_CACHE_HOME"], ""),
    "without assertions": (["PYTHONOPTIMIZE=2"], ""),
    "a notebook's display": (["MPLBACKEND=module://of_a_notebook"], ""),
    "few files": ([], 'ulimit -n 64; exec "$@"'),
    "a user without a name": (["HOME"], 'exec unshare -U --map-user=12345 "$@"'),
}
TELLING = ("a terminal without a language", "few files", "a user without a name")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k in TELLING else pytest.mark.exhaustive) for k in WORKS],
)
def test_it_works_with(kind, folder, tmp_path):
    change, script = WORKS[kind]
    if "unshare" in script:
        maps = shutil.which("unshare") and subprocess.run(
            ["unshare", "-U", "--map-user=12345", "true"], capture_output=True, check=False
        )
        if not maps or maps.returncode:
            pytest.skip("no user can be mapped here")
    before = ["bash", "-c", script, "-"] if script else []
    done = train(folder, tmp_path / "w", change, before)
    assert done.returncode == 0, done.stderr
    assert "top-1 error" in done.stdout.splitlines()[-1]
    assert (tmp_path / "w" / "checkpoints" / "1").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("JAX_PLATFORMS=cuda", "JAX_PLATFORMS=cuda: JAX cannot use these devices .*jax.cuda13"),
        ("JAX_PLATFORMS=gpuu", "JAX_PLATFORMS=gpuu: .*'gpuu' is not in the list of known"),
        ("JAX_DISABLE_JIT=1", "JAX_DISABLE_JIT: is set, and every step here is compiled; unset it"),
    ],
)
def test_it_says_why_not(change, said, folder, tmp_path):
    if "cuda" in change and importlib.util.find_spec("jax_cuda13_plugin"):
        pytest.skip("JAX for CUDA is installed")
    done = train(folder, tmp_path / "w", [change])
    assert done.returncode == 1
    assert re.fullmatch(f"error: {said}.*\n", done.stderr), done.stderr


def test_a_config_file_s_own_error_is_shown_and_named(folder, tmp_path):
    (folder / "wrong.py").write_text("def get_config():\n    raise ValueError('mine')\n")
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=wrong.py", "--workdir=w"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": CHECKOUT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and 'wrong.py", line 2, in get_config' in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "error: --config: the file ended with ValueError: mine"
