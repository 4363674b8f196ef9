"""A store: a data set prepared once, as ArrayRecord shards of uint8 squares that TFDS opens too.

STORE/NAME-SPLIT.array_record-00000-of-00004   records of image, label and id
STORE/NAME-SPLIT.pixels-00000-of-00004.npy     offsets of the images in it, if they are raw
STORE/dataset_info.json features.json ...      TFDS's description
STORE/statistics.npz                           colour statistics of the split `train`
STORE/manifest.json                            what made it; size and SHA-256 of every file
"""

import bisect
import copy
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from typing import Any, Self

import numpy as np
from array_record.python import array_record_data_source

from alexnet_jax.data import statistics, tfds_dataset
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.store import pixel_index, record
from alexnet_jax.data.types import DataError, Example, ReadyPixels, Source
from alexnet_jax.errors import printable
from alexnet_jax.host import files, wholeness

MANIFEST = wholeness.MANIFEST
UNFINISHED = "unfinished"  # a folder, while the store is being made
FORMAT = 1
ENCODINGS = ("raw", "jpeg")
DESCRIBED = "centre squares of"
SHARD_NAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's


def is_store(path: pathlib.Path) -> bool:
    """Is it a store: finished, unfinished, or one that has lost a file?"""
    signs = [(path / MANIFEST).is_file(), _is_described(path), _shards(path)]
    return sum(signs) >= 2 or (path / UNFINISHED).is_dir()


def description(name: str, side: int) -> str:
    """Returns how a store describes itself to TFDS."""
    return f"{printable(name)}: {DESCRIBED} {side} pixels"


def _is_described(path: pathlib.Path) -> bool:
    """Does TFDS's description say that it is a store, not a data set that TFDS prepared?"""
    try:
        return DESCRIBED in (path / "dataset_info.json").read_text(errors="replace")
    except OSError:
        return False


def _shards(path: pathlib.Path) -> bool:
    return any(True for _ in path.glob("*.array_record-*-of-*"))


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest with its own digest, by which damage to it is known."""
    return manifest | {"sha256": _digest(manifest)}


def _digest(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of manifest.json, which is written last and marks a store as finished.

    Raises:
      DataError: the store is unfinished, damaged, or of another version.
    """
    file = path / MANIFEST
    if not file.is_file():
        if (path / UNFINISHED).is_dir():
            raise DataError(f"{path}: is not finished; run the same prepare command again to go on")
        if is_store(path):
            raise DataError(f"{file}: is missing; restore it, or prepare the store again")
        raise DataError(f"{path}: is no store" if path.is_dir() else f"{path}: is no folder")
    try:
        manifest = json.loads(file.read_text())
        if "sha256" in manifest and manifest["sha256"] != _digest(manifest):
            raise ValueError("its SHA-256 is not the one that it holds")
        well_formed = manifest["format"] != FORMAT or (
            all(
                isinstance(about["bytes"], int) and isinstance(about["sha256"], str)
                for about in manifest["files"].values()
            )
            and manifest["options"]["encoding"] in ENCODINGS
            and isinstance(manifest["options"]["resize"], int)
            and isinstance(manifest["options"]["exif_orientation"], bool)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: cannot be read ({error!r}); prepare the store again") from error
    if not well_formed:
        raise DataError(f"{file}: is damaged; restore it, or prepare the store again")
    if manifest["format"] != FORMAT:
        raise DataError(f"{file}: is of format {manifest['format']}, this version reads {FORMAT}")
    return manifest


def damaged_files(path: pathlib.Path, manifest: dict[str, Any]) -> list[str]:
    """Returns a line for each file that differs from the manifest: compares the sizes of all files,
    and the bytes of those that describe the records."""
    problems = []
    for name, about in manifest["files"].items():
        file = path / name
        if not file.is_file():
            problems.append(f"{file}: is missing")
        elif file.stat().st_size != about["bytes"]:
            size = file.stat().st_size
            problems.append(f"{file}: holds {size:,} bytes, not {about['bytes']:,}: it is cut")
        elif "records" not in about and files.sha256(file) != about["sha256"]:
            problems.append(f"{file}: its SHA-256 is not the manifest's")
    return problems


def open_description(path: pathlib.Path) -> Any:
    """Returns TFDS's description of a store.

    Raises:
      DataError: TFDS cannot read it.
    """
    info = tfds_dataset.builder_in(path).info
    try:
        label_names(info)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: its description names no classes ({error!r})") from error
    return info


def label_names(info: Any) -> list[str]:
    """Returns the classes that TFDS's description of a store names, in label order."""
    return list(info.features["label"].names)


class Store(Dataset):
    """A finished store.

    Attributes:
      side: pixels of its images' sides.
      statistics: colour statistics of its split `train`, or None where it has no such split.
    """

    prepared = True

    def __init__(self, path: pathlib.Path) -> None:
        """Opens a store and checks the sizes of its files.

        Raises:
          DataError: it is not finished, or a file is missing, cut or damaged.
        """
        self.name = str(path)
        self.manifest = read_manifest(path)
        problems = damaged_files(path, self.manifest)
        if problems:
            more = f" ({len(problems)} files are damaged)" if len(problems) > 1 else ""
            raise DataError(f"{problems[0]}{more}; restore it, or prepare the store again")
        info = open_description(path)
        self._path, self._info = path, info
        self.class_names = label_names(info)
        self.sizes = {split: about.num_examples for split, about in info.splits.items()}
        self.side = int(self.manifest["options"]["resize"])
        has_statistics = statistics.FILE in self.manifest["files"]
        self.statistics = statistics.Statistics.load(path) if has_statistics else None

    def contents(self) -> list[str]:
        """Names every file with its SHA-256."""
        about = sorted(self.manifest["files"].items())
        return [*super().contents(), *(f"{name} {one['sha256']}" for name, one in about)]

    def fingerprint(self) -> str:
        """Returns the digest: it is of every byte."""
        return self.digest()

    def left_out(self, spec: str) -> int:
        """Returns how many images of a split were left out when it was prepared."""
        name, *_ = self._range(spec)
        return self.manifest.get("splits", {}).get(name, self.sizes[name]) - self.sizes[name]

    def _whole(self, split: str) -> Source:
        about = self._info.splits[split]
        files = [self._path / name for name in about.filenames]
        raw = self.manifest["options"]["encoding"] == "raw"
        indexed = all(
            pixel_index.index_file(name) in self.manifest["files"] for name in about.filenames
        )
        lengths = list(about.shard_lengths)
        return StoredSplit(files, lengths, self.class_names, self.side, raw, indexed)


@dataclasses.dataclass(frozen=True)
class _WholeFile:
    """A file with a known count, so that ArrayRecordDataSource need not read its footer for it."""

    filename: bytes  # a path need not be valid text
    examples_in_shard: int
    take: int
    skip: int = 0


class StoredSplit(Source):
    """Records of a split, by index."""

    def __init__(
        self,
        files: list[pathlib.Path],
        lengths: list[int],
        class_names: list[str],
        side: int,
        raw: bool,
        indexed: bool,
    ) -> None:
        """Opens shards.

        Args:
          files: the shards.
          lengths: records of each.
          class_names: in label order.
          side: of the images.
          raw: are they pixels, or JPEG?
          indexed: do indices say where the pixels lie? Stores of early versions have none.
        """
        self.class_names, self._files, self._raw = class_names, files, raw
        self._lengths, self._indexed = lengths, indexed
        self._shape, self._size = (side, side, 3), side * side * 3
        self._ends = list(itertools.accumulate(lengths))
        wholes: list[Any] = [
            _WholeFile(os.fsencode(f), n, n) for f, n in zip(files, lengths, strict=True)
        ]
        self._records: Any = array_record_data_source.ArrayRecordDataSource(wholes)

    def __len__(self) -> int:
        return self._ends[-1]

    def where(self, index: int) -> str:
        """Names the shard and the record in it."""
        shard = bisect.bisect_right(self._ends, index)
        start = self._ends[shard - 1] if shard else 0
        return f"{self._files[shard]}[{index - start}]"

    def record(self, index: int) -> bytes:
        """Returns a record as it is stored."""
        return self._records[index]

    def fetched(self, some: range) -> Self:
        """Returns the same split, with only some of its records, which are read already.

        One call reads them all: the time of each ArrayRecord call grows with the records of a
        shard, 12 ms if it has 900,000.

        Raises:
          ValueError, RuntimeError, IndexError, OSError: one cannot be read.
        """
        part = copy.copy(self)
        part._records = dict(zip(some, self._records.__getitems__(list(some)), strict=True))
        return part

    def __getitem__(self, index: int) -> Example:
        try:
            stored, label, name = record.decode(self.record(index))
        except DataError as error:
            raise DataError(f"{self.where(index)}: {error}") from error
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise DataError(f"{self.where(index)}: cannot be read ({reason})") from error
        if not self._raw:
            return Example(bytes(stored), label, name)
        pixels = np.frombuffer(stored, np.uint8)
        if pixels.size != self._size:
            raise DataError(f"{self.where(index)}: holds {pixels.size:,} bytes of pixels")
        return Example(pixels.reshape(self._shape), label, name)

    def pixels(self) -> ReadyPixels | None:
        """Returns the stored pixels if they are indexed; else None.

        Raises:
          DataError: names an index that is damaged.
        """
        if not self._indexed:
            return None
        return pixel_index.Pixels.of(self._files, self._lengths, self._size)
