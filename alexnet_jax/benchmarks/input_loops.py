"""Baselines for `prepare`: loops over all cores that write nothing.

Their processes import exactly what `prepare`'s workers import, live as long, and are timed in the
same way.
"""

import concurrent.futures
import hashlib
import multiprocessing
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from alexnet_jax.data.decode import read_square
from alexnet_jax.data.statistics import PixelSums
from alexnet_jax.data.store.shard_writer import TRAIN, Options, Shard, Worker, start_worker
from alexnet_jax.data.types import DataError, Source


class Rate:
    """Images per second from the first images on, without the start of the processes."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._images = 0

    def advance(self, count: int) -> None:
        """Takes the number of images done since the last call."""
        if self._start is not None:
            self._images += count
        elif count:  # done in a time that is not known
            self._start = time.perf_counter()

    def now(self) -> float:
        """Returns images a second, from when the first came to this call.

        Raises:
          DataError: all images came at once, or none.
        """
        if self._start is None or not self._images:
            raise DataError("--dataset: has too few images to measure how fast they come")
        return self._images / (time.perf_counter() - self._start)


def images_per_second(
    sources: dict[str, Source], shards: list[Shard], workers: int, loop: Callable[[Shard], Any]
) -> float:
    """Returns the rate of a loop of this file.

    Args:
      sources: the splits.
      shards: parts of them, as `prepare` divides its work.
      workers: processes.
      loop: over one shard.
    """
    context, rate, seen = multiprocessing.get_context("spawn"), Rate(), 0
    counter = context.Value("q", 0)
    arguments = (sources, pathlib.Path(), Options(), counter, context.Value("b", 0, lock=False))
    with concurrent.futures.ProcessPoolExecutor(workers, context, start_worker, arguments) as pool:
        waiting = {pool.submit(loop, shard) for shard in shards}
        while waiting:
            finished, waiting = concurrent.futures.wait(
                waiting, 0.2, concurrent.futures.FIRST_COMPLETED
            )
            counted = int(counter.value)
            rate.advance(counted - seen)
            seen = counted
            for future in finished:
                future.result()
    return rate.now()


def decode(shard: Shard) -> None:
    """Decodes and resizes."""
    for _ in _squares(shard):
        pass


def decode_sum_and_hash(shard: Shard) -> str:
    """Decodes and resizes, sums the training split's pixels, and hashes all images."""
    sums = PixelSums(256) if shard.split == TRAIN else None
    digest = hashlib.sha256()
    for square in _squares(shard):
        image = np.ascontiguousarray(square)
        if sums:
            sums.add(image)
        digest.update(image.data)
    return digest.hexdigest()


def _squares(shard: Shard) -> Iterator[np.ndarray]:
    for index in range(shard.start, shard.end):
        yield read_square(Worker.sources[shard.split], index, 256)[0]
        with Worker.counter.get_lock():
            Worker.counter.value += 1
