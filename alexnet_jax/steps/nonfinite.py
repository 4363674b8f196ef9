"""The first layer that holds a NaN or Inf."""

from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.config import LAYERS
from alexnet_jax.feed.protocol import DeviceBatch, Fed, Feeding
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps.forward import Forward
from alexnet_jax.steps.gradient import Gradient
from alexnet_jax.steps.setup import Setup


def first_nonfinite_layer(setup: Setup, feeding: Feeding, weights: Any, fed: Fed, at: int) -> str:
    """Computes a batch's layers one by one and returns the first that holds a NaN or Inf.

    Args:
      setup: of the run.
      feeding: of the run.
      weights: the standard tree that the step started from, on the mesh.
      fed: the arrays fed to the update that gave the NaN or Inf.
      at: the number of that update, from 1.
    """
    config, mesh = setup.config, setup.mesh
    specs = meshes.specs(weights, mesh, config.mesh)
    forward = Forward.of(setup, training=True)
    gradient = Gradient(setup, forward)

    def bad(tree: Any) -> jax.Array:
        return jnp.stack([~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).any()

    def outputs(weights: Any, fed: Fed) -> dict[str, jax.Array]:
        batch: DeviceBatch = feeding.training(fed, jnp.int32(at - 1))
        weights = collectives.whole_over_data(weights, specs)
        tensors = {f"parameters of {layer}": weights[layer] for layer in weights}
        tensors["the augmented images"] = gradient.views(batch)
        rows = gradient.rows(batch, at - 1)
        tensors |= forward.outputs(weights, tensors["the augmented images"], rows)
        return collectives.any_device({name: bad(tree) for name, tree in tensors.items()})

    mapped = meshes.per_device(outputs, mesh, specs, feeding.specs)
    nonfinite = jax.device_get(
        compilation.jit(mapped, compilation.Numerics.of(config))(weights, fed)
    )
    # In the order of the computation: jit sorts what it returns by name.
    places = [f"parameters of {layer}" for layer in weights] + ["the augmented images"]
    for place in places + [layer for layer in LAYERS if layer in nonfinite]:
        if nonfinite[place]:
            return place
    return "the gradient (every layer's output is finite)"
