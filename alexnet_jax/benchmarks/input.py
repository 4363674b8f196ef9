"""Input: preparing a store, reading it, decoding on the fly, and resident images.

Files are in the page cache. Reading is measured with one thread pinned to one core, except in rows
that say all cores.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from alexnet_jax.benchmarks import input_loops
from alexnet_jax.benchmarks.rows import Row, alternated, rate, row
from alexnet_jax.config import Config, ConfigError, MeshConfig
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loader import ImageReader, Loader, training_positions
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.store import store_plan
from alexnet_jax.data.store.preparation import Preparation
from alexnet_jax.data.store.shard_writer import Options
from alexnet_jax.data.store.store import UNFINISHED, StoredSplit
from alexnet_jax.data.types import Source
from alexnet_jax.feed import resident
from alexnet_jax.feed.protocol import Cut, Dispatches
from alexnet_jax.host import machine
from alexnet_jax.parallel import mesh

BARE, WITH_SUMS, PREPARE = "decode + resize", "decode + resize + sums + hash", "prepare"
RECORDS, STORE, STREAM = "ArrayRecord reads", "store -> batches", "images -> batches"
SHARDS = 64  # of a split: the last process's work alone is 1 % of a run, as with ImageNet
STORE_ALL, STREAM_ALL = (f"{what}, all cores" for what in (STORE, STREAM))
TORCH, RESIDENT = "torch DataLoader", "resident"


def measure(
    name: str, data_dir: str, batch_size: int, rounds: int, against_torch: bool
) -> list[Row]:
    """Measures every part of the input pipeline on one data set.

    Args:
      name: of the data set, or its folder; it should have a few thousand images.
      data_dir: TFDS's.
      batch_size: images of a batch.
      rounds: of each comparison, alternated.
      against_torch: also compare with a DataLoader of PyTorch that does the same work.

    Raises:
      ConfigError: the data set has fewer images than a batch.
      DataError: it cannot be used.
    """
    dataset = open_dataset(Config(dataset=name, data_dir=data_dir))
    if max(dataset.sizes.values()) < batch_size:
        raise ConfigError(f"--dataset: {name} has no split of {batch_size} images")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        rows = _preparing(dataset, out, rounds)
        print("prepared; reading", flush=True)
        rows += _reading(dataset, out / "store", batch_size, rounds)
        rows += _all_cores(dataset, out / "store", batch_size, rounds, against_torch)
        rows.append(_resident(out / "store", batch_size))
    return rows


def _preparing(dataset: Dataset, folder: pathlib.Path, rounds: int) -> list[Row]:
    out, workers = folder / "store", machine.cores()
    shards = store_plan.shards(dataset, Options(shards=SHARDS))
    sources = {split: dataset.open(split) for split in dataset.sizes}

    def prepared() -> float:
        shutil.rmtree(out, ignore_errors=True)  # its memory in the page cache is used again
        (out / UNFINISHED).mkdir(parents=True)
        making, speed = Preparation(dataset, out, Options(shards=SHARDS)), input_loops.Rate()
        making.write(workers, speed.advance)
        making.finish()
        return speed.now()

    loop = functools.partial(input_loops.images_per_second, sources, shards, workers)
    prepared()  # warm-up: the first use of a page of memory costs more
    rates = alternated(
        {
            BARE: lambda: loop(input_loops.decode),
            WITH_SUMS: lambda: loop(input_loops.decode_sum_and_hash),
            PREPARE: prepared,
        },
        rounds,
    )
    return [row(BARE, rates), row(WITH_SUMS, rates), row(PREPARE, rates, WITH_SUMS)] + [
        row(PREPARE, rates, BARE)
    ]


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keeps this process's threads on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _batches(source: Source, batch_size: int, threads: int, count: int) -> Callable[[], None]:
    reader = ImageReader(source, 256)
    positions = training_positions(0, np.arange(batch_size), len(source))

    def read() -> None:
        loader = Loader(reader, threads, 2)
        for _ in loader.batches(positions, range(1, count + 1), slice(0, batch_size)):
            pass

    return read


def _largest(dataset: Dataset) -> Source:
    return dataset.open(max(dataset.sizes, key=lambda split: dataset.sizes[split]))


def _reading(dataset: Dataset, store: pathlib.Path, batch_size: int, rounds: int) -> list[Row]:
    stored = _largest(open_dataset(Config(dataset=str(store))))
    assert isinstance(stored, StoredSplit)
    count = max(2, 3000 // batch_size)
    streamed_count = max(2, 512 // batch_size)
    indices = np.random.default_rng(0).integers(0, len(stored), count * batch_size)
    for index in range(len(stored)):  # into the page cache
        stored.record(index)

    def bare() -> None:
        for index in indices:
            stored.record(int(index))

    from_store = _batches(stored, batch_size, 1, count)
    from_images = _batches(_largest(dataset), batch_size, 1, streamed_count)
    with _one_core():
        rates = alternated(
            {
                RECORDS: lambda: rate(len(indices), bare),
                STORE: lambda: rate(count * batch_size, from_store),
                STREAM: lambda: rate(streamed_count * batch_size, from_images),
            },
            rounds,
        )
    return [
        row(RECORDS, rates),
        row(STORE, rates, RECORDS, batch_size=batch_size),
        row(STREAM, rates, batch_size=batch_size),
        row(STORE, rates, STREAM, batch_size=batch_size),
    ]


def _all_cores(
    dataset: Dataset, store: pathlib.Path, batch_size: int, rounds: int, against_torch: bool
) -> list[Row]:
    source, cores = _largest(dataset), machine.cores()
    count = max(2 * cores, min(4096, len(source)) // batch_size)
    ours = _batches(source, batch_size, cores, count)
    stored_count = max(2, 6000 // batch_size)
    stored = _batches(
        _largest(open_dataset(Config(dataset=str(store)))), batch_size, cores, stored_count
    )
    contenders = {
        STORE_ALL: lambda: rate(stored_count * batch_size, stored),
        STREAM_ALL: lambda: rate(count * batch_size, ours),
    }
    if against_torch:
        theirs = _torch_loader(source, batch_size, cores, count)
        contenders[TORCH] = theirs
    rates = alternated(contenders, rounds)
    rows = [row(STORE_ALL, rates, batch_size=batch_size)]
    rows.append(row(STREAM_ALL, rates, TORCH if against_torch else None, batch_size=batch_size))
    return rows + ([row(TORCH, rates)] if against_torch else [])


def _torch_loader(source: Source, batch_size: int, workers: int, count: int) -> Callable[[], float]:
    """PyTorch's own way: worker processes that decode with OpenCV, resize alike, and collate."""
    try:
        import torch.utils.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("--against=torch: PyTorch is not installed; pip install torch") from error
    images: Any = _TorchImages(source)
    order = np.resize(
        np.random.default_rng(0).permutation(len(source)), count * batch_size
    ).tolist()

    def run() -> float:
        loader: Any = torch.utils.data.DataLoader(
            images, batch_size, sampler=order, num_workers=workers, prefetch_factor=2
        )
        batches = iter(loader)
        for _ in range(workers):  # all have started, and none has one ready
            next(batches)
        start, seen = time.perf_counter(), 0
        for image, _ in batches:
            seen += len(image)
        return seen / (time.perf_counter() - start)

    return run


class _TorchImages:
    """A map-style data set, as PyTorch wants it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        example = self._source[index]
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(example.image, np.uint8), flags)
        assert image is not None
        height, width = image.shape[:2]
        scale = 256 / min(height, width)
        if scale != 1:
            kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            size = (max(256, round(width * scale)), max(256, round(height * scale)))
            image = cv2.resize(image, size, interpolation=kernel)
        top, left = (image.shape[0] - 256) // 2, (image.shape[1] - 256) // 2
        return np.ascontiguousarray(image[top : top + 256, left : left + 256]), example.label


def _resident(store: pathlib.Path, batch_size: int) -> Row:
    """Measures how fast the host feeds steps from resident images, with all of its work."""
    config = Config(
        dataset=str(store), mesh=MeshConfig(1, 1), feed="resident", batch_size=batch_size
    )
    devices = mesh.build(config.mesh)
    reader = ImageReader(_largest(open_dataset(config)), 256)
    feed = resident.ResidentFeed(config, devices, reader, Cut(batch_size), True)
    steps, rates = 1000, []
    for _ in range(3):
        fed = feed.training(Dispatches(1, steps + 1), bool)
        next(fed)  # puts the first order
        rates.append(rate(steps * batch_size, lambda batches=fed: [None for _ in batches]))
    rates_by_name = {RESIDENT: rates}
    return row(RESIDENT, rates_by_name, batch_size=batch_size)
