"""Pixels read straight from a store's shards, against its records."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.config import Config
from alexnet_jax.data.loader import ImageReader, Loader, evaluation_positions
from alexnet_jax.data.relabelled import labelled_as
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.store import many_reads, pixel_index, riegeli, store
from alexnet_jax.data.store.preparation import Preparation
from alexnet_jax.data.store.shard_writer import Options
from alexnet_jax.data.store.verification import check_file
from alexnet_jax.data.types import DataError

SIDE = 71  # bytes of an image are no multiple of eight


def begun(folder: pathlib.Path, images: pathlib.Path, shards: int = 0) -> Preparation:
    (folder / store.UNFINISHED).mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(Config(dataset=str(images)))
    return Preparation(dataset, folder, Options(resize=SIDE, shards=shards))


def prepared(folder: pathlib.Path, images: pathlib.Path, shards: int = 0) -> pathlib.Path:
    making = begun(folder, images, shards)
    making.write(1, lambda images: None)
    making.finish()
    shutil.rmtree(folder / store.UNFINISHED)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels")
    small.write_folder(folder / "images")
    return prepared(folder / "store", folder / "images")


@pytest.fixture
def copied(made, tmp_path):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def opened(path, split="train"):
    return open_dataset(Config(dataset=str(path), resize=SIDE)).open(split)


def read(reader, indices):
    out = np.full((len(indices), SIDE, SIDE, 3), 7, np.uint8)
    return out, *reader.read(np.array(indices), out)


@pytest.mark.parametrize("split", ["train", "val", "train[3:11]"])
def test_they_are_what_the_records_hold(made, split):
    source = opened(made, split)
    assert source.pixels() is not None
    indices = np.random.default_rng(0).permutation(len(source))
    out, label, good = read(ImageReader(source, SIDE), indices)
    assert good.all()
    for row, index in enumerate(indices):
        example = source[int(index)]
        np.testing.assert_array_equal(out[row], example.image)
        assert label[row] == example.label


def test_the_reference_reads_by_array_records_reader_alone(made, monkeypatch):
    source = opened(made)
    indices = range(len(source))
    want, *_ = read(ImageReader(source, SIDE), indices)
    monkeypatch.setattr(many_reads, "read", lambda *_: pytest.fail("io_submit was called"))
    monkeypatch.setattr(
        riegeli, "read_rows", lambda *_: pytest.fail("a file was read past its reader")
    )
    got, _, good = read(ImageReader(opened(made), SIDE, kernels="reference"), indices)
    assert good.all()
    np.testing.assert_array_equal(got, want)


def test_another_networks_labels_are_theirs_too(made):
    source = opened(made)
    other = labelled_as(source, [source.class_names[1], "nothing"])
    _, label, _ = read(ImageReader(other, SIDE), range(len(source)))
    assert label.tolist() == [other[i].label for i in range(len(source))]
    assert set(label.tolist()) == {-1, 0}


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_a_last_batch_of_few_images_is_filled_up(made, threads):
    """Some threads' parts of it hold no image at all."""
    source = opened(made, "val")
    loader = Loader(ImageReader(source, SIDE), threads, 2)
    batches = [
        {name: values.copy() for name, values in batch.items()}
        for batch in loader.batches(evaluation_positions(12, 14), range(2), slice(0, 12))
    ]
    assert [batch["mask"].sum() for batch in batches] == [12, 2]
    seen = np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])
    for index, image in enumerate(seen):
        np.testing.assert_array_equal(image, source[index].image)


def test_as_many_small_batches_are_read_ahead_as_there_are_threads(made):
    """For one thread reads a whole one, by one call."""
    kept, positions = [], evaluation_positions(1, 20)
    loader = Loader(ImageReader(opened(made), SIDE), 9, 2, keep=kept.append)
    assert len(list(loader.batches(positions, range(20), slice(0, 1)))) == 20
    assert len(kept) == 9 + 4


def first_pixel(folder):
    """Returns the first shard of `train`, and where in it the first image begins."""
    shard = min(folder.glob("*train*array_record*"))
    pixels = opened(folder)[0].image.tobytes()
    return shard, shard.read_bytes().index(pixels[:1000])


@pytest.mark.parametrize("damage", ["bit", "zeros", "cut", "gone"])
def test_a_damaged_image_is_named_or_skipped(copied, damage):
    source = opened(copied)
    shard, start = first_pixel(copied)
    stored = bytearray(shard.read_bytes())
    if damage == "bit":
        stored[start + 15_000] ^= 32
    elif damage == "zeros":
        stored[start : start + 4096] = bytes(4096)
    elif damage == "cut":
        stored = stored[: start + 8000]
    shard.write_bytes(stored)
    if damage == "gone":
        shard.unlink()
    source = source if damage in ("cut", "gone") else opened(copied)
    with pytest.raises(DataError, match=re.escape(f"{shard}[0]")):
        read(ImageReader(source, SIDE), [0])
    reader = ImageReader(source, SIDE, on_bad_image="skip")
    out, label, good = read(reader, [0])
    assert (out.any(), label[0], good[0]) == (False, 0, False)
    assert f"{shard}[0]" in reader.bad_images[0]


def without_indices(folder: pathlib.Path) -> None:
    """Turns a store into one from before there were indices."""
    file = folder / store.MANIFEST
    manifest = json.loads(file.read_text())
    for path in folder.glob("*.pixels-*"):
        path.unlink()
        del manifest["files"][path.name]
    file.write_text(json.dumps(store.sealed(manifest)))


def test_a_store_without_indices_is_read_by_its_records(made, copied):
    without_indices(copied)
    assert opened(copied).pixels() is None
    for got, wanted in zip(
        read(ImageReader(opened(copied), SIDE), range(20)),
        read(ImageReader(opened(made), SIDE), range(20)),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


def test_an_index_that_is_lost_or_another_shards_is_named(copied):
    index = min(copied.glob("*train.pixels-*"))
    with pytest.raises(DataError, match=re.escape(f"{index}: is not the index of 19 images")):
        pixel_index.load(index, 19)
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(DataError, match=re.escape(f"{index}: cannot be read")):
        pixel_index.load(index, 20)
    index.unlink()
    with pytest.raises(DataError, match=re.escape(f"{index}: is missing")):
        opened(copied)


def test_verifying_finds_an_index_that_points_elsewhere(copied):
    names = opened(copied).class_names
    index = min(copied.glob("*train.pixels-*"))
    entries = np.load(index)
    entries["label"][3] += 1
    entries["position"][5] += 8
    np.save(index, entries)
    manifest = store.read_manifest(copied)
    shard = min(copied.glob("*train*array_record*"))
    problems = check_file(copied, shard.name, manifest, names)
    assert [line.partition(": ")[0] for line in problems] == [f"{shard}[3]", f"{shard}[5]"]
    assert check_file(copied, shard.name, manifest, names, stop=lambda: True) == []  # after Ctrl-C


def test_what_was_begun_without_indices_goes_on_and_counts_once(made, tmp_path):
    images, out = made.parent / "images", tmp_path / "begun"
    making = begun(out, images, shards=3)
    making.write(1, lambda images: None)
    first = min(name for name in making._about if "train.pixels-" in name)
    del making._about[first]
    (out / first).unlink()
    making._save()
    again = begun(out, images, shards=3)
    assert again.total - again.done == 6  # of one shard, whose images would else weigh twice
    again.write(1, lambda images: None)
    again.finish()
    for path in prepared(tmp_path / "whole", images, shards=3).iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_lost_shard_made_again_from_other_images_is_refused(tmp_path):
    small.write_folder(tmp_path / "images")
    out = tmp_path / "store"
    begun(out, tmp_path / "images").write(1, lambda images: None)
    shard = min(out.glob("*train*array_record*"))
    shard.unlink()
    image = min((tmp_path / "images").glob("train/*/*"))
    image.write_bytes(max((tmp_path / "images").glob("train/*/*")).read_bytes())
    with pytest.raises(DataError, match=re.escape(f"{shard}: was written before from other")):
        begun(out, tmp_path / "images").write(1, lambda images: None)


@settings(deadline=None)
@given(
    size=st.integers(1, 70), bits=st.sets(st.integers(0, 7), min_size=1), place=st.integers(0, 69)
)
def test_the_sum_of_an_image_tells_of_a_byte_that_changed(size, bits, place):
    rows = np.random.default_rng(size).integers(0, 256, (3, size), dtype=np.uint8)
    before = pixel_index.sums_of(rows)
    wanted = [
        int.from_bytes(row[i : i + 8].tobytes(), "little") if i + 8 <= size else row[i:].sum()
        for row in rows
        for i in range(0, size, 8)
    ]
    parts = np.array(wanted, np.uint64).reshape(3, -1)
    np.testing.assert_array_equal(before, parts.sum(1, dtype=np.uint64))
    rows[1, place % size] ^= sum(1 << bit for bit in bits)
    assert (pixel_index.sums_of(rows) != before).tolist() == [False, True, False]
