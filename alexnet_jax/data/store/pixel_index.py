"""Offsets of pixels in a raw store's shards, so that they are read straight into batches.

An index lies beside each shard. It also holds a checksum of each image, because reading this way
bypasses the hashes that ArrayRecord checks.
"""

import dataclasses
import os
import pathlib
import threading
import weakref
from typing import Self

import numpy as np

from alexnet_jax.data.store import many_reads, riegeli
from alexnet_jax.data.types import DataError

NOT_OPEN = -1
TOGETHER = many_reads.MOST  # images that are read, and then summed, at once
ENTRY = np.dtype([("position", "<i8"), ("label", "<i4"), ("sum", "<u8")])


def index_file(shard: str) -> str:
    """Returns the name of a shard's index."""
    return shard.replace(".array_record-", ".pixels-") + ".npy"


def sums_of(pixels: np.ndarray) -> np.ndarray:
    """Returns the sum of each image's bytes, taken as 64-bit numbers, modulo 2**64.

    It detects any single flipped bit, and almost always zeros or other bytes in place of the
    image's. It does not detect parts that changed places: `prepare --verify` does.

    Args:
      pixels: (n, bytes) uint8, rows without gaps.

    Returns:
      (n,) uint64.
    """
    whole = pixels.shape[1] // 8 * 8
    sums = np.add.reduce(pixels[:, :whole].view(np.uint64), 1, dtype=np.uint64)
    if whole < pixels.shape[1]:
        sums += np.add.reduce(pixels[:, whole:], 1, dtype=np.uint64)
    return sums


class Entries:
    """The index of a shard, while the shard is written."""

    def __init__(self) -> None:
        self._within: list[int] = []
        self._labels: list[int] = []
        self._sums: list[int] = []

    def add(self, pixels: np.ndarray, label: int, within: int) -> None:
        """Notes an image: its pixels, uint8, its label, and where in its record they begin."""
        self._within.append(within)
        self._labels.append(label)
        self._sums.append(int(sums_of(pixels.reshape(1, -1))[0]))

    def save(self, shard: pathlib.Path, path: pathlib.Path) -> None:
        """Writes the index of a finished shard.

        Raises:
          DataError: the shard's records are not laid out as they are read.
        """
        spans = riegeli.record_spans(shard, len(self._within))
        entries = np.zeros(len(spans), ENTRY)
        entries["position"] = [
            start + within for (start, _), within in zip(spans, self._within, strict=True)
        ]
        entries["label"], entries["sum"] = self._labels, self._sums
        with path.open("wb") as file:
            np.save(file, entries, allow_pickle=False)


def load(path: pathlib.Path, records: int) -> np.ndarray:
    """Returns a shard's index, (records,) ENTRY.

    Raises:
      DataError: it cannot be read, or is another shard's.
    """
    try:
        entries = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if entries.dtype != ENTRY or entries.shape != (records,):
        raise DataError(f"{path}: is not the index of {records:,} images; restore it")
    return entries


class _Shards:
    """Files, each opened when it is first read; any thread may."""

    def __init__(self, paths: list[pathlib.Path]) -> None:
        self._paths = paths
        self._descriptors = np.full(len(paths), NOT_OPEN, np.int32)
        self._lock = threading.Lock()

    def descriptors(self, which: np.ndarray) -> np.ndarray:
        """Returns those of some files, (n,); NOT_OPEN where one cannot be opened."""
        descriptors = self._descriptors[which]
        for missing in np.unique(which[descriptors == NOT_OPEN]).tolist():
            self._open(missing)
        return self._descriptors[which]

    def _open(self, which: int) -> None:
        with self._lock:
            if self._descriptors[which] != NOT_OPEN:
                return
            try:
                opened = os.open(self._paths[which], os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # reading the record will report what is wrong
                return
            weakref.finalize(self, os.close, opened)
            self._descriptors[which] = opened


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The stored pixels of a split's images; each array is (N,).

    Attributes:
      shards: the files.
      size: bytes of an image.
      shard: int32, the number of the file that holds each image.
      offset: int64, of the image's first byte in that file.
      label: int32.
      sums: uint64, of the image's bytes.
    """

    shards: _Shards
    size: int
    shard: np.ndarray
    offset: np.ndarray
    label: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, files: list[pathlib.Path], lengths: list[int], size: int) -> Self:
        """Reads the indices of shards.

        Args:
          files: the shards.
          lengths: images of each.
          size: bytes of an image.

        Raises:
          DataError: an index is not readable, or not of that shard.
        """
        entries = np.concatenate(
            [
                load(file.with_name(index_file(file.name)), length)
                for file, length in zip(files, lengths, strict=True)
            ]
        )
        shard = np.repeat(np.arange(len(files), dtype=np.int32), lengths)
        offset = riegeli.in_file(entries["position"])
        columns = (entries[name].copy() for name in ("label", "sum"))
        return cls(_Shards(files), size, shard, offset, *columns)

    def part(self, start: int, end: int) -> Self:
        """Returns images start .. end - 1."""
        names = ("shard", "offset", "label", "sums")
        return dataclasses.replace(self, **{name: getattr(self, name)[start:end] for name in names})

    def labelled(self, labels: list[int]) -> Self:
        """Returns the same images with labels[label] in the place of each label; -1 stays."""
        return dataclasses.replace(self, label=np.array([*labels, -1], np.int32)[self.label])

    def read(self, indices: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Reads images into the rows of `out`, (n, size) uint8 without gaps.

        Returns:
          (n,) bool: are the bytes those that were written? False after a disk error.
        """
        good = np.zeros(len(indices), bool)
        for first in range(0, len(indices), TOGETHER):
            part = slice(first, first + TOGETHER)
            images, rows = indices[part], out[part]
            files = self.shards.descriptors(self.shard[images])
            good[part] = riegeli.read_rows(files, self.offset[images], rows)
            good[part] &= sums_of(rows) == self.sums[images]
        return good
