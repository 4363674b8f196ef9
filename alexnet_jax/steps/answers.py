"""The likeliest classes of each image of a split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.parallel import processes

BEST = 5  # classes that are kept of each image

Rows = dict[str, jax.Array]


def likeliest(probabilities: jax.Array) -> Rows:
    """Returns `classes`, likeliest first, and their `probabilities`, (B, 5), from (B, K)."""
    best = min(BEST, probabilities.shape[1])
    values, classes = jax.lax.top_k(probabilities, best)
    return {"classes": classes.astype(jnp.int32), "probabilities": values}


@dataclasses.dataclass(frozen=True)
class Answers:
    """A network's answers for every image of a split, in the split's order.

    Attributes:
      labels: (N,) int32, -1 where they are not known.
      readable: (N,) bool.
      classes: (N, 5) int32, likeliest first.
      probabilities: (N, 5) float32.
    """

    labels: np.ndarray
    readable: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray

    def wrong(self, best: int) -> np.ndarray:
        """Returns which images do not have their label among the `best` likeliest, (N,) bool."""
        return ~(self.classes[:, :best] == self.labels[:, None]).any(axis=1)

    @property
    def counted(self) -> np.ndarray:
        """Which images have a label and can be read, (N,) bool."""
        return self.readable & (self.labels >= 0)


class Collector:
    """Fetches the rows of a split's batches, and joins them.

    Fetches each batch when the next one is added: the devices keep working meanwhile, and hold the
    rows of two batches at most.
    """

    def __init__(self) -> None:
        self._last: Rows | None = None
        self._batches: list[dict[str, np.ndarray]] = []
        self._spans: list[tuple[int, int]] = []  # rows that this process's devices have
        self._count = 0

    def add(self, rows: Rows) -> None:
        """Adds a batch: arrays named as in `Answers`, whose first axis is sharded."""
        self._fetch()
        self._last = rows

    def _fetch(self) -> None:
        if self._last is None:
            return
        spans: set[tuple[int, int]] = set()
        batch = {name: self._own(array, spans) for name, array in self._last.items()}
        self._batches.append(batch)
        self._spans += [(self._count + first, self._count + last) for first, last in sorted(spans)]
        self._count += len(batch["labels"])

    @staticmethod
    def _own(array: jax.Array, spans: set[tuple[int, int]]) -> np.ndarray:
        rows = np.zeros(array.shape, array.dtype)
        for shard in array.addressable_shards:
            first, last, _ = shard.index[0].indices(len(array))
            rows[first:last] = jax.device_get(shard.data)
            spans.add((first, last))
        return rows

    def answers(self, count: int) -> Answers:
        """Returns the answers for a split's `count` images; every process must call it."""
        self._fetch()
        names = [field.name for field in dataclasses.fields(Answers)]
        columns = [np.concatenate([batch[name] for batch in self._batches]) for name in names]
        of_all = processes.filled_in(columns, self._spans)
        return Answers(*(array[:count] for array in of_all))
