"""Folders as people have them, against a model of what should be read."""

import os
import pathlib
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_jax.data.folder import UNLABELLED, Folder
from alexnet_jax.data.types import DataError

JPEG, TEXT = b"\xff\xd8\xff\xe0" + bytes(20), b"notes"
GOOD = ["jpg", "JPG", "jpeg", "jfif", "JFIF", "png", "webp", "tif", "bmp", "gif", "avif"]
BAD = ["heic", "HEIC", "psd", "nef", "tga", "crw", "xyz"]
JUNK = ["__MACOSX", ".git", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", ".Trash-1000"]
LETTERS = "abcXYZ019 _-$^\\'[]{}(),;=+!~éß中한\u0301\U0001f43e"
NAMES = st.text(LETTERS, min_size=1, max_size=12).filter(
    lambda name: name.strip() and not name.startswith((".", "@", "#", "$", "_")) and len(name) < 60
)


@st.composite
def folders(draw):
    """A data set: {path: bytes}, and the model's answer {split: {(name, class)}}, left out."""
    files: dict[str, bytes] = {}
    wanted: dict[str, set[tuple[str, str]]] = {}
    left_out = 0
    classes = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.lower))
    for split in draw(st.sampled_from([["train", "val"], ["train"], ["train", "test", "extra"]])):
        own = wanted.setdefault(split, set())
        for name in classes:
            deeper = draw(st.sampled_from(["", "", "session2/", "a/b/c/", "images/"]))
            for i in range(draw(st.integers(1, 4))):
                image = f"{deeper}{i}.{draw(st.sampled_from(GOOD))}"
                files[f"{split}/{name}/{image}"] = b"?"  # by its name alone
                own.add((f"{name}/{image}", name))
            extra = draw(st.integers(0, 5))
            if extra == 1:  # no suffix, another suffix
                odd = draw(st.sampled_from(["photo", "photo.jpg_large", "IMG.0001"]))
                files[f"{split}/{name}/{odd}"] = JPEG
                own.add((f"{name}/{odd}", name))
            elif extra == 2:
                files[f"{split}/{name}/x.{draw(st.sampled_from(BAD))}"] = b"?"
                left_out += 1
            elif extra == 3:  # of no interest
                for odd in (".DS_Store", "._0.jpg", "Thumbs.db", "labels.txt", "note"):
                    files[f"{split}/{name}/{odd}"] = TEXT
                left_out += 1  # ._0.jpg
            elif extra == 4:
                files[f"{split}/{name}/{draw(st.sampled_from(JUNK))}/0.jpg"] = JPEG
                left_out += 1
            elif extra == 5:
                files[f"{split}/empty of {name}/readme.txt"] = TEXT
                left_out += 1
    for junk in draw(st.lists(st.sampled_from(JUNK), max_size=2, unique=True)):
        files[f"{junk}/train/{classes[0]}/._0.jpg"] = JPEG
        left_out += 1
    if draw(st.booleans()):
        files["beside.jpg"] = JPEG
        left_out += 1
    return files, wanted, classes, left_out


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(folders())
def test_what_is_read_is_what_the_model_says(tmp_path_factory, made):
    files, wanted, classes, left_out = made
    root = tmp_path_factory.mktemp("set")
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = Folder(root)
    assert found.class_names == sorted(classes)
    assert found.sizes == {split: len(own) for split, own in wanted.items()}
    for split, own in wanted.items():
        source = found.open(split)
        examples = [source[i] for i in range(len(source))]
        assert {(e.name, found.class_names[e.label]) for e in examples} == own
    counts = [int(note.split()[0]) for note in found.notes if " left out: " in note]
    assert sum(counts) == left_out


def make(root: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)
    return root


LAYOUTS = {
    "one too high": (
        ["photos/train/cat/1.jpg", "photos/val/cat/1.jpg"],
        ".",
        r"its folders \(photos\) .*did you mean .*/photos\?",
    ),
    "kaggle's": (
        ["Annotations/x.txt", "Data/CLS-LOC/train/n01/1.JPEG", "Data/CLS-LOC/val/1.JPEG"],
        ".",
        "did you mean .*/Data/CLS-LOC",
    ),
    "a split": (["set/train/cat/1.jpg", "set/val/cat/1.jpg"], "set/train", "did you mean .*/set"),
    "a class": (
        ["set/train/cat/1.jpg", "set/val/cat/1.jpg"],
        "set/train/cat",
        "holds 1 images without labels .*predict.* did you mean .*/set",
    ),
    "photographs": (["1.jpg", "2.jpg"], ".", "holds 2 images without labels .*predict"),
    "classes alone": (["cat/1.jpg", "dog/1.jpg"], ".", r"\(cat, dog\) hold images, not folders of"),
    "nothing": (["notes/a.txt"], ".", "holds no split/class/image, but notes"),
    "tiny imagenet": (
        ["train/n01/images/1.JPEG", "val/images/1.JPEG", "val/val_annotations.txt"],
        ".",
        "val: has its labels in val_annotations.txt",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_form_is_named_with_the_path_that_is_meant(tmp_path, name):
    files, where, said = LAYOUTS[name]
    for file in files:
        path = make(tmp_path, file) / file
        if path.suffix == ".txt":
            path.write_bytes(TEXT)
    with pytest.raises(DataError, match=said) as raised:
        Folder(tmp_path / where)
    assert "\n" not in str(raised.value)


def test_what_is_odd_is_said(tmp_path):
    make(tmp_path, *(f"train/{c}/{i}.jpg" for c in ("cat", "dog") for i in range(150)))
    make(tmp_path, "train/rare/1.jpg", "val/cats/1.jpg", "val/Dog/1.jpg")
    assert Folder(tmp_path).notes == [
        "val has classes that train does not have: Dog, cats",
        "train has fewer than 5 images of rare",
        "val is almost empty: 2 of 301 images",
    ]


def test_torchvisions_imagenet_folder_is_its_photographs_alone(tmp_path):
    """As torchvision.datasets.ImageNet leaves it: unpacked beside the archives and its own file."""
    for root in ("own", "plain"):
        for split, number in (("train", 3), ("val", 2)):
            for name in ("n01440764", "n01443537"):
                folder = tmp_path / root / split / name
                folder.mkdir(parents=True)
                for i in range(number):
                    photo = f"{name}_{i}" if split == "train" else f"ILSVRC2012_val_0000000{i}"
                    (folder / f"{photo}.JPEG").write_bytes(JPEG + bytes([i]))
    own = tmp_path / "own"
    (own / "meta.bin").write_bytes(b"PK\x03\x04 a pickle in a ZIP archive")
    for name in ("devkit_t12.tar.gz", "img_train.tar", "img_val.tar"):
        (own / f"ILSVRC2012_{name}").write_bytes(b"its bytes")
    found, wanted = (Folder(tmp_path / root) for root in ("own", "plain"))
    assert found.sizes == wanted.sizes == {"train": 6, "val": 4}
    for split in found.sizes:
        assert list(found.open(split)) == list(wanted.open(split))
    assert found.fingerprint() == wanted.fingerprint()


def test_no_labels_where_there_are_no_classes(tmp_path):
    found = Folder(make(tmp_path, "train/cat/1.jpg", "test/2.jpg", "test/1.jpg"))
    source = found.open("test")
    assert [(source[i].name, source[i].label) for i in range(2)] == [
        ("1.jpg", UNLABELLED),
        ("2.jpg", UNLABELLED),
    ]


def test_links_that_lead_back_end(tmp_path):
    make(tmp_path, "train/cat/1.jpg", ".hidden/deep/2.jpg")
    (tmp_path / "train/cat/again").symlink_to(tmp_path / "train")
    (tmp_path / "train/cat/self").symlink_to("self")
    (tmp_path / "train/cat/more").symlink_to(tmp_path / ".hidden")
    source = Folder(tmp_path).open("train")
    names = {source[i].name for i in range(len(source))}
    assert names == {"cat/1.jpg", "cat/more/deep/2.jpg"}


@pytest.mark.parametrize("kind", ["fifo", "socket", "loop", "gone", "folder"])
def test_what_is_no_file_is_named_and_never_opened(tmp_path, monkeypatch, kind):
    make(tmp_path, "train/cat/0.jpg")
    path = tmp_path / "train/cat/x.jpg"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as holder:
            holder.bind("x.jpg")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "gone":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
        assert Folder(tmp_path).sizes == {"train": 1}
        return
    source = Folder(tmp_path).open("train")
    assert len(source) == 2
    with pytest.raises(DataError, match="x.jpg: "):
        for i in range(2):
            source[i]
