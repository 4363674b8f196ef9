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
    """An undecoded example.

    Attributes:
      encoded: the bytes of an image file.
      label: class number.
      name: what to call it in an error: a path, or data set, split and index.
    """

    encoded: bytes
    label: int
    name: str


class Source(Protocol):
    """One split of a data set, by index."""

    class_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
