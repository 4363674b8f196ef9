"""An update computed again, without effect: do the devices give the same bits twice?"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.feed.protocol import Fed, Feeding
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import digests
from alexnet_jax.steps.digests import ReplicaError
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import TrainState, abstract_state
from alexnet_jax.steps.training import TrainStep


class _Watched(TrainStep):
    """An update that returns each device's digests of its results instead of the results."""

    def __call__(self, state: TrainState, fed: Fed) -> jax.Array:  # pyright: ignore
        """Returns (data, model, leaves, 2) uint32: gradients before they are summed over devices,
        then the new state."""
        self._sums: dict[str, jax.Array] = {}
        new, _ = super().__call__(state, fed)
        self._watch("new ", new)
        self.names = list(self._sums)
        return collectives.of_every_device(jnp.stack(list(self._sums.values())))

    def _watch(self, kind: str, tree: Any) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = kind + digests.name_of(path)
            # A classifier that learns in passes comes here once per pass: add them all.
            self._sums[name] = self._sums.get(name, 0) + digests.of_part(leaf)

    def _summed(self, grads: Any) -> Any:
        self._watch("gradient of ", grads)
        return super()._summed(grads)


class Replay:
    """A separate executable that donates nothing and keeps only its digests."""

    def __init__(self, setup: Setup, feeding: Feeding) -> None:
        """Compiles it; its memory is that of an update less the new state."""
        state, mesh, config = abstract_state(setup), setup.mesh, setup.config
        specs = meshes.specs(state, mesh, config.mesh)
        self._step = _Watched(setup, feeding, specs)
        self._mesh = mesh
        self.compiled = compilation.compiled(
            meshes.per_device(self._step, mesh, specs, feeding.specs),
            state,
            feeding.abstract(mesh),
            numerics=compilation.Numerics.of(config),
        )

    def start(self, state: TrainState, fed: Fed) -> jax.Array:
        """Starts an update; the state may be donated afterwards."""
        return self.compiled(state, fed)

    def compare(self, once: jax.Array, again: jax.Array) -> None:
        """Compares two results of `start` from the same state and batch.

        Raises:
          ReplicaError: names the first leaf that differs, and the device.
        """
        first, second = (np.asarray(jax.device_get(sums)) for sums in (once, again))
        differ = np.argwhere((first != second).any(axis=-1))
        if len(differ):
            # Gradients come first, and are not summed yet: each still belongs to one device.
            data, model, leaf = min(differ.tolist(), key=lambda place: place[2])
            raise ReplicaError(
                f"{self._step.names[leaf]} on {self._mesh.devices[data, model]} was computed twice "
                "and differs"
            )
