"""ILSVRC 2012 straight from its archives, without unpacking them and without TensorFlow.

TFDS's own `imagenet2012` needs TensorFlow for its preparation, because of 22 CMYK photographs and
one PNG, which `decode` reads as they are. Names, label order and splits are the same as TFDS's.
"""

import pathlib
import re
import tarfile
from collections.abc import Iterator

import tensorflow_datasets as tfds

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.folder import UNLABELLED
from alexnet_jax.data.tars import MEGABYTE, Index, Members, entries, shown
from alexnet_jax.data.types import DataError, Source
from alexnet_jax.host.progress import Progress

NAME = "imagenet2012"
ARCHIVES = {
    "train": "ILSVRC2012_img_train.tar",
    "validation": "ILSVRC2012_img_val.tar",
    "test": "ILSVRC2012_img_test.tar",
}
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class ImagenetArchives(Dataset):
    """The splits whose archives are in one folder (TFDS's `manual_dir`)."""

    def __init__(self, folder: pathlib.Path, silent: bool = True) -> None:
        """Scans the archives: tar has no table of contents, only a header for each photograph.

        Args:
          folder: of the archives.
          silent: show no progress? The scan takes a minute, more from a cold disk.

        Raises:
          DataError: no archive is there, or one is not an archive or holds something else.
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

    def _index(self, split: str, archive: pathlib.Path, silent: bool) -> Members:
        size, index = archive.stat().st_size // MEGABYTE, Index()
        with Progress(f"look through {archive.name}", 0, size, "MB", silent) as bar:
            if not bar.live:
                bar.say(f"{archive}: looking through {size:,} MB")
            members = shown(entries(archive), bar)
            if split == "train":
                _add_classes(index, archive, members, self.class_names)
            else:
                for entry in (entry for entry in members if entry.isfile()):
                    name = entry.name.rpartition("/")[2]
                    known = split == "validation"
                    label = self._label(name, archive) if known else UNLABELLED
                    index.add(archive, entry, name, label)
        if not len(index):
            raise DataError(f"{archive}: holds no images")
        # Classes are mixed, so that a slice holds every class; other images lie by their names.
        order = index.mixed() if split == "train" else index.by_name()
        return index.members(order, index.labels(), self.class_names)

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


def class_names() -> list[str]:
    """Returns the WordNet IDs of the thousand classes, in label order."""
    return _lines("labels.txt")


def _lines(file: str) -> list[str]:
    return (tfds.core.tfds_path(f"datasets/{NAME}") / file).read_text().split()


def _add_classes(
    index: Index, archive: pathlib.Path, members: Iterator[tarfile.TarInfo], class_names: list[str]
) -> None:
    """Adds the images of an archive that contains one archive per class."""
    labels = {name: i for i, name in enumerate(class_names)}
    for of_class in members:
        wnid = of_class.name.removesuffix(".tar")
        if wnid not in labels:
            raise DataError(f"{archive}: {of_class.name} is not the archive of an ImageNet class")
        for entry in entries(archive, of_class.offset_data, of_class.size, of_class.name):
            if entry.isfile():
                index.add(archive, entry, entry.name, labels[wnid])
