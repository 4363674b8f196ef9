"""Images inside tar archives, by their offsets: nothing is unpacked, and damage is detected.

For 15 million images an index takes 51 bytes an image and its name; it keeps no object per image.
"""

import os
import pathlib
import tarfile
from array import array
from collections.abc import Iterator

import numpy as np

from alexnet_jax.data.folder import spread
from alexnet_jax.data.image_files import IMAGES, MOST_BYTES
from alexnet_jax.data.names import Names
from alexnet_jax.data.types import DataError, Example, Source
from alexnet_jax.host.progress import Progress

MEGABYTE = 10**6
_KEY = 16  # bytes of a name's hash that determine its place in the order


def entries(
    path: pathlib.Path, start: int = 0, size: int | None = None, inside: str = ""
) -> Iterator[tarfile.TarInfo]:
    """Yields the entries of an archive, or of one that lies inside another.

    `offset_data` counts from the start of the file. `tarfile` takes a damaged header for the end of
    an archive, so this checks for the block of zeros that is the real end.

    Args:
      path: of the file.
      start: where in it the archive begins.
      size: of the archive; None: all that follows.
      inside: the name of the archive that lies inside another.

    Raises:
      DataError: it is damaged; says at which byte of the file.
    """
    end = path.stat().st_size if size is None else start + size
    try:
        with path.open("rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as opened:
                while (entry := opened.next()) is not None and entry.offset < end:
                    yield entry
                    opened.members = []  # pyright: ignore  # tarfile remembers what it has read
                file.seek(opened.offset)
                whole = opened.offset < end
                if not whole or file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(
                        f"a damaged header or its end at byte {opened.offset:,}"
                    )
    except (tarfile.TarError, OSError) as error:
        which = f"{inside} in it is" if inside else "is"
        raise DataError(f"{path}: {which} not a whole tar archive ({error})") from error


def shown(members: Iterator[tarfile.TarInfo], bar: Progress) -> Iterator[tarfile.TarInfo]:
    """Yields entries, and shows how many MEGABYTE into the file they lie."""
    passed = 0
    for entry in members:
        yield entry
        end = (entry.offset_data + entry.size) // MEGABYTE
        bar.advance(end - passed)
        passed = end


def is_image(entry: tarfile.TarInfo) -> bool:
    """Is it a file that is called as images are, and not hidden?"""
    name = entry.name.rpartition("/")[2]
    known = os.path.splitext(name)[1].lower() in IMAGES
    return entry.isfile() and known and not name.startswith(".")


class Index:
    """Where each image of a split lies, in the order of the archives."""

    def __init__(self) -> None:
        self.archives: list[pathlib.Path] = []
        self._text = bytearray()
        self._ends, self._offsets = array("q"), array("q")
        self._sizes, self._labels, self._archive = array("i"), array("i"), array("i")
        self._keys = bytearray()
        self._left_out, self._first = 0, ""

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, archive: pathlib.Path, entry: tarfile.TarInfo, name: str, label: int) -> None:
        """Adds an image.

        Args:
          archive: the file that it lies in.
          entry: from `entries`.
          name: its name in the data set.
          label: number of its class, in any order; -1 if it has none.

        Raises:
          DataError: it is too large for an image.
        """
        if entry.size > MOST_BYTES:
            raise DataError(f"{archive}/{name}: has {entry.size / 2**30:.1f} GiB")
        if not self.archives or self.archives[-1] != archive:
            self.archives.append(archive)
        self._text += name.encode(errors="surrogateescape")
        self._ends.append(len(self._text))
        self._offsets.append(entry.offset_data)
        self._sizes.append(entry.size)
        self._labels.append(label)
        self._archive.append(len(self.archives) - 1)
        self._keys += spread(name)[0][:_KEY]

    def leave_out(self, archive: pathlib.Path, entry: tarfile.TarInfo) -> None:
        """Counts what is no image."""
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

    def labels(self) -> np.ndarray:
        """Returns the labels as they were added, (N,) int32."""
        return np.frombuffer(self._labels, np.int32)

    def mixed(self) -> np.ndarray:
        """Returns the order of the names' hashes, as a folder's, (N,) int64."""
        keys = np.frombuffer(self._keys, ">u8").reshape(-1, 2)
        return np.lexsort((keys[:, 1], keys[:, 0]))

    def by_name(self) -> np.ndarray:
        """Returns the order of the names, (N,) int64."""
        names = self._names(np.arange(len(self)))
        return np.array(sorted(range(len(self)), key=names.__getitem__), np.int64)

    def _names(self, order: np.ndarray) -> Names:
        return Names.of(bytes(self._text), np.frombuffer(self._ends, np.int64), order)

    def members(self, order: np.ndarray, labels: np.ndarray, class_names: list[str]) -> "Members":
        """Returns the images as a split.

        Args:
          order: maps an index in the split to a place in the order of adding.
          labels: in the order of adding, as places in `class_names`, (N,) int32.
          class_names: in label order.
        """
        lies = np.frombuffer(self._offsets, np.int64), np.frombuffer(self._sizes, np.int32)
        archive = np.frombuffer(self._archive, np.int32)
        return Members(
            self.archives,
            self._names(order),
            archive[order],
            (lies[0][order], lies[1][order]),
            labels[order],
            class_names,
        )


class Members(Source):
    """Images of archives, by index."""

    def __init__(
        self,
        archives: list[pathlib.Path],
        names: Names,
        archive: np.ndarray,
        lies: tuple[np.ndarray, np.ndarray],
        labels: np.ndarray,
        class_names: list[str],
    ) -> None:
        """Takes what an index says.

        Args:
          archives: files.
          names: of the images.
          archive: the number of the file that each lies in, (N,).
          lies: the first byte of each image, and its size, both (N,).
          labels: (N,) int32.
          class_names: in label order.
        """
        self.class_names, self.names = class_names, names
        self._archives, self._archive = archives, archive
        self._offset, self._size = lies
        self._labels = labels

    def __len__(self) -> int:
        return len(self._archive)

    def __getitem__(self, index: int) -> Example:
        archive, size = self._archives[int(self._archive[index])], int(self._size[index])
        try:
            with archive.open("rb") as file:
                file.seek(int(self._offset[index]))
                encoded = file.read(size)
        except OSError as error:
            raise DataError(f"{archive}: {error.strerror}") from error
        if len(encoded) < size:
            raise DataError(f"{self.where(index)}: the archive is cut short")
        return Example(encoded, int(self._labels[index]), self.names[index])

    def where(self, index: int) -> str:
        """Names the archive and the file in it."""
        archive = self._archives[int(self._archive[index])]
        return f"{archive}/{self.names[index].removeprefix(archive.stem + '/')}"
