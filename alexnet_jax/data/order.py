"""The order of examples: a stateless permutation for each epoch."""

import functools

import numpy as np

from alexnet_jax.data.types import Positions


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the order of one epoch, (num_examples,) int64: a function of its arguments alone.

    It sorts raw Philox words, because NumPy promises that they are the same in every version.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    return np.argsort(words, kind="stable")


def batch_positions(seed: int, step: int, batch_size: int, num_examples: int) -> Positions:
    """Returns what update `step` (the first is 1) consumes.

    Position p of the endless stream lies in epoch p // num_examples; no example is dropped at an
    epoch's end, so a batch may hold the end of one epoch and the start of the next.
    """
    position = (step - 1) * batch_size + np.arange(batch_size, dtype=np.int64)
    epoch = position // num_examples
    index = np.empty(batch_size, np.int64)
    for e in np.unique(epoch):
        here = epoch == e
        index[here] = permutation(seed, int(e), num_examples)[position[here] % num_examples]
    return Positions(position, epoch, index, np.arange(batch_size))
