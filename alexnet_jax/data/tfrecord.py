"""TFRecord files read by index, without TensorFlow: TFDS's own default format.

A record is its length (8 bytes), a CRC of that (4), its bytes, and a CRC of them (4), see
tensorflow/core/lib/io/record_writer.h. No index says where the n-th begins, so the
first access to a file walks through the lengths of all its records.
"""

import bisect
import dataclasses
import itertools
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from tensorflow_datasets.core.data_sources import base

from alexnet_jax.data.types import DataError

HEADER, FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_MASK = 0xA282EAD8


class TfRecords(Sequence[bytes]):
    """The records of several files, one after the other."""

    def __init__(self, files: Sequence[Any]) -> None:
        """Opens no file yet.

        Args:
          files: TFDS's `FileInstruction`s: `filename`, `skip`, `take`, `examples_in_shard`.

        Raises:
          ImportError: google_crc32c is not installed.
        """
        import google_crc32c  # noqa: F401

        self._files = list(files)
        self._ends = list(itertools.accumulate(file.take for file in self._files))
        self._places: dict[int, list[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, key: Any) -> Any:
        """Returns the bytes of a record.

        Raises:
          DataError: its file is cut or damaged.
          IndexError: there is none.
        """
        if not 0 <= key < len(self):
            raise IndexError(key)
        number = bisect.bisect_right(self._ends, key)
        file = self._files[number]
        within = key - (self._ends[number] - file.take) + file.skip
        # Two threads may both walk through a file; they find the same.
        if number not in self._places:
            self._places[number] = _places(file.filename, file.examples_in_shard)
        start, size = self._places[number][within]
        with open(file.filename, "rb") as opened:
            data = os.pread(opened.fileno(), size + FOOTER.size, start)
        if len(data) != size + FOOTER.size or _crc(data[:size]) != FOOTER.unpack(data[size:])[0]:
            raise DataError(f"{file.filename}: record {within:,} is damaged")
        return data[:size]

    def __getitems__(self, keys: Iterable[int]) -> list[bytes]:
        """Returns several."""
        return [self[key] for key in keys]


def _places(path: str, expected: int) -> list[tuple[int, int]]:
    """Returns first byte and size of each record of a file.

    Raises:
      DataError: it is cut, damaged, or has another number of records than its data set says.
    """
    places, at = [], 0
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        while at < end:
            header = os.pread(file.fileno(), HEADER.size, at)
            if len(header) < HEADER.size:
                raise DataError(f"{path}: is cut at byte {at:,}; restore it")
            size, crc = HEADER.unpack(header)
            if _crc(header[:8]) != crc:
                raise DataError(f"{path}: is no TFRecord, or damaged at byte {at:,}; restore it")
            places.append((at + HEADER.size, size))
            at += HEADER.size + size + FOOTER.size
    if at != end or len(places) != expected:
        raise DataError(
            f"{path}: holds {len(places) - (at != end):,} whole records, not the {expected:,} of "
            "its data set; restore it"
        )
    return places


def _crc(data: bytes) -> int:
    """Returns the CRC-32C as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


@dataclasses.dataclass(repr=False)
class TfRecordSource(base.BaseDataSource):
    """Examples of a TFDS data set that is stored as TFRecord."""

    def __post_init__(self) -> None:
        """Opens the records of the split."""
        self.data_source = TfRecords(base.file_instructions(self.dataset_info, self.split))
