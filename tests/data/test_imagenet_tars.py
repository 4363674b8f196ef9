"""imagenet-1k's tars, the class in a file's name, against the same photographs in folders."""

import gzip
import io
import tarfile

import cv2
import numpy as np
import pytest

from alexnet_jax.config import Config
from alexnet_jax.data import imagenet_tars
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import DataError

CLASSES = ("n01440764", "n01443537", "n01484850")


def add(archive, name, data=b"", kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def both(tmp_path):
    """The archives with what lies beside them, and plain folders."""
    tars, plain, rng = tmp_path / "imagenet-1k", tmp_path / "plain", np.random.default_rng(0)
    (tars / "data").mkdir(parents=True)
    (tars / "README.md").write_text("---\ndataset_info:\n---\n")
    (tars / "imagenet-1k.py").write_text("raise SystemExit")
    for split, file, count, parts in (("train", "train", 21, 3), ("validation", "val", 9, 1)):
        for part in range(parts):
            number = f"_{part}" if parts > 1 else ""
            with tarfile.open(tars / "data" / f"{file}_images{number}.tar", "w") as archive:
                if part == 1:  # as `tar cf X .` packs them
                    add(archive, "./", kind=tarfile.DIRTYPE)
                for i in range(part, count, parts):
                    own = CLASSES[int(rng.integers(3))]
                    prefix = own if split == "train" else "ILSVRC2012_val"
                    name = f"{prefix}_{i:08}_{own}.JPEG"
                    image = rng.integers(0, 256, (20, 24, 3), np.uint8)
                    data = cv2.imencode(".jpg", image)[1].tobytes()
                    add(archive, f"./{name}" if part == 1 else name, data)
                    where = plain / split / own / name
                    where.parent.mkdir(parents=True, exist_ok=True)
                    where.write_bytes(data)
    with tarfile.open(tars / "data" / "test_images.tar", "w") as archive:
        (plain / "test").mkdir()
        for i in (3, 1, 2):
            data = cv2.imencode(".jpg", rng.integers(0, 256, (20, 24, 3), np.uint8))[1].tobytes()
            add(archive, f"ILSVRC2012_test_{i:08}.JPEG", data)
            (plain / "test" / f"ILSVRC2012_test_{i:08}.JPEG").write_bytes(data)
    return tars, plain


@pytest.mark.parametrize("inner", ["", "data"])
def test_every_record_is_the_folder_s(both, inner):
    tars, plain = both
    found = open_dataset(Config(dataset=str(tars / inner)))
    wanted = open_dataset(Config(dataset=str(plain)))
    assert isinstance(found, imagenet_tars.ImagenetTars)
    assert found.sizes == wanted.sizes == {"train": 21, "validation": 9, "test": 3}
    assert found.class_names == wanted.class_names == list(CLASSES)
    for split in found.sizes:
        assert list(found.open(split)) == list(wanted.open(split))
    assert found.fingerprint() == wanted.fingerprint()
    assert ".tar/" in found.open("validation").where(0)


def test_what_is_missing_or_other_is_named(both):
    tars, _ = both
    data = tars / "data"
    config = Config(dataset=str(tars))
    middle, kept = data / "train_images_1.tar", tars / "kept"
    middle.rename(kept)
    with pytest.raises(DataError, match=r"train_images_1.tar is missing; fetch it"):
        open_dataset(config)
    (data / "train_images_1.tar.gz").write_bytes(gzip.compress(kept.read_bytes()))
    with pytest.raises(DataError, match=r"_1.tar.gz: is compressed, .* gunzip -k train_images_1"):
        open_dataset(config)
    middle.write_bytes(kept.read_bytes())  # what gunzip -k leaves: both
    assert open_dataset(config).sizes["train"] == 21
    (data / "train_images_1.tar.gz").unlink()
    middle.write_bytes(kept.read_bytes()[:-10_000])
    with pytest.raises(DataError, match=r"train_images_1.tar: is not a whole tar archive"):
        open_dataset(config)
    with tarfile.open(middle, "w") as archive:
        add(archive, "photograph.JPEG", b"x")
    with pytest.raises(DataError, match=r"photograph.JPEG has no class in its name"):
        open_dataset(config)
    kept.replace(middle)
    with tarfile.open(data / "val_images.tar", "w") as archive:
        add(archive, "ILSVRC2012_val_00000001_n09999999.JPEG", b"x")
    with pytest.raises(DataError, match=r"val_images.tar: class n09999999 is not among those of t"):
        open_dataset(config)
