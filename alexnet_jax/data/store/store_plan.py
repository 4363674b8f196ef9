"""The plan of a store: its shards, their sources, and whether a folder already holds them.

A shard holds a fixed range of its split, so that its bytes do not depend on who writes it or when.
"""

import dataclasses
import math
import os
import pathlib
import re
from typing import Any

import alexnet_jax
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.store import store
from alexnet_jax.data.store.shard_writer import Options, Shard
from alexnet_jax.data.types import DataError
from alexnet_jax.errors import printable
from alexnet_jax.host import mirror, paths

# Bytes of pixels, if the number of shards is not given: few enough files for a process to hold open
# (ImageNet: 235 and 10), but for a small split several, which processes can share.
SHARD_BYTES, LEAST_SHARD_BYTES, SHARDS_TO_SHARE = 2**30, 2**25, 16
SHARD_RECORDS = 2**17  # the time in which ArrayRecord finds a record grows with their number


def shards(dataset: Dataset, options: Options) -> list[Shard]:
    """Returns the shards of all splits.

    Raises:
      DataError: a split's name that TFDS cannot have.
    """
    name = re.sub(r"\W+", "_", pathlib.PurePath(dataset.name).name).strip("_").lower() or "images"
    name = re.sub(r"[^a-z0-9_]", "_", name)
    name = name if name[0].isalpha() else f"images_{name}"  # TFDS wants a letter first
    plan = []
    _refuse_class_names(dataset)
    for split, size in sorted(dataset.sizes.items()):
        if not re.fullmatch(r"[A-Za-z0-9_]+", split) or split == "all":  # TFDS's for all splits
            raise DataError(
                f"split {split} of {dataset.name}: a store takes only letters, digits and _ in a "
                "split's name, and no split named all; rename it"
            )
        pixels = size * options.resize**2 * 3
        shared = min(SHARDS_TO_SHARE, math.ceil(pixels / LEAST_SHARD_BYTES))
        automatic = max(shared, math.ceil(pixels / SHARD_BYTES), math.ceil(size / SHARD_RECORDS))
        count = min(options.shards or automatic, size)
        for i in range(count):
            file = f"{name}-{split}.array_record-{i:05d}-of-{count:05d}"
            plan.append(Shard(split, i * size // count, (i + 1) * size // count, file))
    return plan


def _refuse_class_names(dataset: Dataset) -> None:
    """Refuses class names that would change in TFDS's file of one name per line.

    Raises:
      DataError: names such a class.
    """
    for name in dataset.class_names:
        if name != name.strip() or len(name.splitlines()) != 1 or not _is_text(name):
            raise DataError(
                f"class {name!r} of {dataset.name}: begins or ends with a blank, has several lines "
                "or is not text; rename it"
            )


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def identity(dataset: Dataset, options: Options) -> dict[str, Any]:
    """Returns what a store is made of: where it differs, it is another store."""
    return {
        "source": _absolute(dataset.name),
        "splits": dataset.sizes,
        "contents": dataset.digest(),
        "options": dataclasses.asdict(options),
        "version": alexnet_jax.__version__,
    }


def _absolute(source: str) -> str:
    path = paths.local(source, "--dataset")
    if copied := mirror.of(path):
        return copied.url
    return printable(os.path.abspath(path)) if path.is_dir() else source


def finished_already(dataset: Dataset, folder: pathlib.Path, options: Options) -> bool:
    """Does the folder hold the finished store that is asked for?

    Raises:
      DataError: it holds another finished store, or a damaged one.
    """
    if not (folder / store.MANIFEST).is_file():
        return False
    manifest = store.read_manifest(folder)
    refuse_another(folder, manifest, identity(dataset, options), bool(manifest.get("bad_images")))
    problems = store.damaged_files(folder, manifest)
    if problems:
        raise DataError(f"{problems[0]}; restore it, or remove {folder} and prepare it again")
    return True


def refuse_another(
    folder: pathlib.Path, noted: dict[str, Any], wanted: dict[str, Any], left_out: bool
) -> None:
    """Refuses to resume what another source or other options made.

    `on_bad_image` matters only if an image was left out. Otherwise the shards are the same, so a
    preparation that a bad image stopped can resume with skip.

    Raises:
      DataError: says what differs.
    """
    noted = {name: noted[name] for name in wanted if name in noted}  # older ones note less
    if "source" in noted:  # older ones have it as it was spelt
        noted["source"] = _absolute(noted["source"])
    if "options" in noted and not (left_out and wanted["options"]["on_bad_image"] == "raise"):
        free = {"on_bad_image": wanted["options"]["on_bad_image"]}
        noted["options"] = noted["options"] | free
    for name, was in noted.items():
        if was == wanted[name]:
            continue
        differs = f"was begun with {name} = {was}, not {wanted[name]}"
        if name == "contents":
            differs = f"was begun when {wanted['source']} had other classes or files"
        raise DataError(f"{folder} {differs}; use another --out, or remove it")
