"""Where examples come from: any TFDS classification data set, or a folder split/class/image."""

import hashlib
import pathlib
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from alexnet_jax.config import Config, nearest, unknown
from alexnet_jax.data import drawn_patterns
from alexnet_jax.data.types import DataError, Example, Source

EVAL_SPLITS = ("validation", "val", "test")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


class Dataset:
    """A data set's splits, opened by name or by slice.

    Attributes:
      name: as given in the config.
      class_names: in label order.
      sizes: examples of each whole split.
    """

    name: str
    class_names: list[str]
    sizes: dict[str, int]

    def _whole(self, split: str) -> Source:
        raise NotImplementedError

    def open(self, spec: str) -> Source:
        """Opens a split or a slice of one, such as `train[90%:]`.

        Raises:
          DataError: no such split, or an empty slice.
        """
        name, start, end = self._range(spec)
        source = self._whole(name)
        return source if (start, end) == (0, len(source)) else Slice(source, start, end)

    def size(self, spec: str) -> int:
        """Returns how many examples a split or slice has, without opening it."""
        _, start, end = self._range(spec)
        return end - start

    def eval_split(self) -> str:
        """Returns the first of validation, val, test that exists.

        Raises:
          DataError: none does.
        """
        for split in EVAL_SPLITS:
            if split in self.sizes:
                return split
        raise DataError(
            f"eval_split: {self.name} has none of {', '.join(EVAL_SPLITS)} but {sorted(self.sizes)}"
            "; hold out a part, such as train_split=train[:90%] and eval_split=train[90%:]"
        )

    def _range(self, spec: str) -> tuple[str, int, int]:
        base = spec.partition("[")[0]
        if base not in self.sizes:
            raise DataError(f"split of {self.name}: {unknown(base, sorted(self.sizes))}")
        infos = {
            name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
            for name, size in self.sizes.items()
        }
        try:
            instructions = tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
        except (ValueError, AssertionError) as error:
            raise DataError(f"split {spec} of {self.name}: {error}") from error
        if len(instructions) != 1:
            raise DataError(f"split {spec} of {self.name}: one range of one split is needed")
        start, end = instructions[0].from_ or 0, instructions[0].to
        end = self.sizes[base] if end is None else min(end, self.sizes[base])
        if start >= end:
            raise DataError(f"split {spec} of {self.name} holds no example of {self.sizes[base]}")
        return base, start, end


class Slice:
    """A contiguous part of a source."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self.class_names = source.class_names
        self._source, self._start, self._end = source, start, end

    def __len__(self) -> int:
        return self._end - self._start

    def __getitem__(self, index: int) -> Example:
        return self._source[self._start + index]


class Folder(Dataset):
    """A folder of splits of classes of image files.

    Files are in the order of a name hash rather than of classes, so that a slice of a split holds
    every class.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.name = str(path)
        splits = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        names = {c.name for s in splits for c in s.iterdir() if c.is_dir()}
        self.class_names = sorted(n for n in names if not n.startswith("."))
        if not self.class_names:
            raise DataError(f"{path}: no split/class/image inside; is it one level too deep or up?")
        self._files = {split.name: self._list(split) for split in splits}
        self.sizes = {split: len(files) for split, files in self._files.items() if files}

    def _list(self, split: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
        label = {name: i for i, name in enumerate(self.class_names)}
        found = [
            (file, label[folder.name])
            for folder in split.iterdir()
            if folder.is_dir() and folder.name in label
            for file in folder.iterdir()
            if file.suffix.lower() in SUFFIXES
        ]
        return sorted(found, key=lambda item: _spread(f"{item[0].parent.name}/{item[0].name}"))

    def _whole(self, split: str) -> Source:
        return _Files(self._files[split], self.class_names)


def _spread(name: str) -> tuple[str, str]:
    return hashlib.sha256(name.encode()).hexdigest(), name


class _Files:
    def __init__(self, files: list[tuple[pathlib.Path, int]], class_names: list[str]) -> None:
        self.class_names, self._files = class_names, files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path, label = self._files[index]
        try:
            return Example(path.read_bytes(), label, str(path))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error


class TfdsDataset(Dataset):
    """A TFDS data set in ArrayRecord files, prepared first where it is not."""

    def __init__(self, name: str, data_dir: str) -> None:
        self.name, self._data_dir = name, data_dir or None
        try:
            builder = self._prepared()
        except DataError:
            raise
        except ImportError as error:
            raise DataError(
                f"dataset: TFDS prepares {name} with a package that is not installed ({error}); "
                "pip install 'alexnet_jax[tf]' once, or prepare it elsewhere: reading needs none"
            ) from error
        except (AssertionError, OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"dataset: TFDS cannot open or prepare {name}: {reason}") from error
        features: Any = builder.info.features or {}
        label = features["label"] if "label" in features else None
        if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
            raise DataError(f"dataset: {name} has features {sorted(features)}, not image and label")
        self._info = builder.info
        self._opener: Any = builder
        self.class_names = list(label.names)
        self.sizes = {split: info.num_examples for split, info in builder.info.splits.items()}

    def _prepared(self) -> tfds.core.DatasetBuilder:
        builder = self._builder()
        if builder.is_prepared():
            return builder
        print(f"preparing {self.name} in {builder.data_dir}", flush=True)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(file_format="array_record", download_config=config)
        return self._builder()

    def _builder(self) -> tfds.core.DatasetBuilder:
        if self.name == drawn_patterns.DrawnPatterns.name:
            return drawn_patterns.DrawnPatterns(data_dir=self._data_dir, file_format="array_record")
        base = self.name.partition("/")[0].partition(":")[0]
        folder = pathlib.Path(self._data_dir or constants.DATA_DIR).expanduser() / base
        # Checked here, because TFDS asks the network, and for TensorFlow, about names it lacks.
        known = tfds.list_builders(with_community_datasets=False)
        if base not in known and not folder.is_dir():
            raise DataError(
                f"dataset: there is no folder and no TFDS data set {self.name}; did you mean "
                f"{nearest(base, known)}? (a folder of your own: --config.dataset=./photos)"
            )
        return tfds.builder(self.name, data_dir=self._data_dir)

    def _whole(self, split: str) -> Source:
        try:
            data = self._opener.as_data_source(
                split=split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except NotImplementedError as error:
            raise DataError(
                f"dataset: {self.name} is stored as {self._info.file_format}, which cannot be read "
                "by index; prepare it again with file_format='array_record' in another data_dir"
            ) from error
        return _Records(data, self.class_names, f"{self.name} {split}")


class _Records:
    def __init__(self, data: Any, class_names: list[str], name: str) -> None:
        self.class_names, self._data, self._name = class_names, data, name

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        record = self._data[index]
        source_name = record.get("file_name") or record.get("id") or b""
        if isinstance(source_name, bytes):
            source_name = source_name.decode()
        name = f"{self._name}[{index}] {source_name}".strip()
        return Example(record["image"], int(record["label"]), name)


def open_dataset(config: Config) -> Dataset:
    """Opens what `config.dataset` names.

    Raises:
      DataError: no such data set or folder, or one that is not of images with labels.
    """
    path = pathlib.Path(config.dataset).expanduser()
    if path.is_dir():
        return Folder(path)
    if "/" in config.dataset and config.dataset[0] in "./~":
        raise DataError(f"dataset: there is no folder {path}")
    return TfdsDataset(config.dataset, config.data_dir)
