"""TFDS data sets in ArrayRecord or TFRecord files, read without TensorFlow."""

import contextlib
import http.client
import pathlib
import shutil
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from absl import logging as absl_logging
from google.protobuf.json_format import ParseError
from google.protobuf.message import DecodeError
from tensorflow_datasets.core import constants

from alexnet_jax.data import drawn_patterns, tfrecord
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.types import DataError, Example, Source
from alexnet_jax.errors import nearest, printable
from alexnet_jax.host import files, paths

INFO = "dataset_info.json"
REACHED_WITHIN = 10  # seconds in which the host of a download must answer


class TfdsDataset(Dataset):
    """A TFDS data set; see `by_name` and `in_folder`."""

    def __init__(self, name: str, builder: Any) -> None:
        self.name, self._opener, self._info = name, builder, builder.info
        features: Any = builder.info.features or {}
        label = features["label"] if "label" in features else None
        if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
            raise DataError(f"dataset: {name} has features {sorted(features)}, not image and label")
        self.class_names = list(label.names)
        self.sizes = {split: info.num_examples for split, info in builder.info.splits.items()}

    def contents(self) -> list[str]:
        """Names the data set and its version."""
        return [*super().contents(), self._info.full_name]

    def _whole(self, split: str) -> Source:
        decoders = {"image": tfds.decode.SkipDecoding()}
        kind = self._info.file_format
        try:
            if kind is tfds.core.FileFormat.TFRECORD:
                data: Any = tfrecord.TfRecordSource(self._info, tfds.Split(split), decoders)
            else:
                data = self._opener.as_data_source(split=split, decoders=decoders)
        except ImportError as error:
            raise DataError(
                f"dataset: {self.name} is stored as TFRecord; pip install google-crc32c (the extra "
                "tfrecord) to read it, or prepare it again with file_format='array_record' in "
                "another data_dir"
            ) from error
        except NotImplementedError as error:
            raise DataError(
                f"dataset: {self.name} is stored as {kind}, which cannot be read by index; prepare "
                "it again with file_format='array_record' in another data_dir"
            ) from error
        return _Records(data, self.class_names, f"{self.name} {split}")


def by_name(name: str, data_dir: str, may_prepare: bool = True) -> TfdsDataset:
    """Opens a TFDS data set, and prepares it first if needed.

    Args:
      name: TFDS's name, with a config and a version if one is meant.
      data_dir: where it is kept; empty: TFDS's default.
      may_prepare: if not, an unprepared data set has no splits.

    Raises:
      DataError: there is no such data set, or it cannot be prepared.
    """
    try:
        return TfdsDataset(name, (_prepared if may_prepare else _builder)(name, data_dir))
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"dataset: to prepare {name}, TFDS needs a package that is not installed ({error}); "
            "pip install tensorflow-cpu tensorboard once, or prepare it elsewhere: reading it "
            "needs neither"
        ) from error
    except (AssertionError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"dataset: TFDS cannot open or prepare {name}: {reason}") from error


def in_folder(path: pathlib.Path) -> TfdsDataset:
    """Opens the data set that TFDS prepared in a folder, that of a version.

    Raises:
      DataError: its description cannot be read, or is not of images with labels.
    """
    return TfdsDataset(str(path), builder_in(path))


def builder_in(path: pathlib.Path) -> Any:
    """Returns the TFDS builder that a folder's description defines.

    Raises:
      DataError: it cannot be read.
    """
    try:
        builder = tfds.builder_from_directory(path)
        for split in builder.info.splits.values():
            _ = split.filenames
        return builder
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParseError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: TFDS cannot read its description ({reason})") from error


def prepared_in(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the newest version that TFDS prepared in a folder.

    Args:
      path: the folder of a version, a config or a data set.

    Raises:
      DataError: several data sets or configs are there.
    """
    if _is_described(path):
        return path
    folders = [info.parent for info in (*path.glob(f"*/{INFO}"), *path.glob(f"*/*/{INFO}"))]
    folders = [folder for folder in folders if _is_described(folder)]
    versions = [folder for folder in folders if tfds.core.Version.is_valid(folder.name)]
    kinds = {folder.parent for folder in versions}
    if len(kinds) > 1:
        names = sorted(str(kind) for kind in kinds)
        raise DataError(
            f"dataset: {path} holds {len(names)} data sets of TFDS; name one, such as {names[0]}"
        )
    return max(versions, key=lambda folder: tfds.core.Version(folder.name), default=None)


def _is_described(folder: pathlib.Path) -> bool:
    """Does it hold both of TFDS's files? Other tools also write a file named like the first."""
    return (folder / INFO).is_file() and (folder / "features.json").is_file()


@contextlib.contextmanager
def _quietly(own_bar: bool) -> Iterator[None]:
    """Silences TFDS's warnings about an ordinary first use: a notebook shows every line.

    Args:
      own_bar: hide TFDS's bars? The builder then shows one of its own.
    """
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    if own_bar:
        tfds.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tqdm.TqdmWarning)  # no widgets
            yield
    finally:
        absl_logging.set_verbosity(before)
        if own_bar:
            tfds.enable_progress_bar()


def _prepared(name: str, data_dir: str) -> Any:
    with _quietly(own_bar=name == drawn_patterns.DrawnPatterns.name):
        return _prepared_once(name, data_dir)


def _prepared_once(name: str, data_dir: str) -> Any:
    builder = _builder(name, data_dir)
    if builder.is_prepared():
        return builder
    folder = pathlib.Path(str(builder.data_dir)).parent
    with files.in_turn(folder, f"{name} is being prepared by another process; waiting for it"):
        if _builder(name, data_dir).is_prepared():
            return _builder(name, data_dir)
        for left in folder.glob("incomplete.*"):  # of one that was killed: nobody else is here
            shutil.rmtree(left)
        _refuse_unreachable(name, data_dir, builder)
        print(printable(f"preparing {name} in {builder.data_dir}"), flush=True)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(file_format="array_record", download_config=config)
        return _builder(name, data_dir)


def _builder(name: str, data_dir: str) -> Any:
    local = str(paths.local(data_dir, "data_dir")) if data_dir else None  # of a bucket a copy
    if name == drawn_patterns.DrawnPatterns.name:
        return drawn_patterns.DrawnPatterns(data_dir=local, file_format="array_record")
    base = name.partition("/")[0].partition(":")[0]
    folder = pathlib.Path(local or paths.local(constants.DATA_DIR, "data_dir")) / base
    # Checked here: for an unknown name TFDS would query the network, and need TensorFlow.
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known and not folder.is_dir():
        raise DataError(
            f"dataset: there is no folder and no TFDS data set {name}; did you mean "
            f"{nearest(base, known)}? (a folder of your own is named by its path: ./photos)"
        )
    return tfds.builder(name, data_dir=local)


def _refuse_unreachable(name: str, data_dir: str, builder: Any) -> None:
    """Fails at once if a download cannot succeed; TFDS would try each file for minutes.

    Raises:
      DataError: names the host that cannot be reached.
    """
    urls = [url for url in builder.url_infos or () if url.startswith(("http://", "https://"))]
    downloads = paths.local(data_dir or constants.DATA_DIR, "data_dir") / "downloads"
    if not urls or _is_downloaded(urls, downloads) or not (why := _unreachable(urls[0])):
        return
    raise DataError(
        f"dataset: {name} is not prepared in {builder.data_dir}, and "
        f"{urllib.parse.urlsplit(urls[0]).hostname}, where TFDS downloads it, cannot be reached "
        f"({why}); prepare it where there is a network and copy that folder, or name a folder of "
        "photographs"
    )


def _is_downloaded(urls: Sequence[str], downloads: pathlib.Path) -> bool:
    """Was one of the files downloaded before? TFDS notes where each is from."""
    notes = [*downloads.glob("*.INFO"), *downloads.glob("*/*.INFO")]
    texts = [note.read_text(errors="replace") for note in notes]
    return any(url in text for url in urls for text in texts)


def _unreachable(url: str) -> str:
    """Returns why the host does not answer; "" if it does."""
    why = ["no answer"]

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=REACHED_WITHIN).close()
            why[0] = ""
        except (urllib.error.HTTPError, http.client.HTTPException, ConnectionResetError):
            why[0] = ""  # an answer; TFDS says more of it
        except (OSError, ValueError) as error:
            if isinstance(getattr(error, "reason", error), ssl.SSLError):
                why[0] = ""  # TFDS trusts others
                return
            why[0] = " ".join(str(getattr(error, "reason", error)).split())[:200]

    # A thread, for nothing else bounds how long the name of a host is looked up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACHED_WITHIN + 1)
    return why[0]


class _Records(Source):
    def __init__(self, data: Any, class_names: list[str], name: str) -> None:
        self.class_names, self._data, self._name = class_names, data, name

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        try:
            record = self._data[index]
            image, label = record["image"], int(record["label"])
        except (DecodeError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.where(index)}: cannot be read ({error})") from error
        names = (record[key] for key in ("file_name", "id") if record.get(key) is not None)
        name = next(names, index)
        if isinstance(name, bytes):
            name = name.decode(errors="surrogateescape")
        return Example(image, label, str(name))

    def where(self, index: int) -> str:
        """Says data set, split and index."""
        return f"{self._name}[{index}]"
