"""Offsets of records in an ArrayRecord file, and reading part of one straight into an array.

ArrayRecord's own reader copies a record twice and holds the GIL meanwhile, so that more threads do
not help. The format is Riegeli's (google/riegeli, doc/riegeli_records_file_format.md): a sequence
of chunks, here of one uncompressed record each, interrupted by a header at the start of every
64 KiB block. A position in this module does not count the bytes of those headers.
"""

import os
import pathlib
import struct
from typing import TypeVar

import numpy as np
from absl import logging

from alexnet_jax.data.store import many_reads
from alexnet_jax.data.types import DataError

BLOCK, BLOCK_HEADER = 2**16, 24  # bytes
CONTENT = BLOCK - BLOCK_HEADER
_SKIPPED = bytearray(BLOCK_HEADER)  # receives block headers, which nobody reads
# Of a chunk: the size of its data; then its type in the lowest byte, and the number of records
# above it. Hashes lie between.
CHUNK_HEADER = struct.Struct("<8x Q 8x Q 8x")
MOST_PARTS = many_reads.MOST_PIECES  # of one call
Position = TypeVar("Position", int, np.ndarray)
RECORDS, UNCOMPRESSED = ord("r"), 0
# Before a record stand the compression type (none), the length of the next number in bytes, and the
# record's size. Both numbers are varints; the first takes one byte.
MOST_BEFORE_RECORD = 12


def record_spans(path: pathlib.Path, count: int) -> list[tuple[int, int]]:
    """Returns where each record of a file begins, and how many bytes it has.

    Args:
      path: of the file.
      count: of its records; what comes after them is ArrayRecord's own footer.

    Raises:
      DataError: a chunk of records is not one uncompressed record, or there are not so many.
      OSError: the disk's.
    """
    spans: list[tuple[int, int]] = []
    head = bytearray(CHUNK_HEADER.size + MOST_BEFORE_RECORD)
    with path.open("rb", buffering=0) as file:
        at = 0
        while len(spans) < count:
            if read_into(file.fileno(), in_file(at), memoryview(head)) < len(head):
                raise DataError(f"{path}: ends after {len(spans)} records, not {count}")
            size, kind = CHUNK_HEADER.unpack_from(head)
            at += CHUNK_HEADER.size
            if kind & 0xFF == RECORDS:
                before, record = _before_record(head[CHUNK_HEADER.size :])
                if kind >> 8 != 1 or before + record != size:
                    raise DataError(
                        f"{path}: record {len(spans)} is not stored in one piece; prepare it with "
                        "the version of array_record in requirements.txt"
                    )
                spans.append((at + before, record))
            at += size
    return spans


def _before_record(data: bytes | bytearray) -> tuple[int, int]:
    """Returns how many bytes stand before a record, and how many it has; (0, 0) if not known."""
    size, used = 0, 0
    for used, byte in enumerate(data[2:], 1):
        size |= (byte & 0x7F) << 7 * (used - 1)
        if byte < 0x80:
            break
    return (2 + used, size) if data[0] == UNCOMPRESSED and data[1] == used else (0, 0)


def _content_before(offset: int) -> int:
    """Returns how many of a file's first `offset` bytes are not in block headers."""
    return offset // BLOCK * CONTENT + max(0, offset % BLOCK - BLOCK_HEADER)


def in_file(position: Position) -> Position:
    """Returns the file offset of a position, or of each position in an array."""
    return position // CONTENT * BLOCK + BLOCK_HEADER + position % CONTENT


def read_into(descriptor: int, start: int, out: memoryview) -> int:
    """Fills `out` from a file, without block headers: one system call for 32 MB, and one copy.

    Args:
      descriptor: of the file, open for reading.
      start: where in the file the first byte is; see `in_file`.
      out: of bytes, writable.

    Returns:
      How many bytes there were: fewer than `out` holds where the file ends.

    Raises:
      OSError: the disk's.
    """
    parts, filled, room = [], 0, BLOCK - start % BLOCK
    while len(out) - filled > room:
        parts += [out[filled : filled + room], _SKIPPED]
        filled, room = filled + room, CONTENT
    parts.append(out[filled:])
    at = start
    for first in range(0, len(parts), MOST_PARTS):
        some = parts[first : first + MOST_PARTS]
        got = os.preadv(descriptor, some, at)
        at += got
        if got < sum(map(len, some)):
            break
    return _content_before(at) - _content_before(start)


def read_rows(descriptors: np.ndarray, starts: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Fills each row of `out` from its own place in a file: one system call for all rows.

    Args:
      descriptors: (n,) int32 of files, open for reading; negative if there is none.
      starts: (n,) int64, the offset of each row's first byte in its file; see `in_file`.
      out: (n, size) uint8, rows without gaps; n at most `many_reads.MOST`.

    Returns:
      (n,) bool: was the whole row read? False after a disk error.
    """
    pieces = _pieces(starts, out)
    if many_reads.is_there() and pieces.shape[1] <= MOST_PARTS:
        try:
            return many_reads.read(descriptors, starts, pieces) == pieces["size"].sum(1)
        except OSError as error:
            logging.log_first_n(logging.WARNING, "images are read one by one: %s", 1, error)
    rows = zip(descriptors.tolist(), starts.tolist(), out, strict=True)
    return np.array([_is_read(descriptor, start, row.data) for descriptor, start, row in rows])


def _is_read(descriptor: int, start: int, out: memoryview) -> bool:
    try:
        return read_into(descriptor, start, out) == len(out)
    except OSError:
        return False


def _pieces(starts: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Returns (n, pieces): the bytes of each row, block by block, each after its block's header."""
    rows, size = out.shape
    room = BLOCK - starts % BLOCK  # of the block that a row begins in
    ends = room[:, None] + CONTENT * np.arange(-(-size // CONTENT) + 1)
    ends = np.minimum(ends, size)
    begins = np.concatenate([np.zeros((rows, 1), np.int64), ends[:, :-1]], axis=1)
    pieces = np.zeros((rows, ends.shape[1], 2), many_reads.PIECE)
    headers, bytes_ = pieces[..., 0], pieces[..., 1]
    headers["address"] = np.frombuffer(_SKIPPED, np.uint8).ctypes.data
    headers["size"][:, 1:] = np.where(ends > begins, BLOCK_HEADER, 0)[:, 1:]
    bytes_["address"] = out.ctypes.data + size * np.arange(rows)[:, None] + begins
    bytes_["size"] = ends - begins
    return pieces.reshape(rows, 2 * ends.shape[1])
