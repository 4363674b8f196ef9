"""A folder of parquet shards of photographs, as Hugging Face's image data sets come (imagenet-1k).

Files are SPLIT-00000-of-00294.parquet with a column `image` of {bytes, path} and a column `label`.
Examples stay in the order of the shards, which come shuffled. A shard is read by row groups, so
that sequential reads are cheap and random ones are not: prepare a store.
"""

import bisect
import functools
import json
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.folder import UNLABELLED
from alexnet_jax.data.imagenet_tars import SYNSET
from alexnet_jax.data.names import Names
from alexnet_jax.data.types import DataError, Example, Source

_SHARD = re.compile(r"(.+?)-(\d+)-of-(\d+)\.parquet")
KEPT = 4  # groups of rows of a split: about 40 MB of photographs


def shards_in(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the parquet shards in a folder, or in its folder `data`; there may be none."""
    for folder in (path, path / "data"):
        if folder.is_dir():
            shards = sorted(p for p in folder.iterdir() if _SHARD.fullmatch(p.name))
            if shards:
                return shards
    return []


class ParquetImages(Dataset):
    """Splits of parquet shards. Images are called CLASS/FILE, as in a folder of their class."""

    def __init__(self, folder: pathlib.Path, shards: list[pathlib.Path]) -> None:
        """Reads all labels and names, but no image.

        Args:
          folder: the folder that the config names.
          shards: from `shards_in`.

        Raises:
          DataError: a shard is missing or damaged, or does not hold images with labels.
        """
        self.name = str(folder)
        splits: dict[str, list[pathlib.Path]] = {}
        for shard in shards:
            match = _SHARD.fullmatch(shard.name)
            assert match
            splits.setdefault(match[1], []).append(shard)
        for split, shards_of_split in splits.items():
            _refuse_missing(split, shards_of_split)
        tables = {
            split: [_Shard(path) for path in shards_of_split]
            for split, shards_of_split in splits.items()
        }
        known = next(iter(tables.values()))[0].class_names
        numbers = _synsets(tables)
        labels = [shard.labels for shards_of_split in tables.values() for shard in shards_of_split]
        most = int(np.concatenate(labels).max(initial=UNLABELLED))
        names = [numbers.get(label, str(label)) for label in range(most + 1)]
        # The numbers of synsets are the same wherever ImageNet comes from; words are not.
        self.class_names = names if len(numbers) == most + 1 else known or names
        if len(self.class_names) <= most:
            raise DataError(f"{folder}: label {most} has no name among {len(self.class_names):,}")
        self._splits = {
            split: _Rows(shards_of_split, self.class_names)
            for split, shards_of_split in tables.items()
        }
        self.sizes = {split: len(source) for split, source in self._splits.items()}
        rows = max(
            shard.largest_group for shards_of_split in tables.values() for shard in shards_of_split
        )
        self.notes = [
            f"parquet is read by groups of up to {rows:,} images, slow in a random order: "
            "python -m alexnet_jax.prepare makes a store of it"
        ]

    def contents(self) -> Iterator[str]:
        """Names every image, in order."""
        yield from super().contents()
        for split, source in sorted(self._splits.items()):
            for name in source.names:
                yield f"{split} {name}"

    def _whole(self, split: str) -> Source:
        return self._splits[split]


def _refuse_missing(split: str, shards: list[pathlib.Path]) -> None:
    count = int(_SHARD.fullmatch(shards[0].name)[3])  # pyright: ignore[reportOptionalSubscript]
    if len(shards) != count:
        raise DataError(
            f"{shards[0].parent}: has {len(shards):,} of the {count:,} shards of {split}; fetch "
            "the others"
        )


def _synsets(tables: dict[str, list["_Shard"]]) -> dict[int, str]:
    """Returns the synset number of each label, which it finds in the file names."""
    numbers: dict[int, str] = {}
    for shard in (shard for shards in tables.values() for shard in shards):
        for label, name in zip(shard.labels.tolist(), shard.files, strict=True):
            synset = SYNSET.search(name) if label >= 0 and label not in numbers else None
            if synset:
                numbers[label] = synset[1]
    return numbers if len(set(numbers.values())) == len(numbers) else {}


class _Shard:
    """One file: its labels and names; its images by groups of rows."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        try:
            file = pq.ParquetFile(path)
            self.class_names = _class_names(file.schema_arrow)
            about = file.read(columns=["label", "image.path"])
            self.labels = np.asarray(about["label"].fill_null(UNLABELLED), np.int32)
            paths = about["image"].combine_chunks().field("path").to_pylist()
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise DataError(
                f"{path}: is not a shard of `image` (bytes, path) and `label` ({reason}); fetch it "
                "again"
            ) from error
        self.files = [name or f"{path.stem}-{row}" for row, name in enumerate(paths)]
        self.ends = np.cumsum(groups).tolist()
        self.largest_group = max(groups, default=0)

    def group(self, number: int) -> list[bytes | None]:
        """Reads the images of a group of rows.

        Raises:
          DataError: it is damaged.
        """
        try:
            column = pq.ParquetFile(self.path).read_row_group(number, columns=["image.bytes"])
            return column["image"].combine_chunks().field("bytes").to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: group {number} is damaged ({error})") from error


def _class_names(schema: Any) -> list[str]:
    """Returns the class names that the `datasets` package wrote; none if it wrote none."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        label = about["info"]["features"]["label"]
        names = label["names"] if isinstance(label.get("names"), list) else []
    except (KeyError, ValueError, TypeError, AttributeError):
        return []
    return [str(name) for name in names]


class _Rows(Source):
    """The rows of a split's shards, by index."""

    def __init__(self, shards: list[_Shard], class_names: list[str]) -> None:
        self.class_names, self._shards = class_names, shards
        self._labels = np.concatenate([shard.labels for shard in shards])
        names = (name for shard in shards for name in shard.files)
        self.names = Names(
            f"{class_names[label]}/{name}" if label >= 0 else name
            for label, name in zip(self._labels.tolist(), names, strict=True)
        )
        self._ends = np.cumsum([len(shard.labels) for shard in shards]).tolist()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        attributes = dict(vars(self))
        attributes.pop("_lock")
        attributes.pop("_group", None)
        return attributes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._labels)

    @functools.cached_property
    def _group(self) -> Any:
        return functools.lru_cache(KEPT)(lambda shard, group: self._shards[shard].group(group))

    def _place(self, index: int) -> tuple[int, int, int]:
        """Returns shard, group of rows, and row in it."""
        shard = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[shard - 1] if shard else 0)
        ends = self._shards[shard].ends
        group = bisect.bisect_right(ends, row)
        return shard, group, row - (ends[group - 1] if group else 0)

    def __getitem__(self, index: int) -> Example:
        shard, group, row = self._place(index)
        with self._lock:  # threads that want the same group read it once
            image = self._group(shard, group)[row]
        if image is None:
            raise DataError(f"{self.where(index)}: has no bytes; the shard refers to other files")
        return Example(image, int(self._labels[index]), self.names[index])

    def where(self, index: int) -> str:
        """Names the shard and the file in it."""
        shard, _, _ = self._place(index)
        return f"{self._shards[shard].path}/{self.names[index].rpartition('/')[2]}"
