"""The standard tree, conv1 .. fc8 and norm1 .. norm5: drawn, counted, and passed to modules."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from alexnet_jax.config import FULLY_CONNECTED, LAYERS
from alexnet_jax.layers.linear import PACKED


def layer_outputs(module: nn.Module, method: str) -> bool:
    """Says which outputs to keep, for `apply(..., capture_intermediates=layer_outputs)`.

    They land in the collection `intermediates`: conv1's output, before its ReLU, is
    ["conv1"]["__call__"][0].
    """
    return module.name in LAYERS and method == "__call__"


def of_convolutions(params: Any) -> Any:
    """Returns the part of a parameter tree that `AlexNet.features` reads."""
    return {layer: params[layer] for layer in params if layer not in FULLY_CONNECTED}


def of_classifier(params: Any) -> Any:
    """Returns the part of a parameter tree that `AlexNet.classify` reads."""
    return {layer: params[layer] for layer in params if layer in FULLY_CONNECTED}


def parameters_and_statistics(tree: Any) -> tuple[Any, Any]:
    """Splits the standard tree: conv1 .. fc8, and norm1 .. norm5 ({} without batch normalisation).

    Linen keeps the statistics in a collection of their own; a file has them beside the parameters.
    """
    statistics = {layer: leaves for layer, leaves in tree.items() if layer.startswith("norm")}
    return {layer: tree[layer] for layer in tree if layer not in statistics}, statistics


def variables(tree: Any) -> dict[str, Any]:
    """Returns the variables for `apply`, from this device's part of the standard tree.

    If the classes do not divide by the devices that share fc8, fc8 is padded to equal shares
    (`steps.state`).
    """
    layers = {layer: leaves for layer, leaves in tree.items() if layer != PACKED}
    params, statistics = parameters_and_statistics(layers)
    collections = {"params": params} | ({"batch_stats": statistics} if statistics else {})
    return collections | {name: tree[name] for name in (PACKED,) if name in tree}


def packed(network: nn.Module, tree: Any, image_size: int) -> Any:
    """Returns the standard tree's kernels in the forms that are fastest for inference.

    With `tree | {PACKED: kernels}` a module computes the same to within 1e-5. Returns {} where no
    kernel has another form.
    """
    image = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    _, collections = network.apply(variables(tree), image, mutable=[PACKED])
    return dict(collections).get(PACKED, {})


def logits(
    network: nn.Module, params: Any, views: jax.Array, dropout_keys: jax.Array | None = None
) -> jax.Array:
    """Applies a module to its device's part of the standard tree.

    Returns:
      (B, num_classes) float32 from (B, S, S, 3), equal on the devices that share the channels.
    """
    return jnp.asarray(network.apply(variables(params), views, dropout_keys))


def initial_variables(network: nn.Module, key: jax.Array, image_size: int) -> tuple[Any, Any]:
    """Draws the parameters, and the statistics of batch normalisation ({} without it)."""
    image = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    drawn = network.init(key, image)
    return drawn["params"], drawn.get("batch_stats", {})


def abstract_parameters(network: nn.Module, image_size: int) -> dict:
    """Returns the standard tree as shapes, without computing anything."""
    params, statistics = jax.eval_shape(
        lambda: initial_variables(network, jax.random.key(0), image_size)
    )
    return params | statistics


def count_parameters(params: dict) -> int:
    """Returns how many numbers a parameter tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
