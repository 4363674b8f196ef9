"""One .tar of images a class, in a folder or in one archive, as ImageNet's full releases come.

They are read as they are. The releases have no other split than train.
"""

import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.tars import MEGABYTE, Index, entries, is_image, shown
from alexnet_jax.data.types import DataError, Source
from alexnet_jax.host.progress import Progress

SPLIT = "train"
NOT_OF_A_CLASS = (".tar", ".cls", ".json")  # in archives of archives, and in shards with labels
_ILSVRC = re.compile(r"ILSVRC2012_img_\w+")


def is_one(path: pathlib.Path) -> bool:
    """Is it an archive, or a folder of archives without folders of images beside them?"""
    if path.is_file():
        return path.suffix.lower() == ".tar"
    with os.scandir(path) as inside:
        suffixes = [
            os.path.splitext(entry.name)[1].lower() if entry.is_file() else "/"
            for entry in inside
            if not entry.name.startswith(".")
        ]
    return ".tar" in suffixes and "/" not in suffixes


class SynsetTars(Dataset):
    """Archives CLASS.tar; all their images are in the split train.

    Images are named CLASS/FILE and ordered as in a folder of classes, so that both ways give the
    same data set, record by record.
    """

    def __init__(self, path: pathlib.Path, silent: bool = True) -> None:
        """Scans the archives: tar has no table of contents, only a header for each image.

        Args:
          path: the folder of the archives, or the archive that holds them.
          silent: show no progress?

        Raises:
          DataError: a file is not a whole archive, or no archive holds an image.
        """
        self.name = str(path)
        index = Index()
        archives: list[str] = []
        for archive, name, start, size in _archives(path, silent):
            _add(index, archive, len(archives), name, start, size)
            archives.append(name)
        if not len(index):
            raise DataError(f"{path}: none of its {len(archives):,} archives holds an image")
        numbers = index.labels()
        self.class_names = sorted({archives[number] for number in np.unique(numbers)})
        labels = {name: label for label, name in enumerate(self.class_names)}
        renumbered = np.array([labels.get(name, -1) for name in archives], np.int32)
        self._train = index.members(index.mixed(), renumbered[numbers], self.class_names)
        self.sizes = {SPLIT: len(self._train)}
        self.notes = index.notes

    def contents(self) -> Iterator[str]:
        """Names every image, in order, as a folder's are named."""
        yield from super().contents()
        for name in self._train.names:
            yield f"{SPLIT} {name}"

    def _whole(self, split: str) -> Source:
        return self._train


def _archives(
    path: pathlib.Path, silent: bool
) -> Iterator[tuple[pathlib.Path, str, int, int | None]]:
    """Yields each class's archive: the file, the class, the first byte, and the size."""
    if path.is_file():
        whole = path.stat().st_size // MEGABYTE
        with Progress(f"look through {path.name}", 0, whole, "MB", silent) as bar:
            for entry in shown(entries(path), bar):
                name, suffix = os.path.splitext(entry.name.rpartition("/")[2])
                if entry.isfile() and is_image(entry):
                    raise DataError(
                        f"{path}: holds {entry.name}, an image; name a .tar with one .tar per "
                        "class, or a folder of such archives"
                    )
                if entry.isfile() and suffix.lower() == ".tar" and not name.startswith("."):
                    yield path, name, entry.offset_data, entry.size
        return
    archives = sorted(inner for inner in path.iterdir() if inner.suffix.lower() == ".tar")
    for archive in archives:
        if _ILSVRC.fullmatch(archive.stem):
            raise DataError(
                f"{archive}: is of ILSVRC2012; put it into DATA_DIR/downloads/manual, and use "
                "--config.dataset=imagenet2012 --config.data_dir=DATA_DIR"
            )
    with Progress(f"look through {path.name}", 0, len(archives), "archive", silent) as bar:
        for archive in archives:
            yield archive, archive.stem, 0, None
            bar.advance(1)


def _add(
    index: Index, archive: pathlib.Path, label: int, name: str, start: int, size: int | None
) -> None:
    """Adds the images of a class.

    Raises:
      DataError: it is no whole archive of images.
    """
    for entry in entries(archive, start, size, f"{name}.tar" if size is not None else ""):
        if is_image(entry):
            index.add(archive, entry, f"{name}/{entry.name.rpartition('/')[2]}", label)
            continue
        if entry.isfile() and os.path.splitext(entry.name)[1].lower() in NOT_OF_A_CLASS:
            raise DataError(
                f"{archive}: holds {entry.name}, and is no archive of the images of one class; "
                "name a folder of those"
            )
        index.leave_out(archive, entry)
