"""Names packed into two pieces of memory, and folders whose files have such names."""

import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_jax.data.folder import UNLABELLED, Folder
from alexnet_jax.data.names import Names
from alexnet_jax.data.types import DataError

# Names as a disk may have them: any bytes.
ON_DISK = st.binary(max_size=20).map(lambda name: name.decode(errors="surrogateescape"))


@given(st.lists(ON_DISK, max_size=30))
def test_names_are_given_back(names):
    for packed in (Names(names), pickle.loads(pickle.dumps(Names(names)))):
        assert len(packed) == len(names)
        assert list(packed) == names
    with pytest.raises(IndexError):
        Names(names)[len(names)]


@pytest.fixture
def folder(tmp_path):
    """Two classes, one of them in one split alone, and test images without classes."""
    for name in ("train/a/1.jpg", "train/a/2.JPEG", "train/b/1.png", "val/b/9.webp", "test/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for other in ("train/a/notes.txt", "train/a/.hidden.jpg", "train/.cache/1.jpg", "test/_.md"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).touch()
    (tmp_path / "train" / "a" / "album.jpg").mkdir()
    return tmp_path


def test_a_folder_s_files_are_in_the_order_of_their_names_hashes(folder):
    data = Folder(folder)
    assert (data.class_names, data.sizes) == (["a", "b"], {"train": 3, "val": 1, "test": 1})
    wanted = sorted(
        ["a/1.jpg", "a/2.JPEG", "b/1.png"], key=lambda n: hashlib.sha256(n.encode()).hexdigest()
    )
    train = data.open("train")
    for split in (train, pickle.loads(pickle.dumps(train))):
        got = [split[i] for i in range(3)]
        assert [one.name for one in got] == wanted
        assert [one.image for one in got] == [f"train/{name}".encode() for name in wanted]
        assert [one.label for one in got] == [int(name[0] == "b") for name in wanted]
        assert split.where(1) == str(folder / "train" / wanted[1])
    test = data.open("test")
    assert test[0] == (b"test/x.jpg", UNLABELLED, "x.jpg")
    said = ["a", "b", "test 1", "train 3", "val 1", "test test/x.jpg"]
    assert list(data.contents()) == [*said, *(f"train {name}" for name in wanted), "val b/9.webp"]


def test_a_file_that_went_is_named(folder):
    train = Folder(folder).open("train")
    (folder / "train" / "a" / "1.jpg").unlink()
    at = [train.where(i) for i in range(3)].index(str(folder / "train" / "a" / "1.jpg"))
    with pytest.raises(DataError, match=r"a/1\.jpg: .*No such file"):
        train[at]
