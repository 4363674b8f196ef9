"""Figure 2 of the paper: which layer each device computes, and where devices talk."""

import dataclasses
from collections.abc import Iterable

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from alexnet_jax.config import Config
from alexnet_jax.configs import sizes
from alexnet_jax.figures.picture import Picture
from alexnet_jax.steps.communication import Collective


@dataclasses.dataclass(frozen=True)
class Layer:
    """What one layer is, as a device computes it.

    Attributes:
      name: conv1 .. fc8.
      shape: of a device's output, such as 27 x 27 x 48.
      exchanged: bytes that each device sends to the others for its input; 0: none.
    """

    name: str
    shape: str
    exchanged: float = 0.0


def forward(config: Config, num_classes: int, exchanged: Iterable[Collective]) -> list[Layer]:
    """Returns what a device of `mesh.model` computes going forward, for `draw`.

    Args:
      config: of the scheme `columns`.
      num_classes: units of fc8.
      exchanged: of a step, from `communication.compiled` or `expected`; what goes back is left out.
    """
    sent: dict[str, float] = {}
    for one in exchanged:
        if not one.backward:
            sent[one.layer] = sent.get(one.layer, 0.0) + one.moved
    model, devices, side = config.model, config.mesh.model, sizes.feature_sizes(config)
    sides = {"conv1": side.pool1, "conv2": side.pool2, "conv3": side.pool2, "conv4": side.pool2}
    shapes = {
        layer: "{0} x {0} x {1}".format(
            sides.get(layer, side.pool5), round(channels * model.width) // devices
        )
        for layer, channels in sizes.channels(model).items()
        if layer not in model.without
    }
    for layer, units in sizes.fully_connected_units(model).items():
        if layer not in model.without:
            shapes[layer] = str(round(units * model.width) // devices)
    shapes["fc8"] = str(-(-num_classes // devices))
    return [Layer(layer, shape, sent.get(layer, 0.0)) for layer, shape in shapes.items()]


def draw(devices: int, layers: list[Layer], title: str) -> Picture:
    """Draws a row of boxes for each device, and crossing arrows where they talk.

    Args:
      devices: that share the channels.
      layers: in their order, alike on every device.
      title: above it.
    """
    figure = Picture(figsize=(1.45 * len(layers) + 1, 1.5 * devices + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.9, len(layers) - 0.4), ylim=(-0.65, devices - 0.3), title=title)
    axes.set_axis_off()
    axes.invert_yaxis()
    for row in range(devices):
        axes.text(-0.55, row, f"device {row}", ha="right", va="center", color=f"C{row}")
        for at, layer in enumerate(layers):
            box = FancyBboxPatch(
                (at - 0.3, row - 0.22), 0.6, 0.44, "round,pad=0.02", fc=f"C{row}", alpha=0.25
            )
            axes.add_patch(box)
            axes.text(at, row - 0.07, layer.name, ha="center", va="center", weight="bold")
            axes.text(at, row + 0.1, layer.shape, ha="center", va="center", fontsize=8)
            for source in range(devices) if at else ():
                if source == row or layer.exchanged:
                    _arrow(figure.axes[0], (at - 0.68, source), (at - 0.32, row), source != row)
    for at, layer in enumerate(layers):
        if layer.exchanged:
            text = f"{layer.exchanged / 1e6:.3g} MB"
            axes.text(at - 0.5, devices - 0.45, text, ha="center", color="tab:red", fontsize=8)
    return figure


def _arrow(axes: object, start: tuple[float, float], end: tuple[float, float], cross: bool) -> None:
    style = {"color": "tab:red" if cross else "0.4", "lw": 1.2, "mutation_scale": 9}
    axes.add_patch(  # pyright: ignore[reportAttributeAccessIssue]
        FancyArrowPatch(start, end, arrowstyle="-|>", shrinkA=0, shrinkB=0, **style)
    )
