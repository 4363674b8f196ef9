"""A data set: its splits, opened by name or by slice."""

import hashlib
from collections.abc import Iterable, Sequence

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.data.types import DataError, Example, ReadyPixels, Source
from alexnet_jax.errors import unknown

SAMPLE = 16  # images of a split that its fingerprint is of, and a few more
EVAL_SPLITS = ("validation", "val", "test")


class Dataset:
    """A data set's splits, opened by name or by slice.

    Attributes:
      name: as given in the config.
      class_names: in label order.
      sizes: examples of each whole split.
      statistics: colour statistics of its split `train`, if it is a store that has them.
      prepared: are its images decoded and cropped already, as in a store?
      notes: remarks for the user, a line each.
    """

    statistics: Statistics | None = None
    prepared: bool = False
    notes: Sequence[str] = ()
    name: str
    class_names: list[str]
    sizes: dict[str, int]

    def _whole(self, split: str) -> Source:
        raise NotImplementedError

    def contents(self) -> Iterable[str]:
        """Names its examples, as far as is known without reading them.

        Data sets whose contents differ are different ones, whatever they are called.
        """
        return [*self.class_names, *(f"{split} {n}" for split, n in sorted(self.sizes.items()))]

    def digest(self) -> str:
        """Returns a SHA-256 of its contents as they are named."""
        sha256, between = hashlib.sha256(), ""
        for line in self.contents():
            sha256.update((between + line).encode(errors="surrogateescape"))
            between = "\n"
        return sha256.hexdigest()

    def fingerprint(self) -> str:
        """Returns a SHA-256 of its contents and of some images of each split.

        It does not depend on where the data set lies. It changes if the same names stand for other
        files, such as images of another resolution.
        """
        sha256 = hashlib.sha256(self.digest().encode())
        for split in sorted(self.sizes):
            source = self.open(split)
            for index in range(0, len(source), max(1, len(source) // SAMPLE)):
                try:
                    image = source[index].image
                except DataError:
                    continue  # the run says more of it, or skips it
                sha256.update(image if isinstance(image, bytes) else image.tobytes())
        return sha256.hexdigest()

    def left_out(self, spec: str) -> int:
        """Returns how many images a split lacks because they could not be prepared."""
        self._range(spec)
        return 0

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
            f"eval_split: {self.name} has none of {', '.join(EVAL_SPLITS)}, but only "
            f"{sorted(self.sizes)}; hold out a part, such as train_split=train[:90%] and "
            "eval_split=train[90%:]"
        )

    def _range(self, spec: str) -> tuple[str, int, int]:
        base = spec.partition("[")[0]
        if base not in self.sizes:
            raise DataError(f"split of {self.name}: {unknown(base, sorted(self.sizes))}")
        import tensorflow_datasets as tfds  # here: it takes 0.2 s, and a prediction has no splits

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


class Slice(Source):
    """A contiguous part of a source."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self.class_names = source.class_names
        self._source, self._start, self._end = source, start, end

    def __len__(self) -> int:
        return self._end - self._start

    def __getitem__(self, index: int) -> Example:
        return self._source[self._start + index]

    def where(self, index: int) -> str:
        """Says where an example lies."""
        return self._source.where(self._start + index)

    def pixels(self) -> ReadyPixels | None:
        """Returns this part of the source's stored pixels."""
        ready = self._source.pixels()
        return ready and ready.part(self._start, self._end)
