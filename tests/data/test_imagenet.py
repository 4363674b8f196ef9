"""ILSVRC 2012 from archives with its names and layout, scaled down, without TensorFlow."""

import pickle
import tarfile

import numpy as np
import pytest
from imagenet_archives import CMYK, PNG, add, photograph, write_archives

from alexnet_jax.config import Config
from alexnet_jax.data.imagenet import ARCHIVES, ImagenetArchives
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.store import store
from alexnet_jax.data.types import DataError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    write_archives(path / "downloads" / "manual")
    return path


def test_every_image_is_read_with_its_label(data_dir, shared_data):
    data = open_dataset(Config(dataset="imagenet2012", data_dir=str(data_dir)))
    assert data.sizes == {"train": 1023, "validation": 30, "test": 20}
    assert len(data.class_names) == 1000
    train = data.open("train")
    reader, image = ImageReader(train, 64), np.empty((1, 64, 64, 3), np.uint8)
    odd = {f"{name}.JPEG" for name in (PNG, *CMYK)}
    for i in range(len(train)):
        name = reader.name(i)
        if name in odd or i % 50 == 0:
            label, good = reader.read(np.array([i]), image)
            assert good[0]
            assert data.class_names[label[0]] == name.partition("_")[0]
            assert image.std() > 5
            odd.discard(name)
    assert not odd
    first = {data.open("train[:100]")[i].label for i in range(100)}
    assert len(first) > 80  # classes are mixed
    wanted = (shared_data / "oracles" / "ilsvrc2012_val_labels.txt").read_text().split()
    validation = data.open("validation")
    numbers = [int(wanted[1::2][i]) for i in range(30)]
    assert [validation[i].label for i in range(30)] == numbers
    assert validation[0].name == "ILSVRC2012_val_00000001.JPEG"
    test = data.open("test")
    assert [test[i].label for i in range(20)] == [-1] * 20
    assert test[19].name == "ILSVRC2012_test_00000020.JPEG"


def test_looking_through_the_archives_is_shown_where_it_is_to_be(data_dir, capsys):
    config = Config(dataset="imagenet2012", data_dir=str(data_dir))
    open_dataset(config)
    assert capsys.readouterr().out == ""
    open_dataset(config, silent=False)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in said] == list(ARCHIVES.values())
    size = (data_dir / "downloads" / "manual" / ARCHIVES["train"]).stat().st_size // 10**6
    assert said[0].endswith(f"looking through {size} MB")


def test_a_worker_s_copy_of_a_split_is_the_same(data_dir):
    whole = open_dataset(Config(dataset="imagenet2012", data_dir=str(data_dir))).open("train")
    copy = pickle.loads(pickle.dumps(whole))
    assert [copy.where(i) for i in range(1023)] == [whole.where(i) for i in range(1023)]
    assert [copy[i] for i in (0, 511, 1022)] == [whole[i] for i in (0, 511, 1022)]


def test_a_store_beside_the_archives_does_not_hide_them(data_dir, tmp_path):
    """A store may have the data set's name, finished or not; what TFDS prepared stays TFDS's."""
    (tmp_path / "downloads").symlink_to(data_dir / "downloads")
    (tmp_path / "imagenet2012" / store.UNFINISHED).mkdir(parents=True)
    config = Config(dataset="imagenet2012", data_dir=str(tmp_path))
    assert isinstance(open_dataset(config), ImagenetArchives)
    (tmp_path / "imagenet2012" / store.UNFINISHED).rmdir()
    with pytest.raises(DataError, match="TFDS"):
        open_dataset(config)


def test_missing_and_wrong_archives_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none of ILSVRC2012_img_train.tar, .* is in .*manual"):
        open_dataset(Config(dataset="imagenet2012", data_dir=str(tmp_path)))
    train = tmp_path / "ILSVRC2012_img_train.tar"
    train.write_bytes(b"this is no archive" * 100)
    with pytest.raises(DataError, match=r"img_train.tar: is not a whole tar archive"):
        ImagenetArchives(tmp_path)
    with tarfile.open(train, "w") as archive:
        add(archive, "holiday.tar", b"")
    with pytest.raises(DataError, match=r"holiday.tar is not the archive of an ImageNet class"):
        ImagenetArchives(tmp_path)
    train.unlink()
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as archive:
        add(archive, "holiday.JPEG", photograph(1))
    with pytest.raises(DataError, match=r"holiday.JPEG is not an ImageNet validation image"):
        ImagenetArchives(tmp_path)


def test_a_damaged_header_is_not_the_end(tmp_path):
    """`tarfile` stops there silently, and everything behind it would be missing."""
    write_archives(tmp_path / "whole")
    for file in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        data = bytearray((tmp_path / "whole" / file).read_bytes())
        with tarfile.open(tmp_path / "whole" / file) as archive:
            middle = archive.getmembers()[10].offset
        data[middle + 150] ^= 1  # in the header's checksum
        folder = tmp_path / file[:-4]
        folder.mkdir()
        (folder / file).write_bytes(data)
        with pytest.raises(DataError, match=rf"{file}: is not a whole tar archive .*{middle:,}"):
            ImagenetArchives(folder)


def test_an_archive_cut_short_is_named(tmp_path):
    write_archives(tmp_path / "whole")
    for file in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        data = (tmp_path / "whole" / file).read_bytes()
        folder = tmp_path / file[:-4]
        folder.mkdir()
        (folder / file).write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(DataError, match=rf"{file}: is not a whole tar archive|damaged"):
            ImagenetArchives(folder)
