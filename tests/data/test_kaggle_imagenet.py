"""Kaggle's layout of ILSVRC against the same photographs in folders of their classes."""

import cv2
import numpy as np
import pytest

from alexnet_jax.config import Config
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import DataError

CLASSES = ("n01440764", "n02085620", "n03028079")


@pytest.fixture
def both(tmp_path):
    """The unpacked layout with its other files, and plain folders."""
    kaggle, plain = tmp_path / "kaggle", tmp_path / "plain"
    images = kaggle / "ILSVRC" / "Data" / "CLS-LOC"
    rng, rows, number = np.random.default_rng(0), ["ImageId,PredictionString"], 0
    for split, each in (("train", 4), ("val", 3), ("test", 2)):
        for name in CLASSES:
            for i in range(each):
                number += 1
                image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                data = cv2.imencode(".jpg", image)[1].tobytes()
                file = f"ILSVRC2012_{split}_{number:08}.JPEG"
                if split == "train":
                    file = f"{name}_{i}.JPEG"
                own = images / split / (f"{name}/{file}" if split == "train" else file)
                where = plain / split / (file if split == "test" else f"{name}/{file}")
                for path in (own, where):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                if split == "val":
                    rows.append(f"{file[:-5]},{name} 85 1 499 272 {name} 131 0 499 254 ")
    (kaggle / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    (kaggle / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    (kaggle / "LOC_train_solution.csv").write_text("ImageId,PredictionString\n")
    (kaggle / "ILSVRC" / "Annotations" / "CLS-LOC" / "val").mkdir(parents=True)
    (kaggle / "ILSVRC" / "ImageSets" / "CLS-LOC").mkdir(parents=True)
    (kaggle / "ILSVRC" / "ImageSets" / "CLS-LOC" / "val.txt").write_text("x 1\n")
    return kaggle, plain


@pytest.mark.parametrize("inner", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_it_is_the_folder_s_data_set_record_by_record(both, inner):
    kaggle, plain = both
    found, wanted = (open_dataset(Config(dataset=str(p))) for p in (kaggle / inner, plain))
    assert found.sizes == wanted.sizes == {"train": 12, "val": 9, "test": 6}
    assert found.class_names == wanted.class_names == list(CLASSES)
    for split in found.sizes:
        assert list(found.open(split)) == list(wanted.open(split))
    assert found.digest() == wanted.digest() and found.fingerprint() == wanted.fingerprint()
    assert found.open("val").where(0).startswith(str(kaggle / "ILSVRC/Data/CLS-LOC/val/ILSVRC"))
    assert found.eval_split() == "val"


def test_without_a_solution_it_says_what_is_missing(both):
    kaggle, _ = both
    solution = kaggle / "LOC_val_solution.csv"
    text = solution.read_text()
    for changed, wanted in {
        "": "does not say the validation images' classes",
        "a,b\nc,d\n": "does not say the validation images' classes .KeyError: 'ImageId'",
        text.replace("n02085620", "dog"): "'dog' is no number of a WordNet synset",
        text.replace("n02085620", "n09999999"): "class n09999999 is not among those of train",
    }.items():
        solution.write_text(changed)
        with pytest.raises(DataError, match=wanted if changed else "has no row for ILSVRC2012_val"):
            open_dataset(Config(dataset=str(kaggle)))
    solution.unlink()
    with pytest.raises(DataError, match=r"LOC_val_solution.csv: does not .* get it from the comp"):
        open_dataset(Config(dataset=str(kaggle)))


def test_where_somebody_sorted_the_validation_images_it_is_a_folder(both):
    """Also in a folder with the name of one of the layout's own."""
    kaggle, plain = both
    renamed = kaggle.rename(kaggle.parent / "ILSVRC")
    found = open_dataset(Config(dataset=str(renamed)))
    assert found.sizes == {"train": 12, "val": 9, "test": 6}
    images = renamed / "ILSVRC" / "Data" / "CLS-LOC"
    for path in (plain / "val").rglob("*.JPEG"):
        where = images / "val" / path.parent.name / path.name
        where.parent.mkdir(exist_ok=True)
        (images / "val" / path.name).rename(where)
    wanted = open_dataset(Config(dataset=str(plain)))
    found = open_dataset(Config(dataset=str(images)))
    assert found.sizes == wanted.sizes and found.digest() == wanted.digest()
