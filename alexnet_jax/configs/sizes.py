"""Sides of a network's maps and units of its matrices, from its config."""

from typing import NamedTuple

from alexnet_jax.config import Config, ModelConfig


class Sizes(NamedTuple):
    """Sides of the maps after a layer, in pixels; those of conv3 and conv4 are pool2's."""

    conv1: int
    pool1: int
    conv2: int
    pool2: int
    conv5: int
    pool5: int


def feature_sizes(config: Config) -> Sizes:
    """Returns the sides of a network's maps."""
    model = config.model

    def pooled(side: int) -> int:
        return (side - 3) // 2 + 1 if model.pool_size == 3 else -(-side // 2)

    conv1 = (config.image_size + conv1_padding(model) - 11) // 4 + 1
    pool1 = pooled(conv1)
    conv2 = pool1 + 2 * model.conv2_padding - 4
    pool2 = pooled(conv2)
    conv5 = pool2 if "conv5" in model.without else pool2 + 2 * model.conv5_padding - 2
    return Sizes(conv1, pool1, conv2, pool2, conv5, pooled(conv5))


def fully_connected_units(model: ModelConfig) -> dict[str, int]:
    """Returns the units of fc6 and fc7, both columns together, before `width` scales them."""
    return {"fc6": model.fc_units, "fc7": model.fc7_units or model.fc_units}


def conv1_padding(model: ModelConfig) -> int:
    """Returns how many zeros conv1 adds to an image's width, and to its height, on both sides."""
    return model.conv1_padding_before + model.conv1_padding
