"""Fields that a run inherits from its initial weights: the network's, and its input's."""

import copy
from typing import Any, NamedTuple

from alexnet_jax.config import FULLY_CONNECTED, Config, flatten
from alexnet_jax.configs.by_hand import by_hand, put

# How an image becomes the network's input.
_INPUT = (
    *("resize", "image_size"),
    *(f"augment.{name}" for name in ("statistics", "mean", "mean_image", "pixel_std")),
)
# All fields of the model are inherited but these: they say how to initialise new layers.
_DRAWN = ("init", "conv_std", "conv345_std", "fc_std", "fc8_std", "bias_value")
# Fields for the layers after the five convolutions, with the layers whose shape or output each
# decides. If the run takes none of those layers from the weights, it keeps its own value.
_OF_LAYERS = {
    "conv6_channels": ("conv6", "fc6"),
    "fc_units": ("fc6", "fc7"),
    "fc7_units": ("fc7", "fc7_linear", "fc8"),
    "fc7_linear_units": ("fc7_linear", "fc8"),
    **dict.fromkeys(("dropout_after", "dropout_scaling", "dropout_rate"), FULLY_CONNECTED),
}


class Inherited(NamedTuple):
    """A config that inherits the weights' fields.

    Attributes:
      config: a copy with those fields.
      gave_way: fields of a recipe or the defaults that the weights override: (old value, the
        weights').
      by_hand: fields that a person set to another value, which they keep: (value, the weights').
    """

    config: Config
    gave_way: dict[str, tuple[Any, Any]]
    by_hand: dict[str, tuple[Any, Any]]


def fields(layers: tuple[str, ...], scaling: str) -> list[str]:
    """Returns the dotted names of the fields that come with weights.

    Args:
      layers: taken from the weights.
      scaling: `dropout_scaling` of the weights' network. With `test` the rate scales outputs when
        evaluating, and is therefore part of the network.
    """
    left_out = {f"model.{name}" for name in _DRAWN}
    left_out |= {f"model.{name}" for name, of in _OF_LAYERS.items() if not set(of) & set(layers)}
    if scaling == "train":
        left_out.add("model.dropout_rate")
    model = [name for name in flatten(Config()) if name.startswith("model.")]
    return [*_INPUT, *(name for name in model if name not in left_out)]


def inherited(config: Config, source: Config, layers: tuple[str, ...]) -> Inherited:
    """Returns a run's config with the network and input settings of another config.

    Args:
      config: of the run.
      source: the config of the weights, or of the same run when it began.
      layers: taken from the weights.
    """
    result, theirs, ours = copy.deepcopy(config), flatten(source), flatten(config)
    for values in (theirs, ours):  # 0 means as fc6's, which the run may not inherit
        values["model.fc7_units"] = values["model.fc7_units"] or values["model.fc_units"]
    hand, gave_way, values_kept = by_hand(config), {}, {}
    for name in fields(layers, source.model.dropout_scaling):
        if ours[name] == theirs[name]:
            continue
        if name in hand:
            values_kept[name] = ours[name], theirs[name]
        else:
            gave_way[name] = ours[name], theirs[name]
            put(result, name, theirs[name])
    if result.model.fc7_units == result.model.fc_units:
        put(result, "model.fc7_units", 0)
    return Inherited(result, gave_way, values_kept)
