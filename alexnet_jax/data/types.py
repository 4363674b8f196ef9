"""What the parts of the input pipeline hand to each other."""

from typing import NamedTuple, Protocol

import numpy as np

Batch = dict[str, np.ndarray]


class DataError(ValueError):
    """A data set, split or image that cannot be used; the message names it."""


class Positions(NamedTuple):
    """Examples of one batch, each (B,) int64: stream position, epoch, index in the split, and
    place in the global batch."""

    position: np.ndarray
    epoch: np.ndarray
    index: np.ndarray
    place: np.ndarray


class Example(NamedTuple):
    """One example of a split.

    Attributes:
      image: the bytes of an image file, or its pixels, (side, side, 3) uint8 RGB.
      label: class number; -1 where it is not known.
      name: what the source calls it: a file's name, or its number.
    """

    image: bytes | np.ndarray
    label: int
    name: str


class Source(Protocol):
    """One split of a data set, by index.

    Attributes:
      class_names: in label order.
    """

    class_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def where(self, index: int) -> str:
        """Says where an example lies, for errors: a path, or data set, split and index."""
        ...
