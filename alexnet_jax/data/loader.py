"""Batches of uint8 images, read ahead in Grain's threads into a few reused buffers."""

import threading
from collections.abc import Callable, Generator

import numpy as np

from alexnet_jax.data.decode import read_square
from alexnet_jax.data.order import batch_positions
from alexnet_jax.data.store.pixel_index import TOGETHER
from alexnet_jax.data.types import Batch, DataError, Positions, Source
from alexnet_jax.data.words import name_of
from alexnet_jax.host import machine

SAID = 32  # images that a thread reads between two reports of progress, at least
MOST_THREADS = 16  # if `read_threads` is 0
ALIGNMENT = 64  # bytes: a device can read memory aligned like this without another copy


class ImageReader:
    """Decodes examples of one split, and remembers which cannot be."""

    def __init__(
        self,
        source: Source,
        side: int,
        exif_orientation: bool = False,
        on_bad_image: str = "raise",
        kernels: str = "auto",
    ) -> None:
        """Prepares reading.

        Args:
          source: of the split.
          side: of the squares, in pixels.
          exif_orientation: turn photographs as their EXIF field says.
          on_bad_image: raise, or skip.
          kernels: auto, or reference: a store's records by ArrayRecord's own reader alone.

        Raises:
          DataError: a store's index that is damaged.
        """
        self.side = side
        self._source, self._exif = source, exif_orientation
        ready = source.pixels() if kernels == "auto" else None
        self._ready = ready if ready and ready.size == side * side * 3 else None
        self._skip = on_bad_image == "skip"
        self._bad: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    @property
    def together(self) -> int:
        """How many images a thread should read at once, if there are that many."""
        return TOGETHER if self._ready else 1

    @property
    def bad_images(self) -> list[str]:
        """What could not be decoded so far, one message each."""
        with self._lock:
            return sorted(self._bad.values())

    def read(self, indices: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads or decodes examples into the rows of `out`, (n, side, side, 3) uint8 without gaps.

        Returns:
          (n,) int32 labels and (n,) bool: is the image good? A bad one is zeros, and so is its
          label.

        Raises:
          DataError: names the file, where bad images are not to be skipped.
        """
        label, good = np.zeros(len(indices), np.int32), np.zeros(len(indices), bool)
        if self._ready:
            good = self._ready.read(indices, out.reshape(len(indices), self._ready.size))
            label = np.where(good, self._ready.label[indices], 0)
        for row in np.flatnonzero(~good).tolist():  # reads each by itself, or reports the error
            label[row], good[row] = self._read_example(int(indices[row]), out[row])
        return label, good

    def _read_example(self, index: int, out: np.ndarray) -> tuple[int, bool]:
        try:
            image, example = read_square(self._source, index, self.side, self._exif)
        except DataError as error:
            if not self._skip:
                raise
            out[:] = 0
            with self._lock:
                self._bad[index] = str(error)
            return 0, False
        out[:] = image
        return example.label, True

    def where(self, index: int) -> str:
        """Says where an example lies."""
        return self._source.where(index)

    def name(self, index: int) -> str:
        """Returns what the source calls an example."""
        return self._source[index].name

    def class_name(self, label: int) -> str:
        """Returns the source's name for a class, or its number; "" for -1, an unknown class."""
        return "" if label < 0 else name_of(self._source.class_names, label)


def reading_threads(threads: int) -> int:
    """Returns `read_threads`; if it is 0, one per core, up to MOST_THREADS: more do not help."""
    return threads or min(machine.cores(), MOST_THREADS)


class Loader:
    """Reads batches in order, a few ahead, in threads.

    A failure in a thread is raised from the iterator, at the batch that has it.
    """

    def __init__(
        self,
        reader: ImageReader,
        threads: int,
        ahead: int,
        keep: Callable[[np.ndarray], None] = lambda images: None,
    ) -> None:
        """Prepares reading; no thread starts before batches are requested.

        Args:
          reader: of the split.
          threads: see `reading_threads`.
          ahead: how many batches to read ahead, at least.
          keep: called with each buffer that batches' images are read into, again and again.
        """
        self._reader, self._ahead, self._keep = reader, ahead, keep
        self._threads = reading_threads(threads)

    def batches(
        self,
        positions: Callable[[int], Positions],
        numbers: range,
        rows: slice,
    ) -> Generator[Batch]:
        """Yields some rows of each batch, padded if there are fewer positions.

        A batch stays valid until the fourth one after it is requested; then its memory is reused.

        Args:
          positions: maps the number of a batch to the examples of the whole batch.
          numbers: of the batches.
          rows: the rows of each batch that this process needs: `mesh.local_rows`.

        Yields:
          `image` (B, R, R, 3) uint8; `label`, `index`, `epoch`, `position`, `place` (B,) int32;
          `mask` and `bad` (B,) float32: 1 where there is a good image, and where a bad one.
        """
        size = rows.stop - rows.start
        part = max(-(-size // self._threads), min(self._reader.together, size), 1)
        part = -(-size // -(-size // part)) if size else 1  # as many to each
        firsts = range(0, size, part)
        ahead = max(self._ahead, self._threads // max(1, len(firsts)))  # no thread is idle
        count = min(ahead + 4, len(numbers))
        buffers = [_buffer(size, self._reader.side) for _ in range(count)]
        for buffer in buffers:
            self._keep(buffer["image"])

        def fill(task: int) -> int:
            number, which = numbers[task // len(firsts)], task % len(firsts)
            where = Positions(*(values[rows] for values in positions(number)))
            batch = buffers[task // len(firsts) % len(buffers)]
            self._fill(batch, where, firsts[which], min(firsts[which] + part, size))
            return task

        import grain  # here: it takes 0.1 s, and a prediction reads without it

        # Grain returns the tasks in order, runs that many ahead, and raises their errors.
        tasks = iter(
            grain.MapDataset.range(len(numbers) * len(firsts))
            .map(fill)
            .to_iter_dataset(
                grain.ReadOptions(
                    num_threads=self._threads, prefetch_buffer_size=ahead * len(firsts)
                )
            )
        )
        try:
            for task in tasks:
                if (task + 1) % len(firsts) == 0:
                    yield buffers[task // len(firsts) % len(buffers)]
        finally:
            tasks.close()

    def _fill(self, batch: Batch, where: Positions, first: int, last: int) -> None:
        """Reads rows first .. last - 1 of a batch."""
        for name, values in where._asdict().items():
            batch[name][first:last] = 0
            batch[name][first : min(last, len(values))] = values[first:last]
        indices = where.index[first:last]
        label, good = self._reader.read(indices, batch["image"][first : first + len(indices)])
        for name, values in (("label", label), ("mask", good), ("bad", ~good)):
            batch[name][first:last] = 0
            batch[name][first : first + len(values)] = values


def read_all(
    reader: ImageReader,
    first: int,
    last: int,
    threads: int,
    progress: Callable[[int], None] = lambda images: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads examples first .. last - 1; rows past the end of the split stay zero.

    Args:
      reader: of the split.
      first: the first example.
      last: the example after the last one.
      threads: see `reading_threads`.
      progress: called with the images read since the last call.

    Returns:
      Images (n, R, R, 3) uint8, labels (n,) int32, and (n,) float32: 1 where the image is good.

    Raises:
      DataError: names an image that cannot be read, where such are not to be skipped.
    """
    images = aligned((last - first, reader.side, reader.side, 3))
    label, good = np.zeros(last - first, np.int32), np.zeros(last - first, np.float32)
    inside = max(0, min(last, len(reader)) - first)

    import grain  # see above

    together = max(SAID, reader.together)

    def some(task: int) -> int:
        span = slice(task * together, min((task + 1) * together, inside))
        label[span], good[span] = reader.read(first + np.arange(inside)[span], images[span])
        return span.stop - span.start

    count = -(-inside // together)
    threads = reading_threads(threads)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    tasks = iter(grain.MapDataset.range(count).map(some).to_iter_dataset(options))
    try:
        for done in tasks:
            progress(done)
    finally:
        tasks.close()
    return images, label, good


def _buffer(size: int, side: int) -> Batch:
    batch: Batch = {"image": aligned((size, side, side, 3))}
    for name in ("label", *Positions._fields):
        batch[name] = np.zeros(size, np.int32)
    for name in ("mask", "bad"):
        batch[name] = np.zeros(size, np.float32)
    return batch


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns uint8 zeros whose first byte lies on a multiple of ALIGNMENT."""
    count = int(np.prod(shape))
    memory = np.zeros(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count].reshape(shape)


def training_positions(
    seed: int, order: np.ndarray, num_examples: int
) -> Callable[[int], Positions]:
    """Returns a function from the number of an update (the first is 1) to what it consumes.

    Args:
      seed: of the run.
      order: place in the global batch of each row to read, (B,): `mesh.row_order`.
      num_examples: of the split.
    """

    def positions(step: int) -> Positions:
        batch = batch_positions(seed, step, len(order), num_examples)
        return Positions(*(values[order] for values in batch))

    return positions


def evaluation_positions(batch_size: int, num_examples: int) -> Callable[[int], Positions]:
    """Returns a function from a batch's number to its examples: each example once, in order.

    The last of `evaluation_batches` may be smaller.
    """

    def positions(number: int) -> Positions:
        first = number * batch_size
        index = np.arange(first, min(first + batch_size, num_examples))
        return Positions(index, np.zeros_like(index), index, index - first)

    return positions


def evaluation_batches(batch_size: int, num_examples: int) -> range:
    """Returns the numbers of the batches that hold every example once."""
    return range(-(-num_examples // batch_size))
