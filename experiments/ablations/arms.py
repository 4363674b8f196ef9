"""What each ablation changes, and what the authors measured (their notebook, and the paper)."""

import dataclasses
from collections.abc import Callable

from alexnet_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Arm:
    """One ablation.

    Attributes:
      change: of a copy of the base recipe.
      run: of the authors' notebook, or the section of the paper.
      published: increase of top-1 error in points, as measured there; "" if unpublished.
    """

    change: Callable[[Config], None]
    run: str = ""
    published: str = ""


def _no_overlap(c: Config) -> None:
    c.model.pool_size, c.model.conv2_padding, c.model.conv5_padding = 2, 1, 0


def _without_norm(order: str) -> str:
    return " ".join(step for step in order.split() if step != "norm")


def _no_norm(c: Config) -> None:
    c.model.layer1, c.model.layer2 = map(_without_norm, (c.model.layer1, c.model.layer2))
    c.model.spatial_norm2 = False


def _no_norm2(c: Config) -> None:
    c.model.layer2, c.model.spatial_norm2 = _without_norm(c.model.layer2), False


def _norm2_before_relu(c: Config) -> None:
    if "norm" in c.model.layer2:
        c.model.layer2 = "norm relu pool"


def _one_column(c: Config) -> None:
    c.model.columns = 1
    *convolutions, conv5 = c.model.channels
    c.model.channels = (*(n // 2 for n in convolutions), conv5)


def _no_communication(c: Config) -> None:
    """The authors' layers-150.cfg: fc6 of 4,096 units a column, fc7 of 2,048 as before."""
    c.model.columns_meet = False
    c1, _, c3, c4, c5 = c.model.channels
    c.model.fc7_units = c.model.fc7_units or c.model.fc_units
    c.model.channels, c.model.fc_units = (c1, 320, c3, c4, c5), 2 * c.model.fc_units


def _set(group: str, field: str, value: object) -> Callable[[Config], None]:
    return lambda c: setattr(getattr(c, group), field, value)


ARMS = {
    "base": Arm(lambda c: None),
    "no_overlap": Arm(_no_overlap, "#147", "+0.4"),
    "no_norm": Arm(_no_norm, "#148", "+1.4"),
    "one_column": Arm(_one_column, "#145-half", "+1.7"),
    "no_communication": Arm(_no_communication, "#150", "+1.2"),
    "norm2_before_relu": Arm(_norm2_before_relu, "#166", "+0.6 on #170"),
    "no_norm2": Arm(_no_norm2, "#167", "0.0 on #170"),
    "no_dropout": Arm(_set("model", "dropout_rate", 0.0), "4.2", "substantial overfitting"),
    "no_lighting": Arm(_set("augment", "lighting", "none"), "4.1", "over 1"),
    "no_crops": Arm(_set("augment", "random_crop", False), "4.1"),
    "no_flips": Arm(_set("augment", "flip", False), "4.1"),
    "without_conv3": Arm(_set("model", "without", ("conv3",)), "7", "about 2"),
    "without_conv4": Arm(_set("model", "without", ("conv4",)), "7", "about 2"),
    "without_conv5": Arm(_set("model", "without", ("conv5",)), "7", "about 2"),
    "without_fc7": Arm(_set("model", "without", ("fc7",)), "7", "about 2"),
}
