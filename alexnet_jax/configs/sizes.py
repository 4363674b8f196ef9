"""Sizes of a network's feature maps and fully connected layers, from its config."""

from typing import NamedTuple

from alexnet_jax.config import CONVOLUTIONS, Config, ModelConfig


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
    """Returns the units of the fully connected layers except fc8, before `width` scales them."""
    units = {"fc6": model.fc_units, "fc7": model.fc7_units or model.fc_units}
    return units | ({"fc7_linear": model.fc7_linear_units} if model.fc7_linear_units else {})


def channels(model: ModelConfig) -> dict[str, int]:
    """Returns the channels of the convolutions, both columns together, before `width` scales them.

    Layers that are left out count as if they were there.
    """
    names = zip(CONVOLUTIONS, model.channels, strict=True)
    return dict(names) | ({"conv6": model.conv6_channels} if model.conv6_channels else {})


def last_channels(model: ModelConfig) -> int:
    """Returns the channels that fc6 reads, before `width` scales them."""
    return [c for layer, c in channels(model).items() if layer not in model.without][-1]


def conv1_padding(model: ModelConfig) -> int:
    """Returns the zeros that conv1 adds to an image's width and height, both sides together."""
    return model.conv1_padding_before + model.conv1_padding
