"""What an update changes, and how it is born on the mesh."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.model import AlexNet
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import optimizer


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint must hold to go on.

    Attributes:
      step: finished updates, 0-d int32.
      params: the standard tree, conv1 .. fc8 with `kernel` and `bias`; with batch normalisation
        norm1 .. norm5 with `mean` and `variance` too. float32, or float64 with that precision.
      opt_state: the velocity, inside optax's state.
      plateau: where the plateau rule stands.
      finite: has every update been so? 0-d bool; once false, updates change nothing.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    plateau: optimizer.Plateau
    finite: jax.Array


def initial_state(config: Config, model: AlexNet) -> TrainState:
    """Computes the state before the first update (under jit, or abstractly)."""
    image = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.float32)
    params = model.init(jax.random.key(config.seed), image)["params"]
    opt_state = optimizer.build(config.optimizer).init(params)
    return TrainState(jnp.int32(0), params, opt_state, optimizer.plateau_start(), jnp.bool_(True))


def abstract_state(config: Config, model: AlexNet, mesh: Mesh) -> TrainState:
    """Returns the state as shapes with their shardings."""
    shapes = jax.eval_shape(lambda: initial_state(config, model))
    return meshes.placed(shapes, mesh, meshes.specs(shapes, mesh, config.mesh))


def create_state(config: Config, model: AlexNet, mesh: Mesh) -> TrainState:
    """Initialises the state where it belongs; nothing passes through the host."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, model, mesh))
    return jax.jit(lambda: initial_state(config, model), out_shardings=shardings)()
