"""Damaged checkpoints and workdirs: found, reported in a line, and resumed from what is whole."""

import json
import pathlib
import random
import shutil
import sys
import types

import numpy as np
import pytest
import small
from on_mesh import some

from alexnet_jax import checkpoints, inference, train
from alexnet_jax.config import ConfigError
from alexnet_jax.inference import trained
from alexnet_jax.training import checkpoint, record, run_files, seal
from alexnet_jax.training.loop import NonFiniteError
from alexnet_jax.training.rows import MetricsError, read_rows
from alexnet_jax.training.stored import CheckpointError, Stored
from experiments.reliability import damage, fuzz


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> damage.Trials:
    return damage.Trials(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def base(trials, tmp_path) -> pathlib.Path:
    """A run of 6 steps with the checkpoints 2, 4 and 6."""
    return pathlib.Path(shutil.copytree(trials.folder / "base", tmp_path / "w"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", some(list(damage.KINDS), damage.FLIP, "renamed", "emptied", "names swapped")
)
def test_a_damaged_checkpoint_is_moved_aside_and_the_run_ends_as_it_would_have(trials, kind):
    rng, outcome = random.Random(f"{kind} 1"), None
    while outcome is None:
        outcome = trials.in_process(kind, rng)
    assert outcome == ""
    kept = [path.name for path in (trials.folder / "damaged" / "checkpoints").iterdir()]
    assert any(name.startswith("damaged_") for name in kept) or kind == "lost"


def flip(workdir: pathlib.Path, *steps: int) -> None:
    for step in steps:
        folder = workdir / "checkpoints" / str(step)
        largest = max(damage.files_of(folder), key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 4
        largest.write_bytes(data)


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def test_where_none_is_whole_nothing_is_changed(trials, base):
    flip(base, 2, 4, 6)
    before = contents(base)
    with pytest.raises(CheckpointError, match="no checkpoint is whole .*6: .*4: .*2: .*nothing wa"):
        train.train(trials.config(8), base)
    assert contents(base) == before


def test_a_reader_takes_the_next_and_refuses_the_one_that_was_asked_for(base, capsys):
    flip(base, 6)
    assert trained.load(base, which="latest").step == 4
    assert "checkpoints/6: default/" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1 and "step 4 is used" in said
    assert inference.load(base).step == 4
    with pytest.raises(CheckpointError, match=r"checkpoints/6: .*ask for another, or for best or"):
        trained.load(base, which="6")
    before = contents(base)
    flip(base, 4, 2)
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        trained.load(base)
    assert contents(base).keys() == before.keys()


def test_the_best_is_by_the_file_beside_and_may_be_an_older_one(trials, tmp_path):
    config = trials.config(8)
    config.keep_checkpoints, config.eval_every_epochs = 1, 1
    train.train(config, tmp_path / "w")
    known = record.Record.load(tmp_path / "w")
    rows = [r for r in read_rows(tmp_path / "w" / "metrics.jsonl") if r["split"] == "val"]
    least = min(rows, key=lambda row: (row["top1_error"], -row["step"]))
    kept = Stored(tmp_path / "w", {}).steps()
    assert kept == sorted({least["step"], 8})
    assert known.errors == {r["step"]: r["top1_error"] for r in rows if r["step"] in kept}
    assert trained.load(tmp_path / "w").step == least["step"]
    (tmp_path / "w" / record.FILE).write_text("[]")
    assert record.Record.load(tmp_path / "w").errors == {r["step"]: r["top1_error"] for r in rows}


@pytest.mark.parametrize("lost", some(["gone", "", "{}"], "gone"))
def test_the_best_is_kept_where_the_file_beside_is_lost(trials, tmp_path, lost):
    config = trials.config(3)
    config.keep_checkpoints, config.eval_every_epochs = 1, 1
    config.optimizer.learning_rate = 1e-9  # every error is that of chance
    train.train(config, tmp_path / "w")
    text = (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    best = json.loads(text[-1])
    assert (best["step"], best["split"]) == (3, "val")
    (tmp_path / "w" / "metrics.jsonl").write_text(  # so good that no other is better
        "\n".join([*text[:-1], json.dumps(best | {"top1_error": 0.0, "loss": 0.0})]) + "\n"
    )
    known = tmp_path / "w" / record.FILE
    known.unlink() if lost == "gone" else known.write_text(lost)
    config.num_steps = 5
    train.train(config, tmp_path / "w")
    known.unlink()
    config.num_steps = 6
    train.train(config, tmp_path / "w")
    assert Stored(tmp_path / "w", {}).steps() == [3, 6]
    assert trained.load(tmp_path / "w").step == 3


def test_a_link_to_a_whole_checkpoint_is_one(trials, base, tmp_path):
    """As when the owner of a full disk has moved it to another disk."""
    moved = (base / "checkpoints" / "6").rename(tmp_path / "6")
    (base / "checkpoints" / "6").symlink_to(moved)
    (base / "checkpoints" / "notes.txt").write_text("mine")
    _, _, warned = small.quietly(train.train, trials.config(8), base)
    assert warned == ""


def test_checkpoints_of_another_run_are_damage(trials, base, tmp_path):
    config = trials.config(6)
    config.seed = 9
    train.train(config, tmp_path / "other")
    shutil.rmtree(base / "checkpoints" / "6")
    shutil.copytree(tmp_path / "other" / "checkpoints" / "6", base / "checkpoints" / "6")
    _, _, warned = small.quietly(train.train, trials.config(8), base)
    assert "is of another run (seed differs)" in warned


def test_a_run_of_older_code_is_read_with_a_line(trials, base, capsys):
    for path in (base / "checkpoints").glob(f"*/{seal.FILE}"):
        path.unlink()
    (base / record.FILE).unlink()
    train.train(trials.config(8), base)
    said = capsys.readouterr()
    assert "checkpoints/6 has no digests (older code); none compared" in said.out
    assert said.err == ""
    about = json.loads((base / record.FILE).read_text())
    assert (about["sealed_after"], about["newest"]) == (6, 8)
    (base / "checkpoints" / "8" / seal.FILE).unlink()  # of newer code: there was one
    _, _, warned = small.quietly(train.train, trials.config(10), base)
    assert "checkpoints/8: digests.json is missing; it is kept as damaged_8" in warned


def test_checkpoints_that_are_not_there_stop_the_run(trials, base):
    shutil.move(base / "checkpoints", base / "unmounted")
    before = contents(base)
    with pytest.raises(ConfigError, match=r"checkpoints: is missing, while .* up to step 6; is it"):
        train.train(trials.config(8), base)
    assert contents(base) == before
    (base / "checkpoints").mkdir()  # a mount point
    with pytest.raises(CheckpointError, match="no checkpoint is whole .6: is missing.; nothing"):
        train.train(trials.config(8), base)
    assert train.train(trials.config(2), base, overwrite=True)["step"] == 2


@pytest.mark.parametrize("text", ["", '{"seed": 1', "[]", "null", "\0", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "dataset.json", "summary.json"])
def test_a_broken_file_of_the_workdir_is_one_line(trials, base, name, text):
    (base / name).write_text(text)
    if name == "summary.json":
        _, _, warned = small.quietly(train.train, trials.config(6), base)
        assert "summary.json: " in warned and "written anew" in warned
        return
    for action in (lambda: train.train(trials.config(8), base), lambda: trained.load(base)):
        with pytest.raises(ConfigError, match=f"{name}: .*restore it") as raised:
            action()
        assert "\n" not in str(raised.value)


def test_a_lost_dataset_json_is_made_again_of_the_same_data_alone(trials, base, tmp_path):
    (base / "dataset.json").unlink()
    _, _, warned = small.quietly(train.train, trials.config(6), base)
    assert "dataset.json: is missing; it is written again" in warned
    (base / "dataset.json").unlink()
    small.write_folder(tmp_path / "other", train=22)
    config = trials.config(8)
    config.dataset = str(tmp_path / "other")
    with pytest.raises(ConfigError, match="another fingerprint than|another run"):
        train.train(config, base)


def test_rows_that_are_lost_or_changed_are_told_of(trials, base):
    lines = (base / "metrics.jsonl").read_text().splitlines(keepends=True)
    for left, said in (
        (lines[:2] + lines[3:], "1 of 6 rows are missing, first after step 2"),
        (
            [lines[0].replace('"loss": 0', '"loss": 1'), *lines[1:]],
            "some of its first 6 rows are not what",
        ),
        ([], "6 of 6 rows are missing"),
    ):
        copy = pathlib.Path(shutil.copytree(base, base.with_name("copy")))
        (copy / "metrics.jsonl").write_text("".join(left))
        _, _, warned = small.quietly(train.train, trials.config(8), copy)
        assert said in warned
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    "line", ["[]", "null", "5", '{"step": "x"}', '{"step": 1, "split": "train"}', "{", "\ufffd"]
)
def test_a_line_that_is_no_row_is_named(trials, base, line):
    path = base / "metrics.jsonl"
    path.write_text(path.read_text().replace("\n", f"\n{line}\n", 1))
    with pytest.raises(MetricsError, match="line 2 is no"):
        train.train(trials.config(8), base)


def test_a_state_whose_evaluation_is_nan_is_moved_aside(trials, tmp_path, monkeypatch):
    from alexnet_jax.training import run

    evaluate = run.Run.evaluate

    def broken(self, state, views, *more):
        row = evaluate(self, state, views, *more)
        return row | {"loss": float("nan")} if row["step"] == 3 else row

    config = trials.config(8)
    config.eval_every_epochs = 1
    monkeypatch.setattr(run.Run, "evaluate", broken)
    with pytest.raises(NonFiniteError, match="step 3: .*; the checkpoint of step 2 is kept"):
        train.train(config, tmp_path / "w")
    names = {path.name for path in (tmp_path / "w" / "checkpoints").iterdir()}
    assert names == {"2", "damaged_3"}
    monkeypatch.undo()
    _, said, warned = small.quietly(train.train, config, tmp_path / "w")
    assert "after step 2" in said and warned == ""


@pytest.mark.parametrize(
    "name",
    some(
        ["lr=[0.1,0.01]", "back\\slash", "a*b?c", "{x}", "ünï 世界", "-dash", "x\ny", "$HOME ~"],
        *("lr=[0.1,0.01]", "ünï 世界"),
    ),
)
def test_any_name_of_a_folder_holds_a_run(trials, tmp_path, name):
    config = trials.config(2)
    train.train(config, tmp_path / name / "w")
    _, said, warned = small.quietly(train.train, trials.config(4), tmp_path / name / "w")
    assert "after step 2" in said and warned == ""
    assert trained.load(tmp_path / name / "w").step == 4
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {name}


def test_a_name_that_is_no_text(trials, tmp_path):
    path = tmp_path / "b\udcff\udc9e"
    train.train(trials.config(2), path)
    assert trained.load(path).step == 2


def test_the_list_says_what_is_whole(base, capsys):
    assert not checkpoints.listed(base, verify=True)
    said = capsys.readouterr().out
    assert said.count("whole") == 3 and "top-1 error" in said and "MiB" in said
    flip(base, 4)
    assert not checkpoints.listed(base, verify=False)
    assert capsys.readouterr().out.count("sealed") == 3
    assert checkpoints.listed(base, verify=True)
    assert "damaged: default/" in capsys.readouterr().out


def test_a_save_that_does_not_come_out_as_it_went_in_is_an_error(tmp_path, monkeypatch, trials):
    """A bad copy on the host, or on the disk: nothing gets the checkpoint's name."""
    read = Stored.read

    def other(self, folder):
        arrays = read(self, folder)
        if folder.name.startswith("4."):
            name = next(name for name in arrays if name.endswith("params.fc7.kernel"))
            arrays[name] = np.nextafter(arrays[name], np.float32(9))
        return arrays

    monkeypatch.setattr(Stored, "read", other)
    with pytest.raises(CheckpointError, match="checkpoints/4: .*params.fc7.kernel is not what the"):
        train.train(trials.config(8), tmp_path / "w")
    assert {path.name for path in (tmp_path / "w" / "checkpoints").iterdir()} == {"2"}


@pytest.mark.slow
def test_files_that_were_changed_are_read_or_refused(tmp_path):
    rng, wrong = random.Random(sys.version), []
    trial = fuzz.Fuzz(tmp_path)
    for number in range(60):
        wrong += trial.trial(rng, number % 6 == 0)[1]
    assert not wrong


def test_a_config_that_no_run_had_is_refused_by_readers(base):
    path = base / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"precision": "float32"', '"precision": "../../x"'))
    with pytest.raises(ConfigError, match=r"config.json: is not a run's config \(precision: .*x"):
        trained.load(base)
    path.write_text(text)


def test_identity_is_what_may_not_change(trials, base):
    own = run_files.read_config(base)
    before = run_files.identity(base, own)
    own.num_epochs, own.dataset, own.log_every_steps = 50, "elsewhere", 3
    assert run_files.identity(base, own) == before
    own.optimizer.momentum = 0.5
    assert run_files.identity(base, own) != before


def test_writes_that_end_after_their_save_has_failed_say_nothing(tmp_path, monkeypatch):
    """TensorStore calls back into Orbax's closed event loop; Python reports that by this hook."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable))
    for _ in range(2):
        checkpoint.Checkpoints(tmp_path, 1).__exit__()
    for text in ("Event loop is closed", "another"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(one.exc_value) for one in told] == ["another"]
