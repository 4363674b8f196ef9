"""Runs with a workdir in a bucket; each start is on a machine that has no copy yet."""

import json
import pathlib
import signal
import subprocess
import sys

import buckets
import numpy as np
import pytest
import small
from on_mesh import some

from alexnet_jax.config import to_json

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).parents[1] / "run_and_die.py"
URL = "gs://runs-of-a-test/a folder/w"
# Each start writes a few objects before its first save, which writes about twenty.
CHAINS = [
    ("upload 20", "removal 1", "upload 30"),
    ("step 1", "upload 25", "sealing 2", "removal 9", "step 5", "upload 22"),
    ("upload 1", "committing 2", "upload 27", "evaluate 3", "removal 2", "evaluate 5"),
]


@pytest.fixture
def server(monkeypatch):
    with buckets.served("runs-of-a-test") as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("ALEXNET_LEASE_SECONDS", "2")
        yield address


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Returns a function; each call gives this process another machine's empty cache."""

    def another() -> pathlib.Path:
        cache = tmp_path / f"machine {len(list(tmp_path.glob('machine *')))}"
        cache.mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        buckets.forget_copies()
        return cache

    yield another
    buckets.forget_copies()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    small.write_folder(folder)
    return small.config(folder)


def command(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{name}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(config, workdir: str, recipe: pathlib.Path, end_at: str = "") -> tuple[int, str]:
    recipe.write_text(to_json(config))
    command = [sys.executable, str(PROGRAM), str(recipe), workdir, end_at]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("chain", some(CHAINS, CHAINS[0]))
def test_killed_anywhere_and_gone_on_elsewhere_it_is_the_same(
    config, tmp_path, server, machines, chain
):
    recipe = tmp_path / "recipe.json"
    status, said = run(config, str(tmp_path / "own"), recipe)
    assert status == 0, said
    for point in chain:
        machines()
        status, said = run(config, URL, recipe, point)
        assert status == -signal.SIGKILL, f"{point}: {said}"
    machines()
    status, said = run(config, URL, recipe)
    assert status == 0, said
    assert "is kept as damaged" not in said and "missing" not in said
    from alexnet_jax.host import mirror

    machines()
    copy = mirror.copy_of(URL)  # what the bucket has, and nothing of a machine before
    assert small.rows(copy) == small.rows(tmp_path / "own")
    got, expected = small.final_state(copy, 5), small.final_state(tmp_path / "own", 5)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert json.loads((copy / "summary.json").read_text())["step"] == 5
    kept = [sorted(p.name for p in (w / "checkpoints").iterdir()) for w in (copy, tmp_path / "own")]
    assert kept[0] == kept[1]


@pytest.mark.exhaustive
def test_every_command_works_there(tmp_path, server, machines):
    from google.cloud import storage

    small.write_folder(tmp_path / "set")
    bucket = storage.Client().bucket("runs-of-a-test")
    for path in (tmp_path / "set").rglob("*.png"):  # as gcloud storage cp --recursive would
        name = path.relative_to(tmp_path).as_posix()
        bucket.blob(name).upload_from_filename(str(path))
    root = "gs://runs-of-a-test"
    flags = ["--config.image_size=67", "--config.resize=71", "--config.num_steps=2"]
    flags += ["--config.batch_size=8", "--config.model.width=0.125"]
    machines()
    command("prepare", f"--dataset={root}/set", f"--out={root}/store", "--resize=71")
    machines()
    command("prepare", "--verify", f"{root}/store")
    command("main", f"--workdir={root}/w", f"--config.dataset={root}/store", *flags)
    machines()
    again = [f"--config.dataset={root}/set", *flags, "--config.num_steps=3"]
    with pytest.raises(AssertionError, match="another colour_means"):
        command("main", f"--workdir={root}/w", *again)
    again[0] = f"--config.dataset={root}/store"
    assert "continuing" in command("main", f"--workdir={root}/w", *again)
    machines()
    command("checkpoints", f"--workdir={root}/w", "--verify")
    command("evaluate", f"--workdir={root}/w", f"--predictions={root}/answers.csv")
    command("visualize", "kernels", f"--workdir={root}/w", f"--out={root}/w/plots/k.png")
    command("report", f"--workdir={root}/w")
    command("convert", "--from=workdir", "--to=workdir", f"{root}/w", f"{root}/copy")
    command("predict", f"--workdir={root}/copy", f"--out={root}/said", f"{root}/{name}")
    machines()
    from alexnet_jax.host import mirror

    assert len(mirror.copy_of(f"{root}/answers.csv").read_text().splitlines()) == 15
    copy = mirror.copy_of(f"{root}/w")
    assert (copy / "plots/k.png").is_file() and (copy / "report.html").is_file()
    assert list((copy / "tensorboard").iterdir())
    said = mirror.copy_of(f"{root}/said")
    assert [path.suffix for path in said.iterdir()] == [".png"]
    assert not (mirror.copy_of(f"{root}/store") / "unfinished").exists()


@pytest.mark.exhaustive
def test_what_tfds_makes_in_a_bucket_is_there_for_the_next_machine(tmp_path, server, machines):
    from alexnet_jax.host import mirror

    machines()
    there = ["--dataset=drawn_patterns", "--data_dir=gs://runs-of-a-test/tfds", "--resize=64"]
    command("prepare", *there, f"--out={tmp_path}/one")
    machines()
    made = mirror.copy_of("gs://runs-of-a-test/tfds")
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    assert any(path.name == "dataset_info.json" for path in before)
    command("prepare", *there, f"--out={tmp_path}/two")  # nothing is drawn again
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()} == before
