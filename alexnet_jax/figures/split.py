"""Figure 2 of the paper for any mesh: each device's share of each layer, and every exchange.

Boxes have the shapes that a device computes, arrows what the compiled step exchanges.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Polygon

from alexnet_jax.config import Config
from alexnet_jax.configs import sizes
from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture
from alexnet_jax.parallel.schemes import scheme_of
from alexnet_jax.steps.communication import Collective

FORWARD, BACKWARD, UPDATE = colours.VERMILION, colours.BLUE, colours.GREEN
COLUMNS = (colours.SKY, colours.ORANGE, colours.PINK, colours.GREY)
MOST_ROWS = 8  # devices that are drawn; the title describes a larger mesh
INPUT, LOSS = "images", "loss"  # before the first layer and after the last


@dataclasses.dataclass(frozen=True)
class Share:
    """What one device computes of a layer.

    Attributes:
      layer: conv1 .. fc8, or INPUT.
      images: the device's part of the batch.
      side: of its feature maps in pixels; 0 for a fully connected layer.
      channels: of the maps, or units.
    """

    layer: str
    images: int
    side: int
    channels: int

    @property
    def shape(self) -> str:
        """The shape of one image, such as 27x27x128."""
        side = f"{self.side}\N{MULTIPLICATION SIGN}" * 2 if self.side else ""
        return f"{side}{self.channels:,}"


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Collectives of one kind that belong to the input of one layer.

    Attributes:
      before: the layer whose input is exchanged; LOSS after the last layer, or `update`.
      of: the layer or place that the compiled program names.
      kind: as in `Collective`.
      backward: is it part of the gradient?
      group: devices that take part.
      count: number of collectives.
      moved: bytes that each device sends, summed over the collectives.
    """

    before: str
    of: str
    kind: str
    backward: bool
    group: int
    count: int
    moved: float


def shares(config: Config, num_classes: int, data: int) -> list[Share]:
    """Returns a device's share of each layer, the input first; it is the same on all devices.

    Args:
      config: with `mesh.model` set.
      num_classes: width of fc8.
      data: data shards.
    """
    model, devices, scheme = config.model, config.mesh.model, scheme_of(config.mesh)
    side, batch = sizes.feature_sizes(config), config.batch_size // data
    images = batch // devices if scheme.gathers_images else batch
    over = devices if scheme.channels else 1
    sides = {"conv1": side.conv1, "conv2": side.conv2, "conv5": side.conv5, "conv6": side.pool5}
    boxes = [Share(INPUT, images, config.image_size, 3)]
    for layer, channels in sizes.channels(model).items():
        if layer not in model.without:
            width = round(channels * model.width) // over
            boxes.append(Share(layer, images, sides.get(layer, side.pool2), width))
    for layer, units in sizes.fully_connected_units(model).items():
        if layer not in model.without:
            boxes.append(Share(layer, batch, 0, round(units * model.width) // devices))
    return [*boxes, Share("fc8", batch, 0, -(-num_classes // devices))]


def exchanges(collectives: Iterable[Collective], layers: Sequence[str]) -> list[Exchange]:
    """Sums collectives of one kind, layer and direction, in the order of the layers.

    Args:
      collectives: of a step, from `communication.compiled` or `expected`.
      layers: from the input to fc8.
    """
    after = dict(zip(layers, [*layers[1:], LOSS], strict=True))
    by_kind: dict[tuple[str, str, str, bool, int], list[float]] = {}
    for one in collectives:
        before = one.layer
        if before.startswith("norm"):  # which follows its convolution
            before = after.get(before.replace("norm", "conv"), LOSS)
        elif before in ("logits", "labels"):
            before = LOSS
        elif before == INPUT:
            before = layers[1]
        key = (before, one.layer, one.kind, one.backward, one.group)
        by_kind.setdefault(key, []).append(one.moved)
    order = [*layers, LOSS, "update"]
    made = [Exchange(*key, len(moved), sum(moved)) for key, moved in by_kind.items()]
    return sorted(made, key=lambda e: (order.index(e.before), e.backward, e.of, e.kind))


def draw(
    config: Config, num_classes: int, collectives: Iterable[Collective], data: int = 1
) -> Picture:
    """Draws a row of boxes for each device, and what they send each other.

    Args:
      config: of the run, with `mesh.model` set.
      num_classes: width of fc8.
      collectives: of its step.
      data: data shards; where their devices do not all fit, one shard's are drawn.
    """
    boxes = shares(config, num_classes, data)
    model = config.mesh.model
    groups = data if data * model <= MOST_ROWS else 1
    layers = [box.layer for box in boxes]
    sent = exchanges(collectives, layers)
    rows = groups * min(model, MOST_ROWS)
    texts = max((_lines(sent, layer) for layer in [*layers, LOSS]), default=0)
    summed = [e for e in sent if e.before == "update"]
    below = 0.42 + 0.17 * texts + 0.2 * bool(summed)
    apart = 0.09 * sum(len(_sets(e.group, data, model, groups)) for e in summed)  # green arrows'
    size = 1.3 * (len(boxes) + apart) + 1.5, 1.25 * rows + below + 0.7
    figure = Picture(figsize=size, dpi=120)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set(xlim=(-1.0, len(boxes) + 0.1 + apart), ylim=(rows - 0.5 + below / 1.25, -1.0))
    axes.text(-0.9, -0.8, _title(config, data, groups), fontsize=11, va="center")
    for row in range(rows):
        kind = _column(config, row % model)
        _draw_row(axes, row, boxes, f"device {row}", COLUMNS[kind % len(COLUMNS)])
    for at, layer in enumerate([*layers, LOSS]):
        here = [e for e in sent if e.before == layer]
        arrows = [e for e in here if not _over_data(e)]
        for first in range(0, rows, rows // groups):
            shard = range(first, first + rows // groups)
            for group, backward in sorted({(e.group, e.backward) for e in arrows if _gathers(e)}):
                for start in range(0, len(shard), group):
                    _cross(axes, at - 0.5, shard[start : start + group], backward)
            for backward in {e.backward for e in arrows if not _gathers(e)}:
                passed = len(shard) if config.model.lrn.across_columns else _per_column(config)
                for start in range(0, len(shard), passed):
                    _pass_on(axes, at - 0.5, shard[start : start + passed], backward)
        for e in here:
            for one in _sets(e.group, data, model, groups) if _over_data(e) else ():
                shift = 0.06 if e.backward else -0.06
                _among(axes, at - 0.5 + shift, one, BACKWARD if e.backward else FORWARD)
        _tell(axes, at - 0.5, rows - 0.32, here)
    x = len(boxes) + 0.02
    for e in summed:
        for one in _sets(e.group, data, model, groups):
            _among(axes, x, one, UPDATE)
            x += 0.09
    if summed:
        sums = "; ".join(_sum_of(e) for e in summed)
        text = f"then, sums of gradients, figures and norms: each sends {sums}"
        place = rows - 0.5 + (below - 0.12) / 1.25
        axes.text(-0.9, place, text, color=UPDATE, fontsize=8, va="center")
    return figure


def _title(config: Config, data: int, groups: int) -> str:
    mesh = config.mesh
    title = f"{mesh.scheme} on data {data} \N{MULTIPLICATION SIGN} model {mesh.model}"
    title += ", parameters in parts (ZeRO)" if mesh.zero else ""
    if groups < data:
        title += f"; one of {data} data shards is drawn"
    return f"{title}, {config.batch_size:,} images: what each device computes, and what it sends"


def _column(config: Config, device: int) -> int:
    """Returns a device's colour: its column's if the mesh splits columns, else its own."""
    columns, devices = config.model.columns, config.mesh.model
    if scheme_of(config.mesh).channels and columns > 1 and devices >= columns:
        return device * columns // devices
    return device


def _per_column(config: Config) -> int:
    return max(1, config.mesh.model // config.model.columns)


def _over_data(e: Exchange) -> bool:
    """Is it among devices that split the batch: batch-norm means, or images of a resident split?"""
    return e.of == INPUT or (e.of.startswith("norm") and e.kind == "all-reduce")


def _sets(group: int, data: int, model: int, groups: int) -> list[list[int]]:
    """Returns the sets of drawn rows (devices) that exchange with each other.

    Args:
      group: devices in a set. If `data` and `model` are both this size, the sets are over `data`.
      data: data shards.
      model: devices of a data shard.
      groups: data shards that are drawn; exchanges that reach beyond them are not drawn.
    """
    per = min(model, MOST_ROWS)
    if 1 < group == data * model and groups == data and per == model:
        return [list(range(groups * per))]
    if 1 < group == data == groups:
        return [[row + shard * per for shard in range(groups)] for row in range(per)]
    if 1 < group == model == per:
        return [list(range(shard * per, (shard + 1) * per)) for shard in range(groups)]
    return []


def _gathers(e: Exchange) -> bool:
    """Does every device of the group send to every other, rather than only to its neighbour?"""
    return e.kind != "collective-permute"


def _lines(sent: list[Exchange], layer: str) -> int:
    return sum(2 for e in sent if e.before == layer)


def _megabytes(moved: float) -> str:
    return f"{moved / 1e6:.3g} MB" if moved >= 1e5 else f"{moved / 1e3:.3g} kB"


def _sum_of(e: Exchange) -> str:
    return f"{_megabytes(e.moved)} by {e.kind} over {e.group}"


def _tell(axes: Axes, x: float, y: float, here: list[Exchange]) -> None:
    """Labels the exchanges at one place, below the devices."""
    for e in here:
        many = f"{e.count} \N{MULTIPLICATION SIGN} " if e.count > 1 else ""
        layer = f"{e.of}: " if e.of != e.before and e.of != "logits" else ""
        colour = BACKWARD if e.backward else FORWARD
        way = "\N{LEFTWARDS ARROW}" if e.backward else "\N{RIGHTWARDS ARROW}"
        kind = e.kind.replace("collective-", "")
        kind += f" over {e.group} shards" if _over_data(e) else ""
        text = f"{layer}{many}{kind}\n{way} {_megabytes(e.moved)}"
        axes.text(x, y, text, color=colour, fontsize=6.5, ha="center", va="top", linespacing=1.1)
        y += 0.27


def _draw_row(axes: Axes, y: float, boxes: list[Share], name: str, colour: str) -> None:
    axes.text(-0.93, y, name, ha="left", va="center", fontsize=9)
    widest = max(box.channels for box in boxes if box.side)
    units = max(box.channels for box in boxes if not box.side)
    largest = max(box.side for box in boxes)
    images = boxes[0].images
    for at, box in enumerate(boxes):
        if box.side:
            height = 0.14 + 0.36 * (box.side / largest) ** 0.5
            _slab(axes, at, y, 0.03 + 0.22 * box.channels / widest, height, colour)
        else:
            height = 0.15 + 0.4 * box.channels / units
            _slab(axes, at, y, 0.06, height, colour, deep=0.0)
        axes.text(at, y + 0.38, box.shape, ha="center", va="center", fontsize=7)
        if y == 0:
            axes.text(at, -0.5, box.layer, ha="center", va="center", fontsize=9, weight="bold")
        if at == 0 or box.images != images:
            images = box.images
            axes.text(*(at, y + 0.5, f"{images:,} images"), ha="center", fontsize=6.5, va="center")
        if at:
            _arrow(axes, (at - 0.72, y), (at - 0.3, y), "0.55")


def _slab(
    axes: Axes, x: float, y: float, width: float, height: float, colour: str, deep: float = 0.3
) -> None:
    """Draws a box as the paper's: channels to the right, rows down, columns of pixels behind."""
    right, up = deep * height * 0.55, -deep * height * 0.6
    left, top = x - (width + right) / 2, y - (height + up) / 2
    front = [(0, 0), (width, 0), (width, height), (0, height)]
    above = [(0, 0), (right, up), (width + right, up), (width, 0)]
    beside = [(width, 0), (width + right, up), (width + right, height + up), (width, height)]
    for corners, alpha in ((front, 0.55), (above, 0.3), (beside, 0.8)):
        placed = [(left + a, top + b) for a, b in corners]
        axes.add_patch(Polygon(placed, closed=True, fc=colour, ec="0.25", lw=0.7, alpha=alpha))


def _cross(axes: Axes, x: float, rows: range, backward: bool) -> None:
    """Draws arrows between two devices; between more, a line that all of them are on."""
    colour, shift = (BACKWARD, 0.07) if backward else (FORWARD, -0.07)
    if len(rows) > 2:
        middle = x - shift
        way = (middle, x - 0.24) if backward else (middle, x + 0.22)
        style = "--" if backward else "-"
        axes.plot([middle] * 2, [rows[0] + shift, rows[-1] + shift], color=colour, lw=1.5, ls=style)
        for row in rows:
            _arrow(axes, (way[0], row + shift), (way[1], row + shift), colour)
        return
    for source in rows:
        for target in rows:
            if source != target:
                ends = (x - 0.22, source + shift), (x + 0.2, target + shift)
                start, end = ends[::-1] if backward else ends
                _arrow(axes, start, end, colour, dashed=backward)


def _among(axes: Axes, x: float, rows: Sequence[int], colour: str) -> None:
    """Draws a double arrow from each device to the next one of a set that exchanges."""
    for one, other in itertools.pairwise(rows):
        _arrow(axes, (x, one + 0.08), (x, other - 0.08), colour, both=True)


def _pass_on(axes: Axes, x: float, rows: range, backward: bool) -> None:
    """Draws arrows between neighbours, both ways."""
    colour, shift = (BACKWARD, 0.2) if backward else (FORWARD, 0.16)
    for row in rows[:-1]:
        _arrow(axes, (x - shift, row + 0.25), (x - shift, row + 0.75), colour, both=True)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    dashed: bool = False,
    both: bool = False,
) -> None:
    style = {"color": colour, "lw": 1.1, "ls": "--" if dashed else "-", "mutation_scale": 8}
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="<|-|>" if both else "-|>", shrinkA=0, shrinkB=0, **style
        )
    )
