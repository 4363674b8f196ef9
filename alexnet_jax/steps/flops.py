"""FLOPs of a network, counted from its shapes."""

from alexnet_jax.config import Config
from alexnet_jax.configs.sizes import feature_sizes
from alexnet_jax.layers.standard_tree import abstract_parameters
from alexnet_jax.model import build


def forward_flops(config: Config, num_classes: int) -> dict[str, float]:
    """Returns the FLOP of each layer's products in one image's forward pass, two a multiply-add."""
    network = build(config.model, num_classes, config.precision)
    params = abstract_parameters(network, config.image_size)
    sides = feature_sizes(config)
    side = {"conv1": sides.conv1, "conv2": sides.conv2, "conv5": sides.conv5}
    side |= {"conv3": sides.pool2, "conv4": sides.pool2, "conv6": sides.pool5}
    return {
        layer: 2.0 * leaves["kernel"].size * side.get(layer, 1) ** 2
        for layer, leaves in params.items()
        if "kernel" in leaves
    }


def training_flops(config: Config, num_classes: int) -> float:
    """Returns the FLOP of an image's forward and backward pass. By convention the backward pass
    counts twice the forward pass, if all layers learn.

    A frozen layer does not count the gradient of its weights; a layer below the lowest learning one
    counts no backward pass.
    """
    total, learning = 0.0, False
    for layer, forward in forward_flops(config, num_classes).items():
        learns = layer not in config.optimizer.frozen
        learning = learning or learns
        total += forward * (1 + learns + learning)
    return total
