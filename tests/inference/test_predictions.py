"""python -m alexnet_jax.evaluate: each image of a split, by a trained network."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import commands
import jax
import numpy as np
import pytest
import small

from alexnet_jax import inference
from alexnet_jax.config import ConfigError
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import DataError
from alexnet_jax.data.words import read_names
from alexnet_jax.inference import predictions, trained
from alexnet_jax.inference.predictions import Predictions, predict_split


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


def evaluate(run, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "alexnet_jax.evaluate", f"--workdir={run / 'w'}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_the_command_agrees_with_the_run_and_with_single_images(run):
    root, summary = run, json.loads((run / "w" / "summary.json").read_text())
    path = root / "out" / "val.csv"
    done = evaluate(run, "--views=1", "--checkpoint=latest", f"--predictions={path}")
    assert done.returncode == 0, done.stderr
    assert f"top-1 error {100 * summary['top1_error']:.2f} %" in done.stdout
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 14
    config = small.config(root / "set")
    reader = ImageReader(open_dataset(config).open("val"), 71)
    network = inference.load(root / "w", "latest")
    image = np.empty((14, 71, 71, 3), np.uint8)
    label, _ = reader.read(np.arange(14), image)
    for i, row in enumerate(rows):
        assert row["image"] == reader.name(i)
        assert row["label"] == ("dark", "light")[label[i]]
        p = network.predict(image[i], views=1)[0].probabilities
        assert row["class_1"] == ("dark", "light")[p.argmax()]
        assert float(row["probability_1"]) == pytest.approx(p.max(), rel=1e-4)
    table = list(
        csv.DictReader(
            (root / "w" / "plots" / "class_errors_val_1_view.csv").read_text().splitlines()
        )
    )
    assert [row["class"] for row in table] == ["dark", "light"]
    assert sum(int(row["images"]) for row in table) == 14
    assert (root / "w" / "plots" / "confusions_val_1_view.png").stat().st_size > 5_000


def test_what_several_networks_say_is_kept_beside_what_one_says(run):
    """The same network twice: the same errors, in files of their own."""
    one, two = evaluate(run, "--views=1"), evaluate(run, "--views=1", f"--workdir={run / 'w'}")
    assert "2 networks averaged" in two.stdout
    assert one.stdout.split(" over ")[0] == two.stdout.split(" over ")[0]
    plots = run / "w" / "plots"
    both = plots / "class_errors_val_by_2_networks_1_view.csv"
    assert both.read_text() == (plots / "class_errors_val_1_view.csv").read_text()
    assert (plots / "confusions_val_by_2_networks_1_view.png").is_file()


def test_slices_lines_of_json_and_ten_views(run):
    path = run / "part.jsonl"
    done = evaluate(run, "--split=train[5:12]", f"--predictions={path}")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 7
    assert rows[0]["probability_1"] + rows[0]["probability_2"] == pytest.approx(1, abs=1e-5)
    assert (run / "w" / "plots" / "class_errors_train_5to12.csv").is_file()  # of ten views


def test_another_data_set_s_classes_are_known_by_their_names(run, tmp_path):
    """The same photographs with folders in another order, and one that the network has not."""
    val = tmp_path / "other" / "val"
    for name, own in (("a_third", "light"), ("dark", "dark"), ("light", "light")):
        shutil.copytree(run / "set" / "val" / own, val / name)
    wanted = evaluate(run, "--views=1").stdout.split(" over ")[0]
    done = evaluate(run, "--views=1", f"--dataset={val.parent}")
    assert "1 of 3 classes are not the network's (such as a_third)" in done.stdout, done.stderr
    assert f"{wanted} over 14 images" in done.stdout
    assert (
        run / "w" / "plots" / "class_errors_val_of_other_1_view.csv"
    ).is_file()  # beside its own


def test_mistakes_are_one_line(run):
    wrong = {
        "did you mean val": "--split=vla",
        "checkpoint: 99 is not best, latest or one of": "--checkpoint=99",
        "No such file": "--label_order=nowhere.txt",
        "there is no folder": "--dataset=./nowhere",
        "unexpected argument val": "val",
        "a.TXT must end in .csv, .jsonl or .txt": "--predictions=a.TXT",
        "w.csv is a folder; name a file": "--predictions=w.csv",
        "binary is not text": "--label_order=binary",
    }
    (run / "w.csv").mkdir()
    (run / "binary").write_bytes(b"\xff\xfe\x00")
    runs = [["--workdir=w", argument] for argument in wrong.values()]
    said = commands.endings("evaluate", run, *runs)
    for message, line in zip(wrong, said, strict=True):
        assert message in line


def test_a_submission_from_a_store_that_left_images_out_is_refused(run, tmp_path):
    shutil.copytree(run / "set", tmp_path / "set")
    sorted((tmp_path / "set" / "val").glob("*/*"))[0].write_bytes(b"")
    options = [f"--dataset={tmp_path / 'set'}", f"--out={tmp_path / 'store'}", "--resize=71"]
    prepare = [sys.executable, "-m", "alexnet_jax.prepare", *options, "--on_bad_image=skip"]
    subprocess.run(prepare, check=True, capture_output=True)
    store = f"--dataset={tmp_path / 'store'}"
    [said] = commands.endings(
        "evaluate", run, ["--workdir=w", store, f"--predictions={tmp_path / 'a.txt'}"]
    )
    assert "1 images of val were left out when" in said
    assert not (tmp_path / "a.txt").exists()


def made(labels: list[int], classes: list[list[int]]) -> Predictions:
    count = len(labels)
    return Predictions(
        np.array(labels),
        np.ones(count, bool),
        np.array(classes),
        np.full((count, 5), 0.2, np.float32),
        [f"image{i}" for i in range(count)],
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_names_that_are_no_text_are_kept(kind, tmp_path):
    """As file systems have them; CSV gets their bytes, and JSON stays JSON."""
    found = made([0], [[0, 1, 2, 3, 4]])
    found.names[0] = name = b"caf\xe9.png".decode(errors="surrogateescape")
    network = trained.TrainedNetwork.__new__(trained.TrainedNetwork)
    object.__setattr__(network, "class_names", ["ant", "bee", "cat", "dog", "elk"])
    predictions.write_predictions(path := tmp_path / f"a.{kind}", found, network)
    if kind == "csv":
        assert path.read_bytes().splitlines()[1].startswith(b"caf\xe9.png,ant,ant,bee")
    else:
        assert json.loads(path.read_bytes().decode("ascii"))["image"] == name


def test_names_that_are_no_text_are_printed_as_escapes():
    program = "from alexnet_jax import cli; cli.print_any_name(); print('caf\\udce9')"
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, env=strict)
    assert said.stdout == b"caf\\udce9\n", said.stderr


def test_a_submission_has_five_labels_a_line_in_the_judges_order(tmp_path):
    found = made([-1, -1], [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    names = ["ant", "sea bee", "cat", "dog", "elk"]
    path = tmp_path / "submission.txt"

    def written(numbers: list[int]) -> str:
        predictions.write_submission(path, found, numbers)
        return path.read_text()

    assert written(predictions.label_numbers(names, 7, None)) == "1 2 3 4 5\n5 4 3 2 1\n"
    order = ["elk", "ant", "sea bee", "cat", "dog", "fox"]
    numbers = predictions.label_numbers(names, 5, order)
    assert written(numbers) == "2 3 4 5 1\n1 5 4 3 2\n"
    with pytest.raises(ConfigError, match=r"label_order: does not name elk \(1 are missing\)"):
        predictions.label_numbers(names, 5, names[:4])
    with pytest.raises(ConfigError, match=r"does not name class 5 \(1 are missing\)"):
        predictions.label_numbers(names, 6, names)
    unreadable = dataclasses.replace(found, readable=np.array([True, False]))
    with pytest.raises(ConfigError, match=r"image1 cannot be read; every image needs a line"):
        predictions.write_submission(path, unreadable, numbers)


def test_errors_by_class_name_the_worst_confusion(run):
    network = trained.load(run / "w")
    found = made(
        [0, 0, 0, 0, 1, -1],
        [[0, 1, 2, 3, 4]] * 2 + [[1, 0, 2, 3, 4]] + [[1, 2, 3, 4, 5]] + [[1, 0, 2, 3, 4]] * 2,
    )
    dark, light = predictions.class_errors(found, network)
    assert dark == {
        "class": "dark",
        "images": 4,
        "top1_error": 0.5,
        "top5_error": 0.25,
        "taken_for": "light",
        "times": 2,
    }
    assert (light["images"], light["top1_error"], light["times"]) == (1, 0.0, 0)


def test_a_split_without_labels_is_submitted_not_scored(run, monkeypatch):
    """As ImageNet's test split is: labels of -1."""
    from alexnet_jax.data.folder import _Files

    read = _Files.__getitem__
    monkeypatch.setattr(_Files, "__getitem__", lambda self, i: read(self, i)._replace(label=-1))
    network = trained.load(run / "w")
    found = predictions.predict_split([network], "val", 1, progress=False)
    assert not found.counted.any()
    assert found.classes.shape == (14, 2)


def test_networks_are_averaged(run):
    """Table 2: the mean of the networks' answers; the second is the first with other weights."""
    first = trained.load(run / "w", which="latest")
    other = dataclasses.replace(first, params=jax.tree.map(lambda p: 1.5 * p, first.params))

    def said(*networks):
        found = predictions.predict_split(networks, "val", 1, progress=False)
        by_class = np.zeros((len(found.names), 2))
        np.put_along_axis(by_class, found.classes, found.probabilities, axis=1)
        return by_class

    apart = np.abs(said(first) - said(other)).max()
    assert apart > 1e-3
    np.testing.assert_allclose(
        said(first, other), (said(first) + said(other)) / 2, atol=1e-3 * apart
    )


def test_networks_that_see_other_images_are_not_averaged(run):
    first = trained.load(run / "w", which="latest")
    config = dataclasses.replace(first.config, resize=80)
    other = dataclasses.replace(first, setup=dataclasses.replace(first.setup, config=config))
    with pytest.raises(ConfigError, match=r"--workdir: b has another resize than a"):
        predictions.refuse_unlike([pathlib.Path("a"), pathlib.Path("b")], [first, other])
    predictions.refuse_unlike([pathlib.Path("a"), pathlib.Path("b")], [first, first])


def test_labels_that_nobody_maps_are_refused(trained_run, tmp_path):
    """An imported network without names, on a data set of another number of classes."""
    network = dataclasses.replace(trained.load(trained_run / "w"), class_names=[])
    shutil.copytree(trained_run / "set", tmp_path / "set")
    shutil.copytree(tmp_path / "set" / "val" / "dark", tmp_path / "set" / "val" / "third")
    network.config.dataset = str(tmp_path / "set")
    with pytest.raises(ConfigError, match="has 3 classes, but the network has 2, without .*FILE"):
        predict_split([network], "val", 1)
    named = dataclasses.replace(network, class_names=["dark", "light"])
    found = predict_split([named], "val", 1)
    assert set(found.labels.tolist()) == {-1, 0, 1}


def test_names_of_classes_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("king penguin\ncrane\n\n")
    assert read_names(path, 2) == ["king penguin", "crane"]
    for text, said in (
        ("a\nb\nc", "3 names; the network has 2"),
        ("a\na", "'a' twice"),
        ("", "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_names(path, 2)
    with pytest.raises(DataError, match="cannot be read"):
        read_names(tmp_path / "nowhere", 2)
