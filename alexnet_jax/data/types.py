"""Types that the parts of the input pipeline exchange.

What an image's numbers are called, everywhere:

position  in the stream of all examples ever used: (update - 1) * batch_size + place
epoch     position // N, of a split of N examples
index     of the example in its split, 0 .. N - 1: where its bytes are
place     in the global batch, 0 .. batch_size - 1: what dropout is drawn from
row       of an array that holds a batch, in the order that a mesh wants: `mesh.row_order`
"""

from typing import NamedTuple, Protocol, Self

import numpy as np

from alexnet_jax.errors import UserError

Batch = dict[str, np.ndarray]


class DataError(UserError, ValueError):
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


class ReadyPixels(Protocol):
    """Images of a split that are stored as pixels, which can be read directly."""

    @property
    def size(self) -> int:
        """Bytes of an image."""
        ...

    @property
    def label(self) -> np.ndarray:
        """(N,) int32."""
        ...

    def part(self, start: int, end: int) -> Self:
        """Returns images start .. end - 1."""
        ...

    def labelled(self, labels: list[int]) -> Self:
        """Returns the same images with labels[label] in the place of each label; -1 stays."""
        ...

    def read(self, indices: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Reads images into the rows of `out`, (n, size) uint8; returns (n,) bool: which of them
        are as they were written."""
        ...


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

    def pixels(self) -> ReadyPixels | None:
        """Returns its images as stored pixels; None if they come only as examples.

        Raises:
          DataError: the index of the pixels is damaged.
        """
        return None
