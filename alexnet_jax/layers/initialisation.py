"""Initial weights (paper section 5, and other variants)."""

from collections.abc import Callable

import jax
from flax.linen import initializers

from alexnet_jax.config import ModelConfig

BiasInit = Callable[[int], initializers.Initializer]  # from the layer's fan in


def kernel_init(model: ModelConfig, layer: str) -> initializers.Initializer:
    """Returns a layer's kernel initialiser: normal with its own deviation, He's or PyTorch's."""
    inputs = (0, 1, 2) if layer.startswith("conv") else 0
    if model.init == "torch":  # torch.nn.Conv2d and Linear: within 1 / sqrt(fan in)
        return initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=inputs)
    if model.init == "he" and layer != "fc8":
        return initializers.he_normal(in_axis=inputs)
    stds = {"conv1": model.conv_std, "conv2": model.conv_std, "fc8": model.fc8_std}
    rest = model.conv345_std if layer.startswith("conv") else model.fc_std
    return initializers.normal(stds.get(layer, rest))


def bias_init(model: ModelConfig, layer: str) -> BiasInit:
    """Returns a layer's bias initialiser: `bias_value` where the paper says so, else 0; or
    PyTorch's uniform draw."""
    if model.init == "torch":
        return lambda fan_in: _uniform(fan_in**-0.5)
    # Paper section 5; conv6 is run #146's.
    positive = layer in ("conv2", "conv4", "conv5", "conv6", "fc6", "fc7")
    return lambda _: initializers.constant(model.bias_value if positive else 0.0)


def _uniform(bound: float) -> initializers.Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
