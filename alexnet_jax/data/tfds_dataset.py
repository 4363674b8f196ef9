"""TFDS data sets in ArrayRecord files, read without TensorFlow."""

import pathlib
import shutil
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from alexnet_jax.data import drawn_patterns
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.types import DataError, Example, Source
from alexnet_jax.errors import nearest
from alexnet_jax.host import files


class TfdsDataset(Dataset):
    """A TFDS data set in ArrayRecord files, prepared first where it is not."""

    def __init__(self, name: str, data_dir: str, may_prepare: bool = True) -> None:
        self.name, self._data_dir = name, data_dir or None
        try:
            builder = self._prepared() if may_prepare else self._builder()
        except DataError:
            raise
        except ImportError as error:
            raise DataError(
                f"dataset: TFDS prepares {name} with a package that is not installed ({error}); "
                "pip install tensorflow-cpu tensorboard once, or prepare it elsewhere: to read it "
                "neither is needed"
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

    def contents(self) -> list[str]:
        """Names the data set and its version."""
        return [*super().contents(), self._info.full_name]

    def _prepared(self) -> tfds.core.DatasetBuilder:
        builder = self._builder()
        if builder.is_prepared():
            return builder
        folder = pathlib.Path(str(builder.data_dir)).parent
        waiting = f"{self.name} is being prepared by another process; waiting for it"
        with files.in_turn(folder, waiting):
            if self._builder().is_prepared():
                return self._builder()
            for left in folder.glob("incomplete.*"):  # of one that was killed: nobody else is here
                shutil.rmtree(left)
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
                f"{nearest(base, known)}? (a folder of your own is named by its path: ./photos)"
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


class _Records(Source):
    def __init__(self, data: Any, class_names: list[str], name: str) -> None:
        self.class_names, self._data, self._name = class_names, data, name

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        record = self._data[index]
        names = (record[key] for key in ("file_name", "id") if record.get(key) is not None)
        name = next(names, index)
        if isinstance(name, bytes):
            name = name.decode(errors="surrogateescape")
        return Example(record["image"], int(record["label"]), str(name))

    def where(self, index: int) -> str:
        """Says data set, split and index."""
        return f"{self._name}[{index}]"
