"""Batches of decoded images, read ahead in threads."""

import collections
import concurrent.futures
import threading
from collections.abc import Iterator

import numpy as np

from alexnet_jax.data.decode import decode
from alexnet_jax.data.order import batch_positions
from alexnet_jax.data.types import Batch, DataError, Positions, Source


class ImageReader:
    """Decodes examples of one split; keeps them where the whole split fits in `cache_gib`."""

    def __init__(
        self,
        source: Source,
        side: int,
        exif_orientation: bool = False,
        on_bad_image: str = "raise",
        cache_gib: float = 0.0,
    ) -> None:
        self._source, self._side, self._exif = source, side, exif_orientation
        self._skip = on_bad_image == "skip"
        self._bad: dict[int, str] = {}
        self._lock = threading.Lock()
        self._cached = len(source) * side * side * 3 <= cache_gib * 2**30
        count = len(source) if self._cached else 0
        # Untouched pages cost nothing, so the cache grows with what is read.
        self._images = np.empty((count, side, side, 3), np.uint8)
        self._labels = np.full(count, -1, np.int32)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def bad_images(self) -> list[str]:
        """What could not be decoded so far, one message each."""
        with self._lock:
            return sorted(self._bad.values())

    def read(self, index: int, out: np.ndarray) -> tuple[int, bool]:
        """Decodes example `index` into `out`, (side, side, 3) uint8.

        Returns:
          Its label, and whether the image is good. A bad one is zeros.

        Raises:
          DataError: names the file, where bad images are not to be skipped.
        """
        if self._cached and self._labels[index] >= 0:
            out[:] = self._images[index]
            return int(self._labels[index]), index not in self._bad
        label = 0  # of a file that cannot even be opened; it is masked
        try:
            example = self._source[index]
            label = example.label
            out[:] = decode(example.encoded, example.name, self._side, self._exif)
        except DataError as error:
            if not self._skip:
                raise
            out[:] = 0
            with self._lock:
                self._bad[index] = str(error)
        if self._cached:
            self._images[index] = out
            self._labels[index] = label  # last: it marks the image as there
        return label, index not in self._bad


class Loader:
    """Reads given batches in order, a few ahead, in a pool of threads.

    A failure in a thread is raised from the iterator, at the batch that has it.
    """

    def __init__(self, reader: ImageReader, side: int, threads: int, ahead: int) -> None:
        self._reader, self._side, self._ahead = reader, side, ahead
        self._threads = threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, "read")

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, positions: Iterator[Positions], rows: slice) -> Iterator[Batch]:
        """Yields some rows of each batch; where there are fewer positions they are filled up.

        Args:
          positions: of whole batches.
          rows: of each batch, those that this process needs: `mesh.local_rows`.

        Yields:
          `image` (B, R, R, 3) uint8; `label`, `index`, `epoch`, `position`, `place` (B,) int32;
          `mask` and `bad` (B,) float32: 1 where there is a good image, and where a bad one.
        """
        started: collections.deque[tuple[Batch, list[concurrent.futures.Future[None]]]]
        started = collections.deque()
        for where in positions:
            mine = Positions(*(values[rows] for values in where))
            started.append(self._start(mine, rows.stop - rows.start))
            if len(started) > self._ahead:
                yield self._finish(*started.popleft())
        while started:
            yield self._finish(*started.popleft())

    def _start(
        self, where: Positions, batch_size: int
    ) -> tuple[Batch, list[concurrent.futures.Future[None]]]:
        count = len(where.index)
        batch: Batch = {
            "image": np.zeros((batch_size, self._side, self._side, 3), np.uint8),
            "label": np.zeros(batch_size, np.int32),
            "mask": np.zeros(batch_size, np.float32),
            "bad": np.zeros(batch_size, np.float32),
        }
        for name, values in where._asdict().items():
            batch[name] = np.zeros(batch_size, np.int32)
            batch[name][:count] = values
        part = max(1, -(-count // self._threads))
        futures = [
            self._pool.submit(self._fill, batch, first, min(first + part, count))
            for first in range(0, count, part)
        ]
        return batch, futures

    def _fill(self, batch: Batch, first: int, last: int) -> None:
        for i in range(first, last):
            label, good = self._reader.read(int(batch["index"][i]), batch["image"][i])
            batch["label"][i], batch["mask"][i], batch["bad"][i] = label, good, not good

    @staticmethod
    def _finish(batch: Batch, futures: list[concurrent.futures.Future[None]]) -> Batch:
        for future in futures:
            future.result()
        return batch


def training_positions(
    seed: int, first_step: int, last_step: int, order: np.ndarray, num_examples: int
) -> Iterator[Positions]:
    """Yields what updates first_step .. last_step consume.

    Args:
      seed: of the run.
      first_step: the first update, from 1.
      last_step: the last one.
      order: position in the global batch of each row to read, (B,): `mesh.row_order`.
      num_examples: of the split.
    """
    for step in range(first_step, last_step + 1):
        batch = batch_positions(seed, step, len(order), num_examples)
        yield Positions(*(values[order] for values in batch))


def evaluation_positions(batch_size: int, num_examples: int) -> Iterator[Positions]:
    """Yields every example once, in order; the last batch may be smaller."""
    for first in range(0, num_examples, batch_size):
        index = np.arange(first, min(first + batch_size, num_examples))
        yield Positions(index, np.zeros_like(index), index, index - first)
