"""Several processes as one run, each with one simulated device."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import small

from alexnet_jax.config import ConfigError, MeshConfig, to_json
from alexnet_jax.data.loader import ImageReader, Loader, evaluation_positions
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.parallel import mesh, processes
from alexnet_jax.training import answers_file

pytestmark = pytest.mark.slow

PROGRAM = """
import pathlib, sys
sys.modules["torch"] = None  # tensorboardX would load it, for seconds
from alexnet_jax import main
from alexnet_jax.training import writers
from alexnet_jax.config import from_json
writers.Writers.draw = lambda self: None
recipe, workdir, port, count, this = sys.argv[1:6]
join = main.Join(True, f"127.0.0.1:{port}", int(count), int(this))
config = from_json(pathlib.Path(recipe).read_text())
if port == "0":
    join = main.Join()
for argument in sys.argv[6:]:
    if argument == this:
        config.batch_size *= 2  # this process was started with another flag
main.run(config, workdir, join)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    small.write_folder(folder)
    made = small.config(folder)
    made.mesh.data = -1
    return made


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def begin(config, workdir, count: int, *arguments: str) -> list[subprocess.Popen]:
    workdir.parent.mkdir(exist_ok=True)
    recipe = workdir.with_suffix(".json")
    recipe.write_text(to_json(config))
    port = free_port() if count > 1 else 0
    program = [sys.executable, "-c", PROGRAM, str(recipe), str(workdir), str(port), str(count)]
    return [
        subprocess.Popen(
            [*program, str(i), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        for i in range(count)
    ]


def end(started: list[subprocess.Popen]) -> list[tuple[int, str]]:
    said = [process.communicate()[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "w"
    [(status, said)] = end(begin(config, workdir, 1))
    assert status == 0, said
    return workdir


def assert_same_curve(workdir: pathlib.Path, alone: pathlib.Path) -> None:
    got, wanted = small.rows(workdir), small.rows(alone)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a.get("count") == b.get("count")
    counts = ("count", "top1_error", "top5_error")
    ends = [json.loads((w / "summary.json").read_text()) for w in (workdir, alone)]
    assert [ends[0][name] for name in counts] == [ends[1][name] for name in counts]
    got, wanted = (answers_file.read(w).answers for w in (workdir, alone))
    np.testing.assert_array_equal(got.labels, wanted.labels)
    np.testing.assert_array_equal(got.classes, wanted.classes)
    np.testing.assert_allclose(got.probabilities, wanted.probabilities, rtol=1e-4)


def test_four_processes_on_columns_and_data_are_one_run(config, alone, tmp_path):
    config = dataclasses.replace(config, mesh=MeshConfig(-1, 2))
    ended = end(begin(config, tmp_path / "w", 4))
    assert [status for status, _ in ended] == [0] * 4, ended
    assert "4 x cpu in 4 processes" in ended[0][1]
    assert "step 1" not in ended[1][1]  # the first speaks for all
    assert_same_curve(tmp_path / "w", alone)


def test_a_signal_to_one_stops_all_and_one_process_goes_on(config, alone, tmp_path):
    config = dataclasses.replace(config, num_epochs=40, log_every_steps=1)
    started = begin(config, tmp_path / "w", 2)
    for line in started[0].stdout:
        if line.startswith("step 1/"):
            started[1].send_signal(signal.SIGTERM)
            break
    ended = end(started)
    assert [status for status, _ in ended] == [128 + signal.SIGTERM] * 2, ended
    steps = sorted(
        int(p.name) for p in (tmp_path / "w" / "checkpoints").iterdir() if p.name.isdigit()
    )
    config = dataclasses.replace(config, num_steps=steps[-1] + 2, mesh=MeshConfig(1, 1))
    [(status, said)] = end(begin(config, tmp_path / "w", 1))
    assert status == 0, said
    assert f"after step {steps[-1]}" in said


def test_processes_that_disagree_are_all_refused(config, tmp_path):
    ended = end(begin(config, tmp_path / "w", 2, "1"))
    for status, said in ended:
        assert status == 1, said
        assert "error: batch_size: 16 in process 1, 8 in process 0; start every process" in said


def test_copies_of_the_data_that_differ_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(processes, "told_by_all", lambda own: [own, own, "other"])
    with pytest.raises(ConfigError, match="dataset: NAME is not the same in process 2 as in"):
        processes.same_data("NAME", lambda: "one")
    monkeypatch.setattr(processes, "told_by_all", lambda own: [own, own, own])
    processes.same_data("NAME", lambda: "one")


def test_a_wrong_mesh_is_refused_by_every_process(config, tmp_path):
    config = dataclasses.replace(config, mesh=MeshConfig(1, 1))
    for status, said in end(begin(config, tmp_path / "w", 2)):
        assert status == 1, said
        assert "leave some of the 2 in 2 processes without work; set mesh.data to -1" in said


def test_each_process_reads_its_rows_alone(config):
    """The processes' rows together make up the batch, also the last one with its padding."""
    reader = ImageReader(open_dataset(config).open("val"), 71)

    def batches(rows: slice) -> list[dict[str, np.ndarray]]:
        read = Loader(reader, 2, 1).batches(evaluation_positions(8, 14), range(2), rows)
        return [{name: values.copy() for name, values in batch.items()} for batch in read]

    whole, parts = batches(slice(0, 8)), [batches(slice(i, i + 2)) for i in (0, 2, 4, 6)]
    for n, batch in enumerate(whole):
        for name, values in batch.items():
            together = np.concatenate([part[n][name] for part in parts])
            np.testing.assert_array_equal(together, values)
    assert mesh.local_rows(mesh.build(MeshConfig(4, 2)), MeshConfig(4, 2), 8) == slice(0, 8)
