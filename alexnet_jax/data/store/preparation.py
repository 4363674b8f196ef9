"""Makes a store: several processes write its shards, and each shard is whole or absent.

STORE/unfinished records what is finished; the same command resumes from there.
"""

import concurrent.futures
import contextlib
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import statistics
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.statistics import PixelSums, Statistics
from alexnet_jax.data.store import store, store_plan
from alexnet_jax.data.store.shard_writer import (
    Options,
    Shard,
    Written,
    files_of,
    start_worker,
    write_shard,
)
from alexnet_jax.data.types import DataError
from alexnet_jax.errors import printable
from alexnet_jax.host import files, mirror, wholeness
from alexnet_jax.host.progress import Progress


def prepare(
    dataset: Dataset, folder: pathlib.Path, options: Options, workers: int
) -> "Preparation | None":
    """Makes a store, or resumes an unfinished one; returns None if it is finished already.

    Args:
      dataset: whose images are stored.
      folder: of the store.
      options: of the store.
      workers: processes.

    Raises:
      DataError: an image or a folder that cannot be used; what is finished is kept.
      FolderInUseError: another process makes the same store.
    """
    refuse_another_folder(folder)
    unfinished = folder / store.UNFINISHED
    if store_plan.finished_already(dataset, folder, options):
        if unfinished.is_dir():  # it was killed at the very end
            with files.only_process(unfinished):
                pass
            shutil.rmtree(unfinished)
        return None
    with mirror.held(folder) as bucket:
        with files.only_process(unfinished):
            made = Preparation(dataset, folder, options, bucket.push if bucket else None)
            if made.done:
                going_on = f"going on in {folder}: {made.done:,} images are there"
                print(printable(going_on), flush=True)
            with Progress("prepare", made.done, made.total, "image") as progress:
                made.write(workers, progress.advance)
            made.finish()
        shutil.rmtree(unfinished)  # its lock is closed, as some disks demand
    return made


def refuse_another_folder(folder: pathlib.Path) -> None:
    """Refuses a folder that holds something else than a store.

    Raises:
      DataError: it does; its files may be TFDS's own.
    """
    begun = (folder / store.MANIFEST).is_file() or (folder / store.UNFINISHED).is_dir()
    if folder.is_dir() and not begun and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty and holds no store; use another --out")


class Preparation:
    """The preparation of one store, new or resumed."""

    def __init__(
        self,
        dataset: Dataset,
        folder: pathlib.Path,
        options: Options,
        publish: Callable[[], None] | None = None,
    ) -> None:
        """Looks at what is there already; the caller holds the folder (`files.only_process`).

        Args:
          dataset: whose images are stored.
          folder: of the store.
          options: of the store.
          publish: called after each shard, if the folder is the copy of a bucket's folder.

        Raises:
          DataError: the folder holds a finished or unfinished store of other data or options, or
            the disk has not enough room.
        """
        self._dataset, self._folder, self._options = dataset, folder, options
        self._publish = publish or (lambda: None)
        self._state = folder / store.UNFINISHED / wholeness.PROGRESS
        self._shards = store_plan.shards(dataset, options)
        self._about: dict[str, dict[str, Any]] = {}
        self._bad: dict[str, list[str]] = {}
        self._cost = np.zeros(3, np.int64)
        self._sums = PixelSums(options.resize)
        self._identity = store_plan.identity(dataset, options)
        if self._state.is_file():
            self._load()
        for left_over in folder.glob("*.part-*"):
            left_over.unlink()
        self._todo = [shard for shard in self._shards if not self._is_written(shard)]
        self._check_room()

    @property
    def total(self) -> int:
        """Images of all splits."""
        return sum(self._dataset.sizes.values())

    @property
    def done(self) -> int:
        """Images in finished shards."""
        return self.total - sum(shard.end - shard.start for shard in self._todo)

    @property
    def bad_images(self) -> list[str]:
        """Images left out so far, a message each, in the order of the shards."""
        return [message for shard in self._shards for message in self._bad.get(shard.file, [])]

    def jpeg_cost(self) -> tuple[float, float] | None:
        """Returns JPEG's mean absolute difference of a channel's value, and bytes per image."""
        difference, pixels, size = self._cost.tolist()
        if not pixels:
            return None
        return difference / pixels, size / (pixels / (3 * self._options.resize**2))

    def write(self, workers: int, advance: Callable[[int], None]) -> None:
        """Writes the shards that are missing.

        Args:
          workers: processes.
          advance: called with images done since the last call, a few times a second.

        Raises:
          DataError: an image that cannot be decoded, a disk that is full; what is finished is kept.
        """
        context = multiprocessing.get_context("spawn")
        counter, stop = context.Value("q", 0), context.Value("b", 0, lock=False)
        sources = {split: self._dataset.open(split) for split in {s.split for s in self._todo}}
        pool = concurrent.futures.ProcessPoolExecutor(
            min(workers, max(1, len(self._todo))),
            context,
            start_worker,
            (sources, self._folder, self._options, counter, stop),
        )
        started: dict[concurrent.futures.Future[Written], Shard] = {}
        noted: set[concurrent.futures.Future[Written]] = set()
        seen = 0
        try:
            with _uninterrupted():  # and the processes that start here never get Ctrl-C
                for shard in self._todo:
                    started[pool.submit(write_shard, shard)] = shard
            while len(noted) < len(started):
                finished, _ = concurrent.futures.wait(
                    started.keys() - noted, 0.2, concurrent.futures.FIRST_COMPLETED
                )
                counted = int(counter.value)
                advance(counted - seen)
                seen = counted
                for future in finished:
                    noted.add(future)
                    self._note(started[future], future.result())
        except BrokenProcessPool as error:
            raise DataError(
                "prepare: a worker died, perhaps for lack of memory; run the same command "
                "again with fewer --workers"
            ) from error
        finally:
            stop.value = 1  # ends shards under way after a bad image or Ctrl-C
            pool.shutdown(wait=True, cancel_futures=True)
            for future in started.keys() - noted:
                if future.done() and not future.cancelled() and not future.exception():
                    self._note(started[future], future.result())
        self._todo = []

    def finish(self) -> None:
        """Describes the finished shards: TFDS's files, statistics, and last the manifest."""
        self._write_metadata()
        described = ["dataset_info.json", "features.json", "label.labels.txt"]
        if self._sums.count:
            Statistics.of(self._sums).save(self._folder)
            described.append(statistics.FILE)
        about = {name: self._about[name] for shard in self._shards for name in self._files(shard)}
        for name in described:
            file = self._folder / name
            about[name] = {"bytes": file.stat().st_size, "sha256": files.sha256(file)}
        manifest: dict[str, Any] = {"format": store.FORMAT} | self._identity
        manifest |= {"bad_images": self.bad_images, "files": about}
        cost = self.jpeg_cost()
        if cost:
            manifest["jpeg"] = {"mean_absolute_difference": cost[0], "bytes_per_image": cost[1]}
        text = json.dumps(store.sealed(manifest), indent=1, ensure_ascii=False) + "\n"
        files.replace_text(self._folder / store.MANIFEST, text)

    def _write_metadata(self) -> None:
        split_infos = []
        for split in sorted(self._dataset.sizes):
            written = [self._about[shard.file] for shard in self._shards if shard.split == split]
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[about["records"] for about in written],
                    num_bytes=sum(about["bytes"] for about in written),
                )
            )
        tfds.folder_dataset.write_metadata(
            data_dir=self._folder,
            features=_features(self._options, self._dataset.class_names),
            split_infos=split_infos,
            filename_template=store.SHARD_NAME,
            description=store.description(self._dataset.name, self._options.resize),
            check_data=False,
        )

    def _files(self, shard: Shard) -> list[str]:
        return files_of(shard, self._options)

    def _is_written(self, shard: Shard) -> bool:
        for name in self._files(shard):
            about, file = self._about.get(name), self._folder / name
            if not about or not file.is_file() or file.stat().st_size != about["bytes"]:
                return False
        return True

    def _note(self, shard: Shard, written: Written) -> None:
        """Renames a finished shard to its final name, and records what it adds.

        It waits for the disk here, where no image waits for it. A shard that was lost and rewritten
        adds nothing new.

        Raises:
          DataError: a rewritten shard differs from the lost one.
        """
        if self._about.get(shard.file, written.about[shard.file]) != written.about[shard.file]:
            raise DataError(
                f"{self._folder / shard.file}: was written before from other images; remove "
                f"{self._folder} and begin again"
            )
        for name, part in written.parts.items():
            file = self._folder / name
            with files.named(file):
                _flush(part)
                part.replace(file)
        counted = shard.file in self._about
        with _uninterrupted():  # all of it or nothing
            self._about |= written.about
            if not counted:
                self._bad[shard.file] = written.bad
                self._cost += np.array(written.cost)
                if written.sums:
                    self._sums.merge(written.sums)
            written.sums = None  # frees the sums: the future keeps `written`
            self._save()
        self._publish()

    def _save(self) -> None:
        text = json.dumps(
            self._identity
            | {"about": self._about, "bad": self._bad, "cost": self._cost.tolist()}
            | {"count": self._sums.count}
        )
        data = io.BytesIO()
        np.savez(
            data,
            text=np.frombuffer(text.encode(), np.uint8),
            pixels=self._sums.pixels,
            products=self._sums.products,
        )
        temporary = self._state.with_suffix(".tmp")
        with files.named(self._state):
            temporary.write_bytes(data.getbuffer())
            _flush(temporary)
            temporary.replace(self._state)

    def _load(self) -> None:
        try:
            arrays = files.read_arrays(self._state)
            noted = json.loads(arrays["text"].tobytes())
            self._sums = PixelSums.of(noted["count"], arrays["pixels"], arrays["products"])
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{error}; remove {self._folder} and begin again") from error
        left_out = any(noted["bad"].values())
        store_plan.refuse_another(self._folder, noted, self._identity, left_out)
        self._about, self._bad = noted["about"], noted["bad"]
        self._cost = np.array(noted["cost"], np.int64)

    def _check_room(self) -> None:
        if self._options.encoding != "raw":
            return
        images = sum(shard.end - shard.start for shard in self._todo)
        lie = [self._folder / name for shard in self._todo for name in self._files(shard)]
        there = sum(file.stat().st_size for file in lie if file.is_file())  # and is replaced
        needed = images * (3 * self._options.resize**2 + 200) - there
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise DataError(
                f"{self._folder}: {needed / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} are "
                "free; make room, or use --encoding=jpeg"
            )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C until the block is done; processes started in the block never get it."""
    late: list[tuple[Any, ...]] = []
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda *about: late.append(about)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what a new process inherits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, before)
    if late and callable(before):
        before(*late[0])


def _flush(path: pathlib.Path) -> None:
    """Flushes a file to the disk, and frees its pages in the cache for the next one.

    A store is often larger than memory. Without this, writing always takes new pages, which cost
    several times as much as reused ones (experiments/input, i1).
    """
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _features(options: Options, class_names: list[str]) -> tfds.features.FeaturesDict:
    shape = (options.resize, options.resize, 3)
    image = (
        tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
        if options.encoding == "raw"
        else tfds.features.Image(shape=shape, encoding_format="jpeg")
    )
    label = tfds.features.ClassLabel(names=class_names)
    return tfds.features.FeaturesDict({"image": image, "label": label, "id": tfds.features.Text()})
