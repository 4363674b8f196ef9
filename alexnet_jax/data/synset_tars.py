"""A folder of one .tar of images a class, as ImageNet's full releases come: read as they are.

Nothing is unpacked. For 15 million images the index takes 55 bytes an image and its name; of an
image no object is kept. The releases have no other split than train.
"""

import hashlib
import os
import pathlib
import re
import tarfile
from array import array
from collections.abc import Iterator

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.image_files import IMAGES, MOST_BYTES
from alexnet_jax.data.names import Names
from alexnet_jax.data.tars import entries
from alexnet_jax.data.types import DataError, Example, Source
from alexnet_jax.host.progress import Progress

SPLIT = "train"
NOT_OF_A_CLASS = (".tar", ".cls", ".json")  # archives of classes, and shards with labels beside
_ILSVRC = re.compile(r"ILSVRC2012_img_\w+")


def is_one(path: pathlib.Path) -> bool:
    """Is it a folder of archives of classes, without folders of images beside them?"""
    with os.scandir(path) as found:
        suffixes = [
            os.path.splitext(entry.name)[1].lower() if entry.is_file() else "/"
            for entry in found
            if not entry.name.startswith(".")
        ]
    return ".tar" in suffixes and "/" not in suffixes


class SynsetTars(Dataset):
    """Archives CLASS.tar in a folder, of which every image is in the split train.

    An image is called CLASS/FILE, as in a folder of its class, and lies in that order: both ways
    give the same data set, record by record.
    """

    def __init__(self, folder: pathlib.Path, silent: bool = True) -> None:
        """Looks through the archives: they have no table of contents, but a header an image.

        Args:
          folder: of the archives.
          silent: is nothing shown meanwhile?

        Raises:
          DataError: one is no whole archive, or none holds an image.
        """
        self.name = str(folder)
        archives = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".tar")
        for archive in archives:
            if _ILSVRC.fullmatch(archive.stem):
                raise DataError(
                    f"{archive}: is of ILSVRC2012; put it into DATA_DIR/downloads/manual, and use "
                    "--config.dataset=imagenet2012 --config.data_dir=DATA_DIR"
                )
        index = _Index()
        with Progress(f"look through {folder.name}", 0, len(archives), "archive", silent) as bar:
            for number, archive in enumerate(archives):
                index.add(number, archive)
                bar.advance(1)
        classes = sorted({archive.stem for archive in index.archives_with_images(archives)})
        self.class_names = classes
        if not classes:
            raise DataError(f"{folder}: none of its {len(archives):,} archives holds an image")
        self._train = _Members(archives, index, classes)
        self.sizes = {SPLIT: len(self._train)}
        self.notes = index.notes

    def contents(self) -> Iterator[str]:
        """Names every image, in order, as a folder's are named."""
        yield from super().contents()
        for name in self._train.names:
            yield f"{SPLIT} {name}"

    def _whole(self, split: str) -> Source:
        return self._train


class _Index:
    """Where each image lies, in the order of the archives; grows by 47 bytes and a name each."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.ends, self.offsets = array("q"), array("q")
        self.archives, self.sizes = array("i"), array("i")
        self.keys = bytearray()  # the first 16 bytes of each name's hash, by which they are spread
        self._left_out, self._first = 0, ""

    def add(self, number: int, archive: pathlib.Path) -> None:
        """Adds the images of an archive.

        Raises:
          DataError: it is no whole archive.
        """
        prefix = f"{archive.stem}/"
        try:
            with tarfile.open(archive, "r:") as opened:
                for entry in entries(opened):
                    name = entry.name.rpartition("/")[2]
                    is_image = os.path.splitext(name)[1].lower() in IMAGES
                    if entry.isfile() and os.path.splitext(name)[1].lower() in NOT_OF_A_CLASS:
                        raise DataError(
                            f"{archive}: holds {entry.name}, and is no archive of the images of "
                            "one class; name a folder of those"
                        )
                    if not entry.isfile() or name.startswith(".") or not is_image:
                        self._leave(entry, archive)
                        continue
                    if entry.size > MOST_BYTES:
                        raise DataError(f"{archive}/{name}: has {entry.size / 2**30:.1f} GiB")
                    encoded = (prefix + name).encode(errors="surrogateescape")
                    self.text += encoded
                    self.ends.append(len(self.text))
                    self.offsets.append(entry.offset_data)
                    self.sizes.append(entry.size)
                    self.archives.append(number)
                    self.keys += hashlib.sha256(encoded).digest()[:16]
                    opened.members = []  # pyright: ignore  # tarfile remembers what it has read
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{archive}: is not a whole tar archive ({error})") from error

    def _leave(self, entry: tarfile.TarInfo, archive: pathlib.Path) -> None:
        if not entry.isdir():
            self._left_out += 1
            self._first = self._first or f"{archive}/{entry.name}"

    @property
    def notes(self) -> list[str]:
        """What was left out, for a header."""
        if not self._left_out:
            return []
        more = ", ..." if self._left_out > 1 else ""
        return [f"{self._left_out:,} left out: not known as an image's ({self._first}{more})"]

    def archives_with_images(self, archives: list[pathlib.Path]) -> list[pathlib.Path]:
        """Returns the archives that hold an image."""
        return [archives[number] for number in np.unique(np.frombuffer(self.archives, np.int32))]

    def order(self) -> np.ndarray:
        """Returns the images in the order of their names' hashes, (N,) int64."""
        keys = np.frombuffer(self.keys, ">u8").reshape(-1, 2)
        return np.lexsort((keys[:, 1], keys[:, 0]))


class _Members(Source):
    """Images of the archives, by index."""

    def __init__(self, archives: list[pathlib.Path], index: _Index, class_names: list[str]) -> None:
        self.class_names = class_names
        order = index.order()
        self._archives = archives
        self.names = Names.of(bytes(index.text), np.frombuffer(index.ends, np.int64), order)
        own = np.frombuffer(index.archives, np.int32)[order]
        self._archive = own
        self._offset = np.frombuffer(index.offsets, np.int64)[order]
        self._size = np.frombuffer(index.sizes, np.int32)[order]
        labels = {name: label for label, name in enumerate(class_names)}
        of_archive = [labels.get(archive.stem, -1) for archive in archives]
        self._labels = np.array(of_archive, np.int32)

    def __len__(self) -> int:
        return len(self._archive)

    def __getitem__(self, index: int) -> Example:
        number, size = int(self._archive[index]), int(self._size[index])
        archive = self._archives[number]
        try:
            with archive.open("rb") as file:
                file.seek(int(self._offset[index]))
                encoded = file.read(size)
        except OSError as error:
            raise DataError(f"{archive}: {error.strerror}") from error
        if len(encoded) < size:
            raise DataError(f"{self.where(index)}: the archive is cut short")
        return Example(encoded, int(self._labels[number]), self.names[index])

    def where(self, index: int) -> str:
        """Names the archive and the file in it."""
        archive = self._archives[int(self._archive[index])]
        return f"{archive}/{self.names[index].rpartition('/')[2]}"
