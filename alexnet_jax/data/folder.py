"""A folder split/class/image as a data set."""

import hashlib
import os
import pathlib

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.names import Names
from alexnet_jax.data.types import DataError, Example, Source

UNLABELLED = -1
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


class Folder(Dataset):
    """A folder of splits of classes of image files.

    Files are in the order of a name hash rather than of classes, so that a slice of a split holds
    every class. Those of a split without folders of classes have no labels, and are in the order of
    their names.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.name = str(path)
        splits = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        names = {c.name for s in splits for c in s.iterdir() if c.is_dir()}
        self.class_names = sorted(n for n in names if not n.startswith("."))
        if not self.class_names:
            raise DataError(f"{path}: no split/class/image inside; is it one level too deep or up?")
        self._splits = {split.name: self._list(split) for split in splits}
        self.sizes = {split: len(files) for split, files in self._splits.items() if len(files)}

    def contents(self) -> list[str]:
        """Names every file, in order: a shard of a store is a range of them."""
        return super().contents() + [
            f"{split} {name if '/' in name else f'{split}/{name}'}"
            for split, files in sorted(self._splits.items())
            for name in files.names
        ]

    def _list(self, split: pathlib.Path) -> "_Files":
        """Returns a split's files with their labels; those without folders of classes have none.

        Raises:
          DataError: some lie in folders of classes, and others do not.
        """
        loose = sorted(_images(split))
        found = [
            (f"{name}/{image}", label)
            for label, name in enumerate(self.class_names)
            if (split / name).is_dir()
            for image in _images(split / name)
        ]
        if loose and found:
            raise DataError(
                f"{split / loose[0]}: lies beside folders of classes; move it into its own"
            )
        found.sort(key=lambda item: spread(item[0]))
        return _Files(split, found or [(image, UNLABELLED) for image in loose], self.class_names)

    def _whole(self, split: str) -> Source:
        return self._splits[split]


def spread(name: str) -> tuple[bytes, str]:
    """Returns a key that sorts names in an order of their own, the same everywhere."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest(), name


def _images(folder: pathlib.Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES
            and not entry.name.startswith(".")
            and not entry.is_dir()
        ]


class _Files(Source):
    """Files of a split, by index; `names` are their paths from its folder on."""

    def __init__(
        self, split: pathlib.Path, files: list[tuple[str, int]], class_names: list[str]
    ) -> None:
        self.class_names, self._split = class_names, split
        self.names = Names(name for name, _ in files)
        self._labels = np.array([label for _, label in files], np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        path = self._split / name
        try:
            return Example(path.read_bytes(), int(self._labels[index]), name)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error

    def where(self, index: int) -> str:
        """Returns the file's path."""
        return str(self._split / self.names[index])
