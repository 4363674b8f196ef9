"""Checks a store's files against its manifest, and reads every record."""

import pathlib
from typing import Any

import numpy as np

from alexnet_jax.data.decode import read_square
from alexnet_jax.data.store import pixel_index, store
from alexnet_jax.data.store.store import StoredSplit
from alexnet_jax.data.types import DataError
from alexnet_jax.host import files


def record_files(folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the files of records that TFDS would read, each with the names of the classes.

    Raises:
      DataError: TFDS cannot read the store's description.
    """
    info = store.open_description(folder)
    names = store.label_names(info)
    return {file: names for split in info.splits.values() for file in split.filenames}


def check_file(
    folder: pathlib.Path, name: str, manifest: dict[str, Any], class_names: list[str] | None
) -> list[str]:
    """Returns what is wrong with a file, a line each.

    Args:
      folder: the store.
      name: of the file.
      manifest: the store's.
      class_names: for a file of records; None for another.
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
    out = np.empty((1, side, side, 3), np.uint8)
    for index in range(len(records)):
        try:
            image, example = read_square(records, index, side)
        except DataError as error:
            problems.append(str(error))
            continue
        if not -1 <= example.label < len(class_names):
            problems.append(f"{records.where(index)}: label {example.label} is no class")
        if ready:
            good = ready.read(np.array([index]), out.reshape(1, -1))[0]
            if not good or ready.label[index] != example.label or not np.array_equal(out[0], image):
                problems.append(f"{records.where(index)}: is not what is found by its index")
    return problems
