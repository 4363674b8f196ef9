"""The whole job in folders of any name: prepare, train, evaluate, predict, draw, convert."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments.reliability import runs

NAMES = {
    "no text": b"caf\xe9 \xff",
    "patterns": b"lr=[0.1,0.01] *?{a}",
    "backslash": b"a\\b\\n",
    "other scripts": "世界 كركي ünï".encode(),
    "terminal": b"-red\x1b[31m\nnext",
    "shell": b"$HOME ~ 'x' \"y\" ;&#%",
}


def run(command: str, *arguments: str, cwd: pathlib.Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{command}", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[1])},
        capture_output=True,
        check=False,
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    assert "Traceback" not in said and "\x1b" not in said, said
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.exhaustive] * (n != "no text")) for n in NAMES]
)
def test_every_command_works_there(name, tmp_path):
    home = tmp_path / os.fsdecode(NAMES[name])
    runs.write_folder(home / "set")
    photograph = next((home / "set" / "val" / "light").iterdir())
    workdir, store = home / "run", home / "store"
    run("prepare", f"--dataset={home / 'set'}", f"--out={store}", "--resize=71", cwd=tmp_path)
    run("prepare", "--verify", "--", str(store), cwd=tmp_path)
    flags = ["--config.image_size=67", "--config.resize=71", "--config.num_steps=2"]
    flags += ["--config.batch_size=8", f"--config.dataset={store}", "--config.model.width=0.125"]
    run("main", f"--workdir={workdir}", *flags, cwd=tmp_path)
    again = run("main", f"--workdir={workdir}", *flags, "--config.num_steps=3", cwd=tmp_path)
    assert "continuing" in again and (workdir / "checkpoints" / "3").is_dir()
    run("checkpoints", f"--workdir={workdir}", "--verify", cwd=tmp_path)
    answers = home / "answers.csv"
    run("evaluate", f"--workdir={workdir}", f"--predictions={answers}", cwd=tmp_path)
    assert len(answers.read_bytes().splitlines()) == 15
    out = home / "drawn"
    run("predict", f"--workdir={workdir}", f"--out={out}", "--", str(photograph), cwd=tmp_path)
    run("visualize", "kernels", f"--workdir={workdir}", f"--out={out / 'k.png'}", cwd=tmp_path)
    assert len(list(out.iterdir())) == 2
    weights, copy = home / "net.safetensors", home / "copy"
    run(
        "convert",
        "--from=workdir",
        "--to=safetensors",
        "--",
        *map(str, (workdir, weights)),
        cwd=home,
    )
    run("convert", "--from=safetensors", "--to=workdir", "--", *map(str, (weights, copy)), cwd=home)
    run("evaluate", f"--workdir={copy}", f"--dataset={store}", "--views=1", cwd=tmp_path)
    (home / "set" / "val" / "light" / "bad.jpg").write_bytes(b"bad")
    run(
        "main",
        f"--workdir={home / 'skip'}",
        *flags[:4],
        f"--config.dataset={home / 'set'}",
        "--config.on_bad_image=skip",
        "--config.model.width=0.125",
        cwd=tmp_path,
    )
