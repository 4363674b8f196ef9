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
      config: a copy that has them.
      gave_way: fields that a recipe or the defaults had otherwise: (old value, the weights').
      by_hand: fields that a person set otherwise, and that are kept: (value, the weights').
    """

    config: Config
    gave_way: dict[str, tuple[Any, Any]]
    by_hand: dict[str, tuple[Any, Any]]


def fields(layers: tuple[str, ...], scaling: str) -> list[str]:
    """Returns the dotted names of the fields that come with weights.

    Args:
      layers: that are taken.
      scaling: of dropout, in the weights' network: where outputs are scaled by the rate when
        evaluating, the rate is a part of the network.
    """
    left_out = {f"model.{name}" for name in _DRAWN}
    left_out |= {f"model.{name}" for name, of in _OF_LAYERS.items() if not set(of) & set(layers)}
    if scaling == "train":
        left_out.add("model.dropout_rate")
    model = [name for name in flatten(Config()) if name.startswith("model.")]
    return [*_INPUT, *(name for name in model if name not in left_out)]


def inherited(config: Config, source: Config, layers: tuple[str, ...]) -> Inherited:
    """Returns a run's config with the network and the input of another's.

    Args:
      config: of the run.
      source: of the weights, or of the same run as it began.
      layers: that are taken.
    """
    result, theirs, ours = copy.deepcopy(config), flatten(source), flatten(config)
    for values in (theirs, ours):  # 0 is as many as fc6's, which may not come along
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
