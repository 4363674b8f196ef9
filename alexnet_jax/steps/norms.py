"""Mean sizes of weights and of their last update by layer, as the program of 2012 printed them."""

from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.config import LAYERS
from alexnet_jax.steps import optimizer
from alexnet_jax.steps.state import TrainState


def mean_sizes(state: TrainState) -> dict[str, jax.Array]:
    """Returns mean |w| and mean |v| of each tensor, v the velocity: the last update.

    convnet.py printed both after every test ("Layer 'conv1' weights[0]: 1.2e-02 [3.1e-05]").

    Args:
      state: without padding, as from `StoredForm.of`.

    Returns:
      "weights/conv1.kernel", "updates/conv1.kernel", ...: 0-d each.
    """
    trees: dict[str, Any] = {
        "weights": state.params,
        "updates": optimizer.velocity(state.opt_state),
    }
    return {
        f"{name}/{layer}.{part}": jnp.abs(leaf).mean()
        for name, tree in trees.items()
        for layer in sorted(tree, key=lambda layer: (layer not in LAYERS, layer))
        for part, leaf in tree[layer].items()
    }
