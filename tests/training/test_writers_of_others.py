"""Writers that a team adds, and what TensorBoard gets besides the rows."""

import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import small
from commands import config_file
from tensorboardX.proto import event_pb2

from alexnet_jax import train
from alexnet_jax.config import ConfigError
from alexnet_jax.ops import peaks
from alexnet_jax.steps.flops import training_flops
from alexnet_jax.training import run_files
from alexnet_jax.training.rows import FIELDS, read_rows

ROOT = pathlib.Path(__file__).parents[2]


class Kept:
    def __init__(self, fails_at: int = 0) -> None:
        self.rows, self.closed, self._fails_at = [], False, fails_at

    def write(self, row):
        if len(self.rows) + 1 == self._fails_at:
            raise ConnectionError("the service\nis away")
        self.rows.append(row)

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    small.write_folder(folder)
    workdir, whole, failing = folder.parent / "w-of-writers", Kept(), Kept(fails_at=3)
    config = small.config(folder)
    config.eval_views = 10
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(peaks._OF_KINDS, "cpu", {"float32": 1e12})
        _, said, warned = small.quietly(train.train, config, workdir, writers=[failing, whole])
    return workdir, whole, failing, said + warned


def test_they_get_every_row(run):
    workdir, whole, _, _ = run
    assert whole.rows == read_rows(workdir / "metrics.jsonl")
    assert whole.closed


def test_rows_say_how_near_the_devices_are_to_their_peak(run):
    flops = training_flops(run_files.read_config(run[0]), 2)
    rows = [row for row in run[1].rows if "images_per_second" in row]
    assert rows
    for row in rows:
        assert row["mfu"] == pytest.approx(row["images_per_second"] * flops / 1e12)


def test_they_are_closed_where_a_run_is_refused(run):
    config = run_files.read_config(run[0])
    config.batch_size = -1
    kept = Kept()
    with pytest.raises(ConfigError, match="batch_size"):
        train.train(config, run[0], writers=[kept])
    assert kept.closed


def test_one_that_fails_is_named_and_the_run_goes_on(run):
    _, whole, failing, said = run
    assert len(failing.rows) == 2 and len(whole.rows) > 3
    assert said.count("warning: Kept: ConnectionError: the service is away; it gets no more") == 1


def test_the_example_of_the_documentation(run, monkeypatch):
    [code] = re.findall(
        r"```python\n(import mlflow.*?)```", (ROOT / "launch/README.md").read_text(), re.S
    )
    logged, ended = [], []
    fake = types.SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=lambda run_name: None,
        log_metrics=lambda metrics, step: logged.append((step, metrics)),
        end_run=lambda: ended.append(True),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    own = {}
    exec(code, own)
    assert own["get_config"]().dataset
    [writer] = own["get_writers"]("runs/1")
    for row in read_rows(run[0] / "metrics.jsonl"):
        writer.write(row)
    writer.close()
    names = set().union(*(metrics for _, metrics in logged))
    assert {"train/loss", "val/top1_error", "val_10_views/top1_error"} <= names
    assert ended and [step for step, _ in logged] == sorted(step for step, _ in logged)


def events(workdir: pathlib.Path):
    for path in (workdir / "tensorboard").iterdir():
        data = path.read_bytes()
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            yield event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4


def test_tensorboard_has_histograms_pictures_and_settings(run):
    values = [(e.step, v) for e in events(run[0]) for v in e.summary.value]
    histograms = {v.tag: v.histo for step, v in values if v.HasField("histo") and step == 5}
    assert "weights/conv1.kernel" in histograms and "weights/fc8.bias" in histograms
    kernel = small.final_state(run[0], 5)
    [name] = [name for name in kernel if "params" in name and "conv1" in name and "kernel" in name]
    own = histograms["weights/conv1.kernel"]
    assert (own.num, own.min) == (kernel[name].size, pytest.approx(float(kernel[name].min())))
    assert sum(own.bucket) == kernel[name].size and len(own.bucket) <= 32
    pictures = {v.tag: v.image for _, v in values if v.HasField("image")}
    assert pictures.keys() == {"kernels", "confusion"}
    for picture in pictures.values():
        assert picture.encoded_image_string.startswith(b"\x89PNG") and picture.width > 400
    tags = {v.tag for _, v in values}
    assert any(tag.startswith("_hparams_/") for tag in tags)
    assert "val, 10 views/top1_error" in tags
    assert not any("time_of_day" in tag for tag in tags)
    assert np.isfinite(own.sum)


def test_a_config_file_gives_its_own(tmp_path, monkeypatch):
    from absl import flags

    from alexnet_jax.configs import flags as config_flags

    file = tmp_path / "mine.py"
    file.write_text(
        "from alexnet_jax import configs\n"
        "def get_config():\n    return configs.get('default')\n"
        "def get_writers(workdir):\n    return [workdir]\n"
    )
    monkeypatch.setattr(config_flags.config_flags, "get_config_filename", lambda flag: str(file))
    if "config" not in flags.FLAGS:
        config_flags.define()
    with pytest.raises(ConfigError, match="gives a str; a writer has write"):
        config_flags.own_writers("runs/1")


def test_a_config_files_writer_gets_every_row(tmp_path):
    """The command, with the file that a team would keep."""
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps = 3
    more = (
        "class Log:\n"
        "    def __init__(self, workdir):\n        self.file = open('rows', 'w')\n"
        "    def write(self, row):\n        self.file.write(json.dumps(row) + '\\n')\n"
        "    def close(self):\n        self.file.close()\n\n\n"
        "def get_writers(workdir):\n    return [Log(workdir)]\n"
    )
    own = config_file(tmp_path / "mine.py", config, f"import json\n\n\n{more}")
    command = [sys.executable, "-m", "alexnet_jax.main", "--workdir=w", own]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "rows").read_text()
    assert rows == (tmp_path / "w" / "metrics.jsonl").read_text() and len(rows.splitlines()) > 3


def test_every_field_of_a_row_is_in_the_document():
    text = (ROOT / "launch" / "README.md").read_text().replace("\\|", "|")
    for name, meaning in FIELDS.items():
        shown = f"{name}LAYER.PART" if name.endswith("/") else name
        assert f"| `{shown}` | {meaning} |" in text, name
