"""The training state, and its initialisation on the mesh."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import OptimizerConfig
from alexnet_jax.layers.standard_tree import initial_variables
from alexnet_jax.ops import platform
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import optimizer
from alexnet_jax.steps.setup import Setup


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint must hold to resume a run.

    Attributes:
      step: finished updates, 0-d int32.
      params: conv1 .. fc8 with `kernel` and `bias`; float32, or float64 with that precision. If the
        classes do not divide by the devices that share fc8, zeros pad them.
      batch_stats: with batch normalisation norm1 .. norm5 with `mean` and `variance`, else {}.
      opt_state: the velocity, inside optax's state.
      plateau: where the plateau rule stands.
      finite: 0-d bool; False from the first non-finite loss or gradient on; updates then
        change nothing.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    plateau: optimizer.Plateau
    finite: jax.Array

    @property
    def weights(self) -> Any:
        """The standard tree: parameters and statistics, as evaluations and files have them."""
        return self.params | self.batch_stats


def initial_state(setup: Setup) -> TrainState:
    """Computes the state before the first update (under jit, or abstractly)."""
    config = setup.config
    with platform.using(config.kernels):  # init traces a forward pass
        params, batch_stats = initial_variables(
            setup.network, jax.random.key(config.seed), config.image_size
        )
    fc8 = {name: to_equal_shares(leaf, setup) for name, leaf in params["fc8"].items()}
    params = params | {"fc8": fc8}
    return state_without_velocity(config.optimizer, params, batch_stats, 0)


def to_equal_shares(leaf: jax.Array, setup: Setup) -> jax.Array:
    """Pads classes, the last axis, with zeros to a multiple of the devices that share them.

    Logits are cut to the classes, so that the zeros get no gradient, and stay zeros.
    """
    missing = -leaf.shape[-1] % meshes.model_devices(setup.mesh)
    return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, missing)]) if missing else leaf


def state_without_velocity(
    config: OptimizerConfig, params: Any, batch_stats: Any, step: int
) -> TrainState:
    """Returns the state of given parameters after `step` updates, with a velocity of zero."""
    opt_state = optimizer.build(config).init(params)
    start = optimizer.plateau_start()
    return TrainState(jnp.int32(step), params, batch_stats, opt_state, start, jnp.bool_(True))


def abstract_state(setup: Setup) -> TrainState:
    """Returns the state as shapes with their shardings."""
    shapes = jax.eval_shape(lambda: initial_state(setup))
    specs = meshes.specs(shapes, setup.mesh, setup.config.mesh)
    return meshes.placed(shapes, setup.mesh, specs)


def create_state(setup: Setup) -> TrainState:
    """Initialises the state where it belongs; nothing passes through the host."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(setup))
    return jax.jit(lambda: initial_state(setup), out_shardings=shardings)()


def with_weights(state: TrainState, weights: dict[str, dict[str, np.ndarray]]) -> TrainState:
    """Replaces a state's parameters and statistics, and keeps their shardings.

    Args:
      state: on its mesh.
      weights: of some layers of the standard tree, on the host of every process.
    """

    def put(tree: Any) -> Any:
        return tree | {
            layer: {part: _put(weights[layer][part], leaf) for part, leaf in tree[layer].items()}
            for layer in tree.keys() & weights.keys()
        }

    return dataclasses.replace(state, params=put(state.params), batch_stats=put(state.batch_stats))


def _put(array: np.ndarray, leaf: jax.Array) -> jax.Array:
    padded = array.astype(leaf.dtype)
    padded = np.pad(padded, [(0, n - m) for n, m in zip(leaf.shape, padded.shape, strict=True)])
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: padded[index])
