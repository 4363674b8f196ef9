"""Archives of classes, read as they are, against the same photographs in folders."""

import io
import pickle
import resource
import tarfile

import cv2
import numpy as np
import pytest

from alexnet_jax.config import Config
from alexnet_jax.data import synset_tars
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.store import preparation, shard_writer, store
from alexnet_jax.data.types import DataError

CLASSES = {"n00004475": 3, "n00005787": 5, "n00006024": 0, "n00015388": 7}


def add(archive, name, data=b"", kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def both(tmp_path):
    """The archives, with other files in and beside them, and plain folders."""
    tars, plain, rng = tmp_path / "fall", tmp_path / "plain", np.random.default_rng(0)
    tars.mkdir()
    for name, count in CLASSES.items():
        with tarfile.open(tars / f"{name}.tar", "w") as archive:
            for i in range(count):
                image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                data = cv2.imencode(".jpg", image)[1].tobytes()
                add(archive, f"{name}_{i}.JPEG", data)
                where = plain / "train" / name / f"{name}_{i}.JPEG"
                where.parent.mkdir(parents=True, exist_ok=True)
                where.write_bytes(data)
            if name == "n00005787":  # as other programs pack them
                add(archive, "deeper", kind=tarfile.DIRTYPE)
                add(archive, "deeper/._n00005787_9.JPEG", b"of a Mac")
                add(archive, "words.txt", b"benthos")
    (tars / "fall11_urls.txt").write_text("beside them")
    (tars / ".DS_Store").write_text("")
    return tars, plain


def test_the_store_of_it_is_the_folder_s(both, tmp_path):
    for path, name in zip(both, ("tars", "folder"), strict=True):
        out = tmp_path / name
        (out / store.UNFINISHED).mkdir(parents=True)
        options = shard_writer.Options(resize=16, shards=2)
        making = preparation.Preparation(open_dataset(Config(dataset=str(path))), out, options)
        making.write(1, lambda images: None)
        making.finish()
    found, wanted = (
        {
            file.name.partition("-train")[2]: file.read_bytes()
            for file in (tmp_path / name).iterdir()
            if "-of-" in file.name
        }
        for name in ("tars", "folder")
    )
    assert found == wanted and sum(map(len, found.values())) > 15 * 16 * 16 * 3
    assert len(open_dataset(Config(dataset=str(tmp_path / "tars"), resize=16)).open("train")) == 15


def test_it_is_the_folder_s_data_set_record_by_record(both):
    tars, plain = both
    found, wanted = (open_dataset(Config(dataset=str(path))) for path in both)
    assert isinstance(found, synset_tars.SynsetTars)
    assert found.sizes == wanted.sizes == {"train": 15}
    assert found.class_names == wanted.class_names == [n for n, count in CLASSES.items() if count]
    assert list(found.open("train")) == list(wanted.open("train"))
    assert found.digest() == wanted.digest() and found.fingerprint() == wanted.fingerprint()
    source = found.open("train[20%:]")
    assert source.where(0).startswith(f"{tars}/n000") and ".tar/n000" in source.where(0)
    assert found.notes == [
        f"2 left out: not known as an image's ({tars}/n00005787.tar/deeper/._n00005787_9.JPEG, ...)"
    ]


def test_one_archive_of_all_is_the_same(both, tmp_path):
    """Like fall11_whole.tar, whose archives lie in a folder; with other programs' entries too."""
    tars, plain = both
    whole = tmp_path / "fall11_whole.tar"
    with tarfile.open(whole, "w") as outer:
        add(outer, "fall11", kind=tarfile.DIRTYPE)
        for archive in sorted(tars.glob("*.tar"), reverse=True):
            add(outer, f"fall11/{archive.name}", archive.read_bytes())
        add(outer, "fall11/._n00004475.tar", b"of a Mac")
        add(outer, "fall11/urls.txt", b"http")
    found, wanted = (open_dataset(Config(dataset=str(path))) for path in (whole, plain))
    assert found.sizes == {"train": 15} and found.class_names == wanted.class_names
    assert list(found.open("train")) == list(wanted.open("train"))
    assert found.fingerprint() == wanted.fingerprint()
    source = found.open("train")
    assert source.where(0) == f"{whole}/{source[0].name}"
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy) == list(source)


@pytest.mark.parametrize("kept", [-1024, 1600, 700])
def test_an_archive_inside_that_is_cut_short_is_named(both, tmp_path, kept):
    """The entries behind it are not mistaken for its own."""
    tars, _ = both
    whole = tmp_path / "whole.tar"
    data = (tars / "n00004475.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as one:
        last = one.getmembers()[-1]
        end = last.offset_data + -(-last.size // 512) * 512  # without the block of zeros
    with tarfile.open(whole, "w") as outer:
        add(outer, "n00004475.tar", data[: end if kept < 0 else kept])
        add(outer, "n00005787.tar", (tars / "n00005787.tar").read_bytes())
    with pytest.raises(DataError, match=r"whole.tar: n00004475.tar in it is not a whole tar a"):
        open_dataset(Config(dataset=str(whole)))


def test_files_that_are_no_archives_of_classes_are_refused(both, tmp_path):
    tars, _ = both
    with pytest.raises(DataError, match=r"holds n00004475_0.JPEG, an image; name a .tar with one"):
        open_dataset(Config(dataset=str(tars / "n00004475.tar")))
    text = tmp_path / "a.txt"
    text.write_text("no data set")
    with pytest.raises(DataError, match=r"a.txt is a file; name a folder, or a .tar that holds"):
        open_dataset(Config(dataset=str(text)))


def test_damage_is_named(both):
    tars, _ = both
    path = tars / "n00015388.tar"
    whole = path.read_bytes()
    for data in (whole[:700], whole[:2000] + b"\xff" * 500 + whole[2500:], b"nothing"):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"n00015388.tar: is not a whole tar archive"):
            open_dataset(Config(dataset=str(tars)))
    path.write_bytes(whole)
    source = open_dataset(Config(dataset=str(tars))).open("train")
    path.write_bytes(whole[:600])
    index = next(i for i in range(15) if "n00015388" in source.where(i))
    with pytest.raises(DataError, match=r"n00015388.tar/n00015388_\d.JPEG: the archive is cut sho"):
        for i in range(index, 15):
            source[i]


def test_archives_without_images_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "words.txt", b"x")
    with pytest.raises(DataError, match="none of its 1 archives holds an image"):
        open_dataset(Config(dataset=str(tmp_path)))


def test_archives_of_something_else_are_refused(both):
    tars, _ = both
    with tarfile.open(tars / "train-0000.tar", "w") as archive:
        add(archive, "0.jpg", b"x")
        add(archive, "0.cls", b"7")
    with pytest.raises(DataError, match=r"train-0000.tar: holds 0.cls, and is no archive of"):
        open_dataset(Config(dataset=str(tars)))
    (tars / "train-0000.tar").rename(tars / "ILSVRC2012_img_val.tar")
    with pytest.raises(DataError, match=r"_val.tar: is of ILSVRC2012; put it into DATA_DIR/downlo"):
        open_dataset(Config(dataset=str(tars)))


def test_memory_is_a_few_bytes_an_image(tmp_path):
    """Two hundred thousand empty images: no object is kept for any of them."""
    count = 200_000
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "n00004475_0000000.JPEG")
    header, end = buffer.getvalue()[:512], buffer.getvalue()[512:]
    with (tmp_path / "n00004475.tar").open("wb") as file:
        file.write(header * count + end)  # one name many times
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = synset_tars.SynsetTars(tmp_path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert data.sizes == {"train": count}
    assert grown < 200 * count  # while it is made; an object for each took 900
