"""Whole runs of the smallest network."""

import builtins
import concurrent.futures
import contextlib
import dataclasses
import doctest
import errno
import fcntl
import io
import json
import os
import pathlib
import re
import shutil
import signal
import threading

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from alexnet_jax import evaluate, model, train
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.data.types import DataError
from alexnet_jax.feed import choice, resident
from alexnet_jax.feed import host as host_feed
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.feed.protocol import Cut
from alexnet_jax.host import files
from alexnet_jax.inference import trained
from alexnet_jax.layers import standard_tree
from alexnet_jax.parallel import mesh
from alexnet_jax.steps import augment, evaluation, state
from alexnet_jax.steps.nonfinite import first_nonfinite_layer
from alexnet_jax.steps.setup import Setup
from alexnet_jax.training import checkpoint, run_files, writers
from alexnet_jax.training.loop import NonFiniteError
from alexnet_jax.training.rows import FIELDS, read_rows
from alexnet_jax.training.stored import Stored


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("set")
    small.write_folder(path)
    return path


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run of 5 steps (2 epochs of 20 images by 8)."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, train.train(small.config(folder), workdir)


def test_a_run_leaves_what_the_contract_says(finished):
    workdir, summary = finished
    assert {p.name for p in workdir.iterdir()} >= {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "tensorboard",
        "plots",
    }
    assert (workdir / "plots" / "learning_curves.png").stat().st_size > 5_000
    assert any((workdir / "tensorboard").iterdir())
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert summary["step"] == 5
    assert (summary["split"], summary["count"], summary["views"]) == ("val", 14, 1)
    assert 0 <= summary["top1_error"] <= 1
    recorded = read_rows(workdir / "metrics.jsonl")
    assert [r["step"] for r in recorded if r["split"] == "train"] == [1, 2, 3, 4, 5]
    assert [r["step"] for r in recorded if r["split"] == "val"] == [3, 5]  # 20 = 2.5 x 8
    times = small.TIMES - {"mfu"}  # whose peak nobody names
    assert recorded[1].keys() >= {"loss", "top1_error", "top5_error", "learning_rate"} | times
    assert all(row["time_of_day"] > 1.7e9 for row in recorded)
    named = {name.split("/")[0] + "/" * ("/" in name) for row in recorded for name in row}
    assert named <= set(FIELDS)
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__


def test_the_first_loss_is_that_of_the_initial_network(finished, folder):
    """The logged loss of step 1 against a forward pass that shares only the modules."""
    workdir, _ = finished
    config = small.config(folder)
    config.model.dropout_rate = 0.0
    first = train.train(dataclasses.replace(config, num_steps=1), workdir.parent / "no_dropout")
    row = read_rows(workdir.parent / "no_dropout" / "metrics.jsonl")[0]
    from alexnet_jax.data.order import batch_positions

    source = open_dataset(config).open("train")
    where = batch_positions(0, 1, 8, 20)
    images = np.empty((8, 71, 71, 3), np.uint8)
    labels, _ = ImageReader(source, 71).read(where.index, images)
    batch = {k: jnp.asarray(v, jnp.int32) for k, v in where._asdict().items()}
    seen = augment.Views.of(config)
    views = seen.training(batch | {"image": jnp.asarray(images)}, jax.random.key(0))
    network = model.build(config.model, 2, "float32")
    params = jax.jit(network.init)(jax.random.key(0), views)["params"]
    log_p = jax.nn.log_softmax(jax.jit(network.apply)({"params": params}, views))
    assert row["loss"] == pytest.approx(-float(log_p[np.arange(8), labels].mean()), rel=1e-5)
    assert first["step"] == 1


def test_a_finished_run_is_evaluated_not_trained(finished, folder, capsys):
    workdir, summary = finished
    before = small.rows(workdir)
    again = train.train(small.config(folder), workdir)
    assert again | {"time": None} == summary | {"time": None}
    assert "is finished at step 5" in capsys.readouterr().out
    assert small.rows(workdir) == before


def test_more_epochs_continue_and_the_schedule_says_it_is_stretched(folder, tmp_path, capsys):
    config = small.config(folder)
    config.num_epochs = 1
    assert train.train(config, tmp_path)["step"] == 3
    config.num_epochs = 2
    config.eval_views = 10
    summary = train.train(config, tmp_path)
    assert (summary["step"], summary["views"]) == (5, 10)
    said = capsys.readouterr().out
    assert "changes from 3 to 5 steps; its cosine schedule is stretched" in said
    config.num_epochs = 1
    with pytest.raises(ConfigError, match="num_steps: .* is at step 5, past the end at 3"):
        train.train(config, tmp_path)


def test_a_changed_field_is_refused_with_both_values(finished, folder):
    workdir, _ = finished
    config = small.config(folder)
    config.optimizer.learning_rate = 0.5
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate: 0.005 there, 0.5 here"):
        train.train(config, workdir)


def test_another_process_in_the_workdir_is_refused(finished, folder):
    workdir, _ = finished
    with (
        files.only_process(workdir),
        pytest.raises(files.FolderInUseError, match="another process works in"),
    ):
        train.train(small.config(folder), workdir)


def test_predicting_leaves_a_save_under_way_alone(finished):
    workdir, _ = finished
    under_way = workdir / "checkpoints" / "99.orbax-checkpoint-tmp"
    under_way.mkdir()
    leftover = workdir / "checkpoints" / "98.orbax-checkpoint-tmp"
    leftover.write_text("a file")
    assert Stored(workdir, {}).steps()[-1] == 5
    assert under_way.exists()
    with checkpoint.Checkpoints(workdir, 2):  # whoever saved it is gone: the run holds its folder
        assert not under_way.exists() and not leftover.exists()


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EIO"])
def test_a_disk_without_locks_is_warned_of(code, tmp_path, capsys, monkeypatch):
    def flock(*_):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(fcntl, "flock", flock)
    if code == "EIO":
        with pytest.raises(OSError, match=f"{tmp_path}/lock"), files.only_process(tmp_path):
            pass
    else:
        with files.only_process(tmp_path):
            assert f"the disk of {tmp_path} has no locks" in capsys.readouterr().err


def test_data_that_changed_is_refused(finished, tmp_path):
    workdir, _ = finished
    data, more, other, coloured = (Dataset() for _ in range(4))
    for one in (data, more, other, coloured):
        one.name, one.sizes = "a set", {}
        one.class_names = run_files.read_class_names(workdir)
    more.class_names = [*data.class_names, "another"]
    other.fingerprint = lambda: "of others"
    coloured.statistics = Statistics(*np.ones((5, 3, 3)))
    coloured.statistics.save(tmp_path)  # left by a run from a store that saved no checkpoint
    run_files.pin_dataset(tmp_path, data, 20, False, None, None)
    assert run_files.read_statistics(tmp_path) is None
    run_files.pin_dataset(tmp_path, data, 20, True, None, None)
    cases = {
        r"train_examples than .* \(20\)": (data, 21),
        r"class_names than .* \(2 names\)": (more, 20),
        r"fingerprint than .* \(of its files' names": (other, 20),
        r"colour_means than .* \(\[\]\)": (coloured, 20),
    }
    for message, changed in cases.items():
        with pytest.raises(ConfigError, match=f"dataset: a set has another {message}"):
            run_files.pin_dataset(tmp_path, *changed, True, None, None)


def test_a_run_goes_on_where_its_data_lie_now_if_they_are_the_same(finished, folder, tmp_path):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "w")
    config = small.config(pathlib.Path(shutil.copytree(folder, tmp_path / "moved")))
    config.num_epochs = 3
    assert train.train(config, tmp_path / "w")["step"] == 8
    for file in (tmp_path / "moved" / "train" / "dark").iterdir():  # others of the same names
        cv2.imwrite(str(file), cv2.imread(str(file))[::2, ::2])
    with pytest.raises(ConfigError, match="dataset: .*moved has another fingerprint than"):
        train.train(config, tmp_path / "w")
    about = json.loads((tmp_path / "w" / run_files.DATASET_FILE).read_text())
    del about["fingerprint"]  # as older code left it
    (tmp_path / "w" / run_files.DATASET_FILE).write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r"holds another run \(dataset: .*moved"):
        train.train(dataclasses.replace(config, dataset=str(folder)), tmp_path / "w")


def test_rank_by_one_view_and_report_ten(finished, folder, tmp_path, monkeypatch):
    """The best checkpoint and the plateau compare like with like."""
    saved = []
    evaluated = checkpoint.Checkpoints.evaluated
    monkeypatch.setattr(
        checkpoint.Checkpoints,
        "evaluated",
        lambda self, at, error: (saved.append((at, error)), evaluated(self, at, error))[1],
    )
    config = small.config(folder)
    config.eval_views = 10
    assert train.train(config, tmp_path)["views"] == 10
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["split"] == "val"]
    assert saved == [(row["step"], row["top1_error"]) for row in rows if row["views"] == 1]
    assert [row["views"] for row in rows] == [1, 1, 10]


@pytest.mark.parametrize("change", ["data 4", "parts 4", "parts 4, resident"])
def test_devices_and_accumulation_do_not_change_the_run(finished, folder, tmp_path, change):
    workdir, summary = finished
    config = small.config(folder)
    if change == "data 4":
        config.mesh.data, config.eval_batch_size = 4, 4
    else:
        config.optimizer.accumulate_steps = 4
        config.feed = "resident" if "resident" in change else "host"
    other = train.train(config, tmp_path)
    assert other["count"] == summary["count"]
    for a, b in zip(small.rows(workdir), small.rows(tmp_path), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    one, four = small.final_state(workdir, 5), small.final_state(tmp_path, 5)
    for name in one:
        np.testing.assert_allclose(four[name], one[name], rtol=1e-3, atol=2e-6, err_msg=name)


def undisturbed(folder, together: int):
    """A run of 9 updates over resident images; nothing is due between the first and the last."""
    config = small.config(folder)
    config.feed, config.steps_per_dispatch, config.num_steps = "resident", together, 9
    config.checkpoint_every_steps = config.eval_every_epochs = 100
    return config


@pytest.mark.parametrize("shape", [(1, 1), pytest.param((2, 2), marks=pytest.mark.exhaustive)])
def test_updates_of_one_dispatch_are_those_of_several(folder, tmp_path, shape):
    """The same rows and parameters; 4 updates of 8 images go past the end of an epoch of 20."""
    ends = []
    for name, together in (("alone", 1), ("together", 4)):
        config = undisturbed(folder, together)
        config.mesh = MeshConfig(*shape)
        train.train(config, tmp_path / name)
        rows = read_rows(tmp_path / name / "metrics.jsonl")
        ends.append((rows, trained.load(tmp_path / name, which="latest").params))
    (rows, params), (other_rows, other_params) = ends
    assert [(r["split"], r["step"]) for r in other_rows] == [(r["split"], r["step"]) for r in rows]
    for row, again in zip(rows, other_rows, strict=True):
        assert again["loss"] == pytest.approx(row["loss"], rel=1e-5)
    spans = [r["step_seconds"] for r in other_rows if r["split"] == "train"]
    assert len(set(spans[1:5])) == len(set(spans[5:9])) == 1  # updates of one dispatch
    assert len(set(spans)) == 3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, other_params
    )


@pytest.mark.exhaustive
def test_a_stopped_run_of_long_dispatches_goes_on_as_it_would_have(folder, tmp_path):
    """It ends after update 7, in the middle of what would have been a dispatch."""
    config = undisturbed(folder, 4)
    config.optimizer.schedule.kind = "constant"
    train.train(config, tmp_path / "whole")
    half = dataclasses.replace(config, num_steps=7)
    train.train(half, tmp_path / "half")
    train.train(config, tmp_path / "half")
    whole, rest = (small.final_state(tmp_path / name, 9) for name in ("whole", "half"))
    for name in whole:
        np.testing.assert_array_equal(rest[name], whole[name], err_msg=name)


def test_several_updates_in_a_dispatch_need_resident_images(folder, tmp_path, monkeypatch):
    config = small.config(folder)
    config.feed, config.steps_per_dispatch = "host", 4
    with pytest.raises(ConfigError, match="steps_per_dispatch: 4 .* use 1, or feed=resident"):
        train.compile_train_step(config)
    monkeypatch.setattr(choice, "resident_budget", lambda config: 0)
    config.feed = "auto"
    with pytest.raises(ConfigError, match="train is read ahead by 2 threads; use 1, or feed=res"):
        train.train(config, tmp_path / "w")


@pytest.mark.exhaustive
def test_a_nan_in_a_dispatch_of_several_is_of_its_own_step(folder, tmp_path):
    said = []
    for together in (1, 5):
        config = undisturbed(folder, together)
        config.optimizer.learning_rate, config.optimizer.schedule.warmup_epochs = 30.0, 0.0
        with pytest.raises(NonFiniteError) as raised:
            train.train(config, tmp_path / str(together))
        said.append(str(raised.value))
    assert said[1] == said[0]
    assert 2 < int(said[0].split(":")[0].removeprefix("step ")) <= 6


@pytest.mark.parametrize(("batch_size", "views"), [(1, 1), (5, 10), (14, 1), (32, 10)])
def test_evaluation_is_exact_whatever_the_batch(finished, folder, batch_size, views):
    """Against a loop over single images."""
    workdir, _ = finished
    config = dataclasses.replace(small.config(folder), eval_batch_size=batch_size)
    setup = Setup.of(config, 2)
    devices, network, seen = setup.mesh, setup.network, setup.views
    own = run_files.read_config(workdir)
    stored = Stored(workdir, run_files.identity(workdir, own))
    params = stored.restore(5, state.abstract_state(setup)).params
    source = open_dataset(config).open("val")
    results = []
    for feed in (
        host_feed.HostFeed(config, devices, ImageReader(source, 71), Cut(batch_size)),
        resident.ResidentFeed(config, devices, ImageReader(source, 71), Cut(batch_size), True),
    ):
        compiled = evaluation.compile_eval_step(setup, feed.feeding, params, views)
        results.append(evaluation.evaluate(compiled, params, feed))
    got, answers = results[0].figures, results[0].answers
    assert results[1].figures == got
    for name, of in vars(answers).items():
        np.testing.assert_array_equal(of, getattr(results[1].answers, name), err_msg=name)
    apply = jax.jit(lambda v: jax.nn.softmax(standard_tree.logits(network, params, v)))
    image, losses, wrong = np.empty((1, 71, 71, 3), np.uint8), [], 0
    for i in range(14):
        label = ImageReader(source, 71).read(np.array([i]), image)[0][0]
        crops = seen.evaluation(jnp.asarray(image), views)
        p = np.mean([np.asarray(apply(crop))[0] for crop in crops], axis=0)
        losses.append(-np.log(p[label]))
        wrong += p.argmax() != label
        assert (answers.labels[i], answers.classes[i, 0]) == (label, p.argmax())
        np.testing.assert_allclose(answers.probabilities[i], np.sort(p)[::-1], rtol=1e-5)
    assert answers.readable.all() and len(answers.labels) == 14
    assert got["count"] == 14
    assert got["top1_error"] == pytest.approx(wrong / 14)
    assert got["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def reading_threads() -> list[str]:
    """Returns threads that still read batches; like a notebook, a test keeps exceptions' frames."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("put")]


def test_a_count_that_is_not_the_splits_is_an_error(finished, folder):
    workdir, _ = finished
    config = small.config(folder)

    def loses_one(params, batch):
        from alexnet_jax.steps import metrics

        mask = batch["mask"].at[0].set(0)
        sums = metrics.classification(jnp.zeros((8, 2)), batch["label"], mask)
        return sums | {"bad_images": metrics.average(0.0, 0.0)}, {"labels": batch["label"]}

    reader = ImageReader(open_dataset(config).open("val"), 71)
    feed = host_feed.HostFeed(config, mesh.build(config.mesh), reader, Cut(8))
    with pytest.raises(evaluation.EvaluationError, match="counted 12 images of 14"):
        evaluation.evaluate(loses_one, None, feed)

    def fails(params, batch):
        raise FloatingPointError

    with pytest.raises(FloatingPointError) as held:
        evaluation.evaluate(fails, None, feed)
    assert held.tb is not None
    assert not reading_threads()


def test_bad_images_are_counted_out_of_a_run(tmp_path):
    small.write_folder(tmp_path / "set")
    for split in ("train", "val"):
        path = next((tmp_path / "set" / split / "dark").iterdir())
        path.write_bytes(b"broken")
    config = small.config(tmp_path / "set")
    with pytest.raises(ValueError, match=r"dark.*\.png: is not a readable image"):
        train.train(config, tmp_path / "w1")
    config.on_bad_image = "skip"
    summary = train.train(config, tmp_path / "w2")
    assert (summary["count"], summary["bad_images"]) == (13, 1)


def test_a_nan_stops_the_run_and_keeps_the_checkpoint(folder, tmp_path):
    config = small.config(folder)
    config.optimizer.learning_rate = 1e12
    config.optimizer.schedule.kind = "constant"
    config.optimizer.schedule.warmup_epochs = 0.0
    config.checkpoint_every_steps = 1
    with pytest.raises(
        train.NonFiniteError, match=r"step [2345]: .*first in .*; the checkpoint of"
    ) as held:
        train.train(config, tmp_path)
    assert held.tb is not None
    assert not reading_threads()
    at = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert all(
        np.isfinite(v).all() for k, v in small.final_state(tmp_path, at).items() if "params" in k
    )


def test_the_first_nonfinite_layer_is_named(folder):
    config = small.config(folder)
    setup = Setup.of(config, 2)
    params = state.create_state(setup).params
    feeding = HostBatches(config.mesh, 8, 71)
    batch = mesh.zeros(feeding.abstract(setup.mesh))

    def first(params: dict) -> str:
        return first_nonfinite_layer(setup, feeding, params, batch, 1)

    assert "gradient" in first(params)
    assert first(params | {"conv4": jax.tree.map(lambda p: p + 3e38, params["conv4"])}) == "conv4"
    broken = params | {"fc7": jax.tree.map(lambda p: p * jnp.nan, params["fc7"])}
    assert first(broken) == "parameters of fc7"


def test_compiled_steps_open_no_data_set():
    from alexnet_jax import configs

    config = configs.get("default")
    config.num_classes, config.dataset, config.batch_size = 7, "no_such_data_set", 8
    config.resize, config.image_size, config.model.width = 71, 67, 1 / 16
    for compiled in (train.compile_train_step(config), evaluate.compile_eval_step(config)):
        assert isinstance(compiled, jax.stages.Compiled)


def test_images_are_as_written(folder):
    """Guards the fixtures: the two classes differ in what a network can see."""
    means = [cv2.imread(str(p)).mean() for p in sorted((folder / "val").glob("*/*.png"))]
    assert max(means[:7]) < min(means[7:])
    assert os.environ.get("JAX_PLATFORMS", "cpu") in ("", "cpu")


def test_the_python_face_s_example(folder, tmp_path, monkeypatch):
    def small_config():
        config = small.config(folder)
        config.num_steps = 2
        return config

    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(train.train, globs={"small_config": small_config}):
        test.globs["train"] = lambda *a, **k: _quietly(train.train, *a, **k)
        runner.run(test)
    assert runner.tries > 0 and not runner.failures


def _quietly(function, *arguments, **more):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments, **more)


def test_two_runs_in_one_process_and_one_begun_anew(folder, tmp_path):
    """As cells of a notebook do it: another config, then the first workdir again."""
    first, other = small.config(folder), small.config(folder)
    first.num_steps = other.num_steps = 2
    other.model.columns, other.seed = 1, 5
    train.train(first, str(tmp_path / "a"))
    train.train(other, tmp_path / "b")
    kept = tmp_path / "a" / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(ConfigError, match="holds another run"):
        train.train(other, tmp_path / "a")
    wrong = dataclasses.replace(other, dataset=str(tmp_path / "nowhere"))
    with pytest.raises(DataError):
        train.train(wrong, tmp_path / "a", overwrite=True)
    assert trained.load(tmp_path / "a", which="latest").step == 2  # nothing was removed
    assert train.train(other, tmp_path / "a", overwrite=True)["step"] == 2
    rows = [small.rows(tmp_path / name) for name in ("a", "b")]
    assert rows[0] == rows[1]
    assert kept.read_text() == "mine"


def test_a_run_in_another_thread_has_no_trouble_with_signals(folder, tmp_path):
    config = small.config(folder)
    config.num_steps = 2
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(train.train, config, tmp_path).result()["step"] == 2


@pytest.mark.parametrize("where", ["notebook", "script"])
def test_an_interrupted_run_ends_as_it_should_and_goes_on(
    folder, tmp_path, monkeypatch, caplog, capsys, where
):
    """A cell ends with one line; a script prints that line, and ends with the signal's code."""
    if where == "notebook":
        monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    config = small.config(folder)
    config.num_steps, config.optimizer.schedule.kind = 6, "constant"
    write = writers.MetricsFile.write

    def interrupting(self, row):
        write(self, row)
        if row["step"] == 2 and row["split"] == "train":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(writers.MetricsFile, "write", interrupting)
    with pytest.raises(train.Interrupted) as raised:
        train.train(config, tmp_path / "w")
    line = r"stopped and saved after step \d+; run again to go on"
    assert re.fullmatch(line, str(raised.value))
    assert raised.value.code == 128 + signal.SIGINT
    kind = KeyboardInterrupt if where == "notebook" else SystemExit
    assert isinstance(raised.value, kind)
    assert len(re.findall(line, capsys.readouterr().out)) == (where == "script")
    if where == "notebook":
        assert raised.value._render_traceback_() == [f"Interrupted: {raised.value}"]
    monkeypatch.undo()
    assert train.train(config, tmp_path / "w")["step"] == 6
    train.train(config, tmp_path / "whole")
    assert small.rows(tmp_path / "w") == small.rows(tmp_path / "whole")
    assert not [record for record in caplog.records if record.name == "absl"]
