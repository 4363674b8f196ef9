"""ILSVRC 2012 straight from its archives, without unpacking them and without TensorFlow.

TFDS's own `imagenet2012` prepares itself with TensorFlow, for 22 CMYK photographs and one PNG that
OpenCV decodes as they are. Names, order of labels and splits are TFDS's.
"""

import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import IO

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.folder import UNLABELLED, spread
from alexnet_jax.data.names import Names
from alexnet_jax.data.tars import entries
from alexnet_jax.data.types import DataError, Example, Source
from alexnet_jax.host.progress import Progress

NAME = "imagenet2012"
ARCHIVES = {
    "train": "ILSVRC2012_img_train.tar",
    "validation": "ILSVRC2012_img_val.tar",
    "test": "ILSVRC2012_img_test.tar",
}
MEGABYTE = 10**6
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class ImagenetArchives(Dataset):
    """The splits whose archives are in one folder (TFDS's `manual_dir`)."""

    def __init__(self, folder: pathlib.Path, silent: bool = True) -> None:
        """Looks through the archives: they have no table of contents, but a header a photograph.

        Args:
          folder: of the archives.
          silent: is nothing shown meanwhile? It takes a minute, of a cold disk more.

        Raises:
          DataError: none is there, or one is not an archive or of something else.
        """
        self.name = NAME
        self.class_names = class_names()
        numbers = {name: i for i, name in enumerate(self.class_names)}
        self._validation_labels = [numbers[name] for name in _lines("validation_labels.txt")]
        self._splits = {
            split: self._index(split, folder / file, silent)
            for split, file in ARCHIVES.items()
            if (folder / file).is_file()
        }
        self.sizes = {split: len(members) for split, members in self._splits.items()}
        if not self._splits:
            raise DataError(
                f"dataset: {NAME} is not prepared, and none of {', '.join(ARCHIVES.values())} is "
                f"in {folder}; get them from image-net.org and put them there"
            )

    def _index(self, split: str, archive: pathlib.Path, silent: bool) -> "_Members":
        size = archive.stat().st_size // MEGABYTE
        try:
            with (
                archive.open("rb") as file,
                Progress(f"look through {archive.name}", 0, size, "MB", silent) as bar,
            ):
                if not bar.live:
                    bar.say(f"{archive}: looking through {size:,} MB")
                train = split == "train"
                found = _train(file, self.class_names, bar) if train else _flat(file, bar)
        except tarfile.TarError as error:
            raise DataError(f"{archive}: is not a whole tar archive ({error})") from error
        except _NotImagenet as error:
            raise DataError(f"{archive}: {error}") from error
        if split == "validation":
            found = [(n, at, size, self._label(n, archive)) for n, at, size, _ in found]
        if not found:
            raise DataError(f"{archive}: holds no images")
        return _Members(archive, found, self.class_names)

    def _label(self, name: str, archive: pathlib.Path) -> int:
        """Returns a validation image's label: TFDS lists them by number."""
        number = _VALIDATION_NAME.fullmatch(name)
        if not number or not 1 <= int(number[1]) <= len(self._validation_labels):
            raise DataError(f"{archive}: {name} is not an ImageNet validation image")
        return self._validation_labels[int(number[1]) - 1]

    def contents(self) -> Iterator[str]:
        """Names every file of the archives, in order."""
        yield from super().contents()
        yield from (
            f"{split} {name}"
            for split, members in sorted(self._splits.items())
            for name in members.names
        )

    def _whole(self, split: str) -> Source:
        return self._splits[split]


class _NotImagenet(ValueError):
    pass


def class_names() -> list[str]:
    """Returns the WordNet IDs of the thousand classes, in label order."""
    return _lines("labels.txt")


Member = tuple[str, int, int, int]  # name, offset in the archive, bytes, label


def _lines(file: str) -> list[str]:
    return (tfds.core.tfds_path(f"datasets/{NAME}") / file).read_text().split()


def _shown(found: Iterator[tarfile.TarInfo], bar: Progress) -> Iterator[tarfile.TarInfo]:
    """Yields entries, and shows how far into the archive they lie."""
    passed = 0
    for entry in found:
        yield entry
        end = (entry.offset_data + entry.size) // MEGABYTE
        bar.advance(end - passed)
        passed = end


def _train(file: IO[bytes], class_names: list[str], bar: Progress) -> list[Member]:
    """Archives of classes inside an archive; mixed, so that a slice holds every class."""
    labels, found = {name: i for i, name in enumerate(class_names)}, []
    with tarfile.open(fileobj=file, mode="r:") as outer:
        for of_class in _shown(entries(outer), bar):
            wnid = of_class.name.removesuffix(".tar")
            if wnid not in labels:
                raise _NotImagenet(f"{of_class.name} is not the archive of an ImageNet class")
            inner_file = outer.extractfile(of_class)
            try:
                with tarfile.open(fileobj=inner_file, mode="r:") as inner:
                    found += [
                        (m.name, of_class.offset_data + m.offset_data, m.size, labels[wnid])
                        for m in entries(inner)
                        if m.isfile()
                    ]
            except tarfile.TarError as error:
                raise _NotImagenet(f"{of_class.name} inside is damaged ({error})") from error
    return sorted(found, key=lambda member: spread(member[0]))


def _flat(file: IO[bytes], bar: Progress) -> list[Member]:
    """Images in the order of their names."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        found = [
            (pathlib.PurePosixPath(m.name).name, m.offset_data, m.size, UNLABELLED)
            for m in _shown(entries(archive), bar)
            if m.isfile()
        ]
    return sorted(found)


class _Members(Source):
    """Files of an archive, by index."""

    def __init__(
        self, archive: pathlib.Path, members: list[Member], class_names: list[str]
    ) -> None:
        self.class_names, self._archive = class_names, archive
        self.names = Names(name for name, *_ in members)
        self._lies = np.array([(offset, size) for _, offset, size, _ in members])
        self._labels = np.array([label for *_, label in members], np.int16)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        (offset, size), name = self._lies[index].tolist(), self.names[index]
        try:
            with self._archive.open("rb") as file:
                file.seek(offset)
                encoded = file.read(size)
        except OSError as error:
            raise DataError(f"{self._archive}: {error.strerror}") from error
        if len(encoded) < size:
            raise DataError(f"{self._archive}: is cut short, in {name}")
        return Example(encoded, int(self._labels[index]), name)

    def where(self, index: int) -> str:
        """Names the archive and the file in it."""
        return f"{self._archive}/{self.names[index]}"
