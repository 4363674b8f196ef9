"""The form of a state in a checkpoint, which every mesh reads: classes without their padding."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from alexnet_jax.config import ConfigError
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import optimizer
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import TrainState, abstract_state

FC8 = ("fc8",)


class StoredForm:
    """Maps a state to its form in a checkpoint, and back, on the devices.

    If the classes divide by the devices that share fc8, both forms are the same. Otherwise a
    checkpoint has fc8 at its true width, cut by its inputs, which divide: no device ever holds all
    of it.
    """

    def __init__(self, setup: Setup) -> None:
        """Prepares the maps of a run.

        Raises:
          ConfigError: with ZeRO the inputs of fc8 are too few to be cut.
        """
        self._placed = abstract_state(setup)
        self.abstract = self._placed
        classes, mesh, fc8 = setup.network.num_classes, setup.mesh, _fc8(self._placed)
        self._pads = jax.tree.leaves(fc8)[0].shape[-1] != classes
        if not self._pads:
            return
        specs = jax.tree.map(lambda leaf: leaf.sharding.spec, fc8)
        cut = jax.tree.map(meshes.cut_by_inputs, specs)
        self.abstract = _with_fc8(
            self._placed,
            jax.tree.map(
                lambda leaf, spec: meshes.placed_as(
                    jax.ShapeDtypeStruct((*leaf.shape[:-1], classes), leaf.dtype), mesh, spec
                ),
                fc8,
                cut,
            ),
        )
        try:
            jax.tree.map(lambda leaf: leaf.sharding.shard_shape(leaf.shape), _fc8(self.abstract))
        except ValueError as error:
            raise ConfigError(
                f"mesh.zero: the inputs of fc8 cannot be shared by {mesh.devices.size} devices "
                f"when {classes:,} classes are saved; use mesh.zero=False"
            ) from error

        def unpadded(tree: Any, _: Any) -> Any:
            return jax.tree.map(lambda x: collectives.units_to_inputs(x, classes), tree)

        def padded(tree: Any, _: Any) -> Any:
            return jax.tree.map(collectives.inputs_to_units, tree)

        def jitted(function: Callable[[Any, Any], Any], before: Any, after: Any) -> Any:
            mapped = meshes.per_device(function, mesh, before, meshes.EVERYWHERE, after)
            return jax.jit(lambda tree: mapped(tree, ()))

        self._unpadded, self._padded = jitted(unpadded, specs, cut), jitted(padded, cut, specs)
        self._padded_weights = jitted(padded, cut[0], specs[0])

    @property
    def abstract_weights(self) -> Any:
        """What `weights` returns, as shapes with their shardings."""
        return self._placed.weights

    def of(self, state: TrainState) -> TrainState:
        """Returns a state in its checkpoint form."""
        return _with_fc8(state, self._unpadded(_fc8(state))) if self._pads else state

    def state(self, stored: TrainState) -> TrainState:
        """Returns the state that a checkpoint form stands for."""
        return _with_fc8(stored, self._padded(_fc8(stored))) if self._pads else stored

    def weights(self, stored: TrainState) -> Any:
        """Returns the standard tree of a checkpoint form, which may lack the velocity."""
        if not self._pads:
            return stored.weights
        return stored.weights | {"fc8": self._padded_weights(stored.params["fc8"])}


def _fc8(state: TrainState) -> tuple[Any, Any]:
    """Returns fc8's parameters and velocity."""
    return state.params["fc8"], optimizer.velocity(state.opt_state)["fc8"]


def _with_fc8(state: TrainState, fc8: tuple[Any, Any]) -> TrainState:
    params, velocity = fc8
    part = optimizer.of_layers(state.opt_state, FC8)
    part = (*part[:-1], part[-1]._replace(trace={"fc8": velocity}))
    return dataclasses.replace(
        state,
        params=state.params | {"fc8": params},
        opt_state=optimizer.replaced(state.opt_state, part),
    )
