"""Checks a store's files against its manifest, and reads every record."""

import concurrent.futures
import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax.data.decode import read_square
from alexnet_jax.data.store import pixel_index, store
from alexnet_jax.data.store.store import StoredSplit
from alexnet_jax.data.types import DataError, ReadyPixels
from alexnet_jax.host import files
from alexnet_jax.host.progress import Progress

AT_ONCE = 128  # records that are compared together
MOST_BYTES = 2**25  # of their images


@dataclasses.dataclass(frozen=True)
class Checked:
    """The result of checking a store.

    Attributes:
      files: whole ones.
      records: in all files.
      problems: a line each; none of a store that is as it was written.
    """

    files: int
    records: int
    problems: list[str]


def verify(folder: pathlib.Path, workers: int) -> Checked:
    """Checks every byte and every record of a store.

    Args:
      folder: the store.
      workers: threads.

    Raises:
      DataError: the store cannot be opened.
    """
    manifest = store.read_manifest(folder)
    problems = store.damaged_files(folder, manifest)
    lost = {problem.partition(":")[0] for problem in problems}
    whole = [name for name in manifest["files"] if str(folder / name) not in lost]
    try:
        expected = record_files(folder)
    except DataError as error:
        problems.append(str(error))
        expected = {}
    over = threading.Event()

    def check(name: str) -> list[str]:
        return check_file(folder, name, manifest, expected.get(name), over.is_set)

    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        with Progress("verify", 0, len(whole), "file") as progress:
            for damage in pool.map(check, whole):
                problems += damage
                progress.advance()
    finally:
        over.set()  # after Ctrl-C, stops checks under way: a shard takes minutes
        pool.shutdown(cancel_futures=True)
    records = sum(about.get("records", 0) for about in manifest["files"].values())
    return Checked(len(whole), records, problems)


def record_files(folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the files of records that TFDS would read, each with the names of the classes.

    Raises:
      DataError: TFDS cannot read the store's description.
    """
    info = store.open_description(folder)
    names = store.label_names(info)
    return {file: names for split in info.splits.values() for file in split.filenames}


def check_file(
    folder: pathlib.Path,
    name: str,
    manifest: dict[str, Any],
    class_names: list[str] | None,
    stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Returns what is wrong with a file, a line each.

    Args:
      folder: the store.
      name: of the file.
      manifest: the store's.
      class_names: for a file of records; None for another.
      stop: called now and then; returns True once nobody waits for the result any more.
    """
    about, path = manifest["files"][name], folder / name
    problems = []
    try:
        if files.sha256(path) != about["sha256"]:
            problems.append(f"{path}: its SHA-256 is not the manifest's")
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    if class_names is None or not about.get("records"):
        return problems
    options = manifest["options"]
    raw, side = options["encoding"] == "raw", options["resize"]
    indexed = pixel_index.index_file(name) in manifest["files"]
    records = StoredSplit([path], [about["records"]], class_names, side, raw, indexed)
    try:
        ready = records.pixels()
    except DataError:
        ready = None  # the index is a file of its own, and named as such
    together = max(1, min(AT_ONCE, MOST_BYTES // (3 * side**2)))
    for start in range(0, len(records), together):
        if stop():
            break
        some = range(start, min(start + together, len(records)))
        problems += _check_records(records, some, side, len(class_names), ready)
    return problems


def _check_records(
    records: StoredSplit, some: range, side: int, classes: int, ready: ReadyPixels | None
) -> list[str]:
    """Returns what is wrong with records, a line each, in their order.

    Args:
      records: of a file.
      some: the indices of those to check.
      side: of their images, in pixels.
      classes: the number of classes.
      ready: the pixels of the same records, found by the file's index.
    """
    problems: list[tuple[int, str]] = []
    with contextlib.suppress(ValueError, RuntimeError, IndexError, OSError):  # which: one by one
        records = records.fetched(some)
    images = np.zeros((len(some), side, side, 3), np.uint8)
    labels = np.full(len(some), -1)
    read = np.zeros(len(some), bool)
    for row, index in enumerate(some):
        try:
            images[row], example = read_square(records, index, side)
        except DataError as error:
            problems.append((index, str(error)))
            continue
        labels[row], read[row] = example.label, True
        if not -1 <= example.label < classes:
            where = records.where(index)
            problems.append((index, f"{where}: label {example.label} is no class"))
    if ready:
        pixels = np.zeros_like(images)
        same = ready.read(np.array(some), pixels.reshape(len(some), -1))
        same &= ready.label[some.start : some.stop] == labels
        same &= (pixels == images).all(axis=(1, 2, 3))
        for row in np.flatnonzero(read & ~same):
            where = records.where(some[row])
            problems.append((some[row], f"{where}: is not what is found by its index"))
    return [text for _, text in sorted(problems)]
