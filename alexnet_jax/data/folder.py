"""A folder split/class/image as a data set."""

import hashlib
import pathlib

from alexnet_jax.data.dataset import Dataset
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
        self._files = {split.name: self._list(split) for split in splits}
        self.sizes = {split: len(files) for split, files in self._files.items() if files}

    def contents(self) -> list[str]:
        """Names every file, in order: a shard of a store is a range of them."""
        return super().contents() + [
            f"{split} {file.parent.name}/{file.name}"
            for split, files in sorted(self._files.items())
            for file, _ in files
        ]

    def _list(self, split: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
        """Returns a split's files with their labels; those without folders of classes have none.

        Raises:
          DataError: some lie in folders of classes, and others do not.
        """
        label = {name: i for i, name in enumerate(self.class_names)}
        loose = sorted(file for file in split.iterdir() if _is_image(file))
        found = [
            (file, label[folder.name])
            for folder in split.iterdir()
            if folder.is_dir() and folder.name in label
            for file in folder.iterdir()
            if _is_image(file)
        ]
        if loose and found:
            raise DataError(f"{loose[0]}: lies beside folders of classes; move it into its own")
        if loose:
            return [(file, UNLABELLED) for file in loose]
        return sorted(found, key=lambda item: spread(f"{item[0].parent.name}/{item[0].name}"))

    def _whole(self, split: str) -> Source:
        return _Files(self._files[split], self.class_names)


def spread(name: str) -> tuple[str, str]:
    """Returns a key that sorts names in an order of their own, the same everywhere."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest(), name


def _is_image(file: pathlib.Path) -> bool:
    hidden = file.name.startswith(".")
    return file.suffix.lower() in SUFFIXES and not hidden and not file.is_dir()


class _Files(Source):
    def __init__(self, files: list[tuple[pathlib.Path, int]], class_names: list[str]) -> None:
        self.class_names, self._files = class_names, files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path, label = self._files[index]
        try:
            name = path.name if label == UNLABELLED else f"{path.parent.name}/{path.name}"
            return Example(path.read_bytes(), label, name)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error

    def where(self, index: int) -> str:
        """Returns the file's path."""
        return str(self._files[index][0])
