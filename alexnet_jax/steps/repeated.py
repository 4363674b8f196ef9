"""Several updates in one dispatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.feed.protocol import Fed
from alexnet_jax.steps.state import TrainState

Step = Callable[[TrainState, Fed], tuple[TrainState, dict[str, Any]]]


class Repeated:
    """Several updates in one dispatch; the host is not asked between them.

    Figures have one more axis, of `most` updates; those past fed["steps"] are zeros.
    """

    def __init__(self, one: Step, most: int) -> None:
        self._one, self._most = one, most

    def __call__(self, state: TrainState, fed: Fed) -> tuple[TrainState, dict[str, Any]]:
        """Learns from fed["steps"] batches."""
        _, shapes = jax.eval_shape(self._one, state, fed)
        room = jax.tree.map(lambda leaf: jnp.zeros((self._most, *leaf.shape), leaf.dtype), shapes)

        def again(update: jax.Array, carried: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
            state, figures = self._one(carried[0], fed)
            return state, jax.tree.map(
                lambda stacked, new: stacked.at[update].set(new), carried[1], figures
            )

        return jax.lax.fori_loop(0, fed["steps"], again, (state, room))
