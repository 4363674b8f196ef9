"""Writes one shard of a store, in a process of its own."""

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from array_record.python import array_record_module  # pyright: ignore

from alexnet_jax.data.decode import decode, read_square
from alexnet_jax.data.statistics import PixelSums
from alexnet_jax.data.store import pixel_index, record
from alexnet_jax.data.types import DataError, Source
from alexnet_jax.host import files

JPEG_QUALITY = 95  # the authors' (cuda-convnet2 make-data, pyext.h)
TRAIN = "train"  # the split that statistics are of


@dataclasses.dataclass(frozen=True)
class Options:
    """What decides a store's bytes; kept in its manifest.

    Attributes:
      encoding: raw (pixels as they are) or jpeg (quality 95).
      resize: side of the squares.
      exif_orientation: are images turned as their EXIF field says?
      on_bad_image: raise, or skip: left out, counted and named in the manifest.
      shards: number of shards of every split; 0: by its size.
    """

    encoding: str = "raw"
    resize: int = 256
    exif_orientation: bool = False
    on_bad_image: str = "raise"
    shards: int = 0


@dataclasses.dataclass(frozen=True)
class Shard:
    """A range of a split, and the file that it becomes."""

    split: str
    start: int
    end: int
    file: str


@dataclasses.dataclass
class Written:
    """The result of writing a shard.

    Attributes:
      parts: the final name of its file, and of its index if it has one, each with the temporary
        file that gets the name later.
      about: each file's entry in the manifest: `bytes`, `sha256`, and for the shard `records`.
      bad: images left out, a message each.
      sums: of the images, if they are of the training split.
      cost: of JPEG: sum of absolute differences of pixel values, their number, bytes of JPEG.
    """

    parts: dict[str, pathlib.Path]
    about: dict[str, dict[str, Any]]
    bad: list[str]
    sums: PixelSums | None
    cost: tuple[int, int, int] = (0, 0, 0)


class Worker:
    """The state of a worker process, set when it starts."""

    sources: dict[str, Source]
    folder: pathlib.Path
    options: Options
    counter: Any
    stop: Any


def start_worker(
    sources: dict[str, Source], folder: pathlib.Path, options: Options, counter: Any, stop: Any
) -> None:
    """Prepares a process for writing shards; it ends when its parent does.

    Args:
      sources: the splits.
      folder: of the store.
      options: of the store.
      counter: shared, of the images that are done.
      stop: shared; not 0 once the parent wants no more shards.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    Worker.sources, Worker.folder = sources, folder
    Worker.options, Worker.counter, Worker.stop = options, counter, stop


def write_shard(shard: Shard) -> Written:
    """Writes one shard and its index under temporary names.

    Raises:
      DataError: names an image that cannot be decoded, or the file that cannot be written.
    """
    suffix = f".part-{os.getpid()}"
    parts = {name: Worker.folder / (name + suffix) for name in files_of(shard, Worker.options)}
    sums = PixelSums(Worker.options.resize) if shard.split == TRAIN else None
    written = Written(parts, {}, [], sums)
    try:
        records = _write(shard, written)
        for name, part in parts.items():
            written.about[name] = {"bytes": part.stat().st_size, "sha256": files.sha256(part)}
    except (DataError, RuntimeError, OSError) as error:
        for part in parts.values():
            part.unlink(missing_ok=True)
        if isinstance(error, DataError):
            raise DataError(str(error).replace(suffix, "")) from error  # no file has that name now
        reason = str(error).split(";")[0]
        raise DataError(f"{Worker.folder / shard.file}: cannot be written ({reason})") from error
    written.about[shard.file] = {"records": records} | written.about[shard.file]
    return written


def files_of(shard: Shard, options: Options) -> list[str]:
    """Returns the names of a shard's files: its own, and its index's where images are raw."""
    raw = options.encoding == "raw"
    return [shard.file, *([pixel_index.index_file(shard.file)] if raw else [])]


def _write(shard: Shard, written: Written) -> int:
    """Writes the files, and returns the number of records."""
    part, records, entries = written.parts[shard.file], 0, pixel_index.Entries()
    writer = array_record_module.ArrayRecordWriter(os.fsencode(part), "group_size:1,uncompressed")
    for encoded in _records(shard, written, entries):
        writer.write(encoded)
        records += 1
    writer.close()
    index = written.parts.get(pixel_index.index_file(shard.file))
    if index:
        entries.save(part, index)
    return records


def _records(shard: Shard, written: Written, entries: pixel_index.Entries) -> Iterator[bytes]:
    options, source = Worker.options, Worker.sources[shard.split]
    for index in range(shard.start, shard.end):
        if Worker.stop.value:
            raise DataError(f"{shard.file}: stopped")
        try:
            image, example = read_square(source, index, options.resize, options.exif_orientation)
        except DataError as error:
            if options.on_bad_image == "raise":
                raise
            # A file's name need not be text; the manifest is.
            written.bad.append(str(error).encode(errors="backslashreplace").decode())
        else:
            image = np.ascontiguousarray(image)  # the next steps are slower on strided rows
            stored = image.data.cast("B")
            if options.encoding == "jpeg":
                stored, image = _as_jpeg(image, written)
            if written.sums:
                written.sums.add(image)
            encoded, start = record.encode(stored, example.label, example.name)
            if options.encoding == "raw":
                entries.add(image, example.label, start)
            yield encoded
        with Worker.counter.get_lock():
            Worker.counter.value += 1


def _as_jpeg(image: np.ndarray, written: Written) -> tuple[bytes, np.ndarray]:
    """Returns an image as JPEG, and the pixels decoded from that; adds to the cost."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    decoded = decode(encoded, "an image just encoded", image.shape[0])
    difference = int(cv2.norm(image, decoded, cv2.NORM_L1))
    before = written.cost
    written.cost = (before[0] + difference, before[1] + image.size, before[2] + len(encoded))
    return encoded, decoded
