"""Hugging Face's parquet shards against the same photographs in folders of their classes."""

import json
import pickle

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet_jax.config import Config
from alexnet_jax.data import parquet_images
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import DataError

CLASSES = ("n01440764", "n01443537", "n01484850")
WORDS = ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark"]


def shard(path, rows, words=WORDS, group=4):
    """Writes a shard as the `datasets` package does."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {
        "image": {"_type": "Image"},
        "label": {"names": words, "_type": "ClassLabel"},
    }
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata=about)
    images = [{"bytes": data, "path": name} for data, name, _ in rows]
    table = pa.table({"image": images, "label": [label for *_, label in rows]}, schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


@pytest.fixture
def both(tmp_path):
    """Shards with the card that lies beside them, and plain folders."""
    parquet, plain, rng = tmp_path / "imagenet-1k", tmp_path / "plain", np.random.default_rng(0)
    for split, count, shards in (("train", 21, 2), ("validation", 9, 1), ("test", 4, 1)):
        rows = []
        for i in range(count):
            label = int(rng.integers(3)) if split != "test" else -1
            data = cv2.imencode(".jpg", rng.integers(0, 256, (20, 24, 3), np.uint8))[1].tobytes()
            start = f"{CLASSES[label]}_{i}" if split == "train" else f"ILSVRC2012_{split}_{i:08}"
            own = f"_{CLASSES[label]}" if split != "test" else ""
            name = f"{start}{own}.JPEG"
            rows.append((data, name, label))
            where = plain / split / (CLASSES[label] if label >= 0 else "") / name
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_bytes(data)
        for n in range(shards):
            own = rows[n * count // shards : (n + 1) * count // shards]
            shard(parquet / "data" / f"{split}-{n:05}-of-{shards:05}.parquet", own)
    (parquet / "README.md").write_text("---\ndataset_info:\n---\n")
    (parquet / "classes.py").write_text("IMAGENET2012_CLASSES = {}")
    return parquet, plain


@pytest.mark.parametrize("inner", ["", "data"])
def test_every_record_is_the_folder_s(both, inner):
    parquet, plain = both
    found, wanted = (open_dataset(Config(dataset=str(p))) for p in (parquet / inner, plain))
    assert isinstance(found, parquet_images.ParquetImages)
    assert found.sizes == wanted.sizes == {"train": 21, "validation": 9, "test": 4}
    assert found.class_names == wanted.class_names == list(CLASSES)
    for split in found.sizes:
        own, theirs = found.open(split), wanted.open(split)
        assert sorted(own, key=lambda e: e.name) == sorted(theirs, key=lambda e: e.name)
        for index in (len(own) - 1, 0, len(own) // 2):  # in any order
            assert own[index].name == list(own)[index].name
    source = found.open("train")
    assert source.where(20).endswith(".JPEG") and "train-00001-of-00002.parquet/" in source.where(
        20
    )
    again = pickle.loads(pickle.dumps(source))  # as a worker gets it
    assert list(again) == list(source)
    assert "groups of up to 4 images" in found.notes[0]


def test_other_data_sets_have_the_names_that_they_say(tmp_path):
    data = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    rows = [(data, None, 0), (data, "b.png", 1), (data, "c.png", 1)]
    shard(tmp_path / "train-00000-of-00001.parquet", rows, ["cat", "dog"])
    found = open_dataset(Config(dataset=str(tmp_path)))
    assert found.class_names == ["cat", "dog"]
    assert [e.name for e in found.open("train")] == [
        "cat/train-00000-of-00001-0",
        *("dog/b.png", "dog/c.png"),
    ]


def test_what_is_missing_or_damaged_is_named(both, tmp_path):
    parquet, _ = both
    first = parquet / "data" / "train-00000-of-00002.parquet"
    whole = first.read_bytes()
    first.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"train-00000-of-00002.parquet: is not a shard of"):
        open_dataset(Config(dataset=str(parquet)))
    first.write_bytes(whole)
    source = open_dataset(Config(dataset=str(parquet))).open("train")
    first.write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    with pytest.raises(DataError, match=r"train-00000-of-00002.parquet: group 0 is damaged"):
        source[0]
    first.unlink()
    with pytest.raises(DataError, match=r"data: has 1 of the 2 shards of train; fetch the others"):
        open_dataset(Config(dataset=str(parquet)))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"is not a shard of `image` .* and `label`"):
        open_dataset(Config(dataset=str(tmp_path)))
    shard(tmp_path / "train-00000-of-00001.parquet", [(None, "a.png", 0)], ["cat"])
    with pytest.raises(DataError, match=r"parquet/a.png: has no bytes"):
        open_dataset(Config(dataset=str(tmp_path))).open("train")[0]
