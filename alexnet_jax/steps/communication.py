"""Communication of a step: as compiled, and as figure 2 of the paper has it."""

import dataclasses
import math
import re
from collections.abc import Iterator

import jax
from jax.sharding import AbstractMesh

from alexnet_jax.config import LAYERS, Config
from alexnet_jax.configs import sizes
from alexnet_jax.configs.sizes import feature_sizes, fully_connected_units, last_channels
from alexnet_jax.layers.columns import Columns
from alexnet_jax.layers.standard_tree import abstract_parameters, of_classifier, of_convolutions
from alexnet_jax.model import build
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel.schemes import DATA, MODEL, scheme_of

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8}
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute", "all-to-all")
PLACES = ("images", *(f"norm{n}" for n in range(1, 6)), "logits", "labels", *LAYERS)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: one of KINDS.
      layer: whose input it fetches (forward) or whose input's gradient it returns (backward), or
        `update` for what belongs to no layer: sums of gradients, metrics and norms.
      backward: is it part of the gradient?
      group: devices that take part.
      payload: bytes of the whole array, over the group.
    """

    kind: str
    layer: str
    backward: bool
    group: int
    payload: int

    @property
    def moved(self) -> float:
        """The least bytes that each device must send (a ring achieves it)."""
        others = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * others, "collective-permute": 1.0}
        return self.payload * factor.get(self.kind, others)


_LINE = re.compile(
    rf"= (?P<type>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)"
)
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")


def compiled(program: jax.stages.Compiled) -> list[Collective]:
    """Reads every collective of a compiled program, in its order."""
    return list(_read(program.as_text() or ""))


def _read(text: str) -> Iterator[Collective]:
    for line in text.splitlines():
        match = _LINE.search(line)
        if not match:
            continue
        kind, rest = match["kind"], match["rest"]
        arrays = [_bytes(*array) for array in _ARRAY.findall(match["type"]) if array[0] in BYTES]
        if match["start"] and kind in ("all-gather", "collective-permute"):
            arrays = arrays[1:2]  # an asynchronous one also returns its operand
        group, payload = _group(rest), sum(arrays)
        if group == 1:
            continue  # over an axis of one device: nothing is exchanged
        if kind == "reduce-scatter":
            payload *= group
        name = re.search(r'op_name="([^"]*)"', rest)
        parts = re.split(r"[/()]", name[1]) if name else []
        layer = next((part for part in reversed(parts) if part in PLACES), "update")
        yield Collective(kind, layer, "transpose" in parts, group, payload)


def _bytes(kind: str, shape: str) -> int:
    return BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)


def _group(rest: str) -> int:
    """Returns how many devices take part, in any of the forms that XLA's versions write.

    Raises:
      ValueError: this jaxlib writes them in another form.
    """
    if "replica_groups=" not in rest:
        return 2  # a permute has pairs
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(iota[2])
    # Since jaxlib 0.12: all axes of the mesh, then the names of those that it goes over.
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] \{('[^}]*')\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", axes[1])}
        return math.prod(sizes[name] for name in axes[2].split(","))
    raise ValueError(f"this jaxlib writes a collective's devices otherwise: {rest[:200]}")


def expected(
    config: Config, num_classes: int, data: int, training: bool = True, exchanged: bool = False
) -> list[Collective]:
    """Counts the exchanges that a scheme needs on a mesh, without compiling anything.

    This is the minimum for a step in which every layer learns, except for schemes in turns, which
    use an all-reduce in place of each broadcast.

    Args:
      config: with `mesh.model` set.
      num_classes: width of fc8.
      data: devices that share the batch.
      training: include the gradients and their sums; else only the forward pass of one view.
      exchanged: does each data shard hold a part of the split (`feed.resident.ResidentSplit`)?
    """
    batch = config.batch_size if training else (config.eval_batch_size or config.batch_size)
    passes = config.optimizer.fc_updates if training else 1
    images, labels = batch // data, 3 * 4  # label, mask, and place or bad
    scheme, model_devices = scheme_of(config.mesh), config.mesh.model
    rows = batch // (model_devices if scheme.gathers_images else 1) if exchanged else 0
    pixels = _over(data, "reduce-scatter", "images", rows * config.resize**2 * 3) if rows else []
    gathered = (
        _over(model_devices, "all-gather", "labels", images * labels)
        if scheme.gathers_images
        else []
    )
    once = list(_batch_norms(config, data)) if training else []
    once += list(_convolutions(config, images)) if scheme.channels else []
    each = list(_fully_connected(config, num_classes, images // passes, passes))
    forward = once + each * passes
    if not training:
        return pixels + gathered + forward + _over(data, "all-reduce", "update", (SUMS + 1) * 4)
    backward = [
        dataclasses.replace(c, kind=_ADJOINT[c.kind], backward=True) for c in reversed(forward)
    ]
    return pixels + gathered + forward + backward + list(_update(config, num_classes, data))


SUMS = 4  # of three totals, and the count that they share
_ADJOINT = {
    "all-gather": "reduce-scatter",
    "all-reduce": "all-reduce",
    "collective-permute": "collective-permute",
}
_WIDTH = {"bfloat16": 2, "float32": 4, "float64": 8}


def _over(group: int, kind: str, layer: str, payload: float) -> list[Collective]:
    return [Collective(kind, layer, False, group, round(payload))] if group > 1 else []


def _convolutions(config: Config, images: int) -> Iterator[Collective]:
    """The exchanges of a forward pass up to fc6's input, in the scheme `columns`."""
    model, devices = config.model, config.mesh.model
    columns = Columns(model.columns, devices)
    sides = feature_sizes(config)
    channels = {layer: round(c * model.width) for layer, c in sizes.channels(model).items()}
    one = images * _WIDTH[config.precision]  # bytes of one channel of one pixel

    def edges(layer: int, before: int, after: int, steps: str) -> Iterator[Collective]:
        """LRN's exchanges; maps have side `before` ahead of the pooling, `after` behind it."""
        order = steps.split()
        together = devices if model.lrn.across_columns else columns.per_column
        if "norm" not in order or together == 1 or model.normalisation == "batch":
            return
        side = after if order.index("pool") < order.index("norm") else before
        payload = one * side**2 * (model.lrn.size // 2)
        for _ in ("before", "after"):
            yield Collective("collective-permute", f"norm{layer}", False, 2, payload)

    def exchange(layer: str, channels: int, side: int) -> list[Collective]:
        """A column's channels, gathered among the devices that share it."""
        payload = one * channels / columns.count * side**2
        return _over(columns.per_column, "all-gather", layer, payload)

    yield from edges(1, sides.conv1, sides.pool1, model.layer1)
    yield from exchange("conv2", channels["conv1"], sides.pool1)
    yield from edges(2, sides.conv2, sides.pool2, model.layer2)
    before = channels["conv2"]
    for layer in ("conv3", "conv4", "conv5"):
        if layer in model.without:
            continue
        if layer == "conv3" and model.columns_meet:
            yield from _over(devices, "all-gather", layer, one * before * sides.pool2**2)
        else:
            yield from exchange(layer, before, sides.pool2)
        before = channels[layer]
    if "conv6" in channels:
        meets, met = (devices, 1.0) if model.columns_meet else (columns.per_column, columns.count)
        yield from _over(meets, "all-gather", "conv6", one * before / met * sides.pool5**2)


def _batch_norms(config: Config, data: int) -> Iterator[Collective]:
    """The exchanges of a batch's mean and variance among the devices that share it."""
    model, devices = config.model, config.mesh.model
    if model.normalisation == "local":
        return
    scheme = scheme_of(config.mesh)
    sharing_images = data * (devices if scheme.gathers_images else 1)
    for n, channels in enumerate(model.channels, 1):
        if "norm" in getattr(model, f"layer{n}"):
            width = round(channels * model.width) / (devices if scheme.channels else 1)
            yield from _over(sharing_images, "all-reduce", f"norm{n}", 8 * width)


def _fully_connected(
    config: Config, num_classes: int, images: int, passes: int
) -> Iterator[Collective]:
    """One forward pass from pool5 to the logits."""
    model, devices = config.model, config.mesh.model
    columns = Columns(model.columns, devices)
    meeting, met = (devices, 1.0) if model.columns_meet else (columns.per_column, 1 / columns.count)
    units = {layer: round(n * model.width) for layer, n in fully_connected_units(model).items()}
    channels = round(last_channels(model) * model.width)
    one = images * _WIDTH[config.precision]
    pooled = one * channels * feature_sizes(config)[-1] ** 2
    if scheme_of(config.mesh).in_turns and passes > 1:
        # A broadcast would need half as much, but not every back end of XLA has one.
        yield from _over(devices, "all-reduce", "fc6", pooled)
    else:
        yield from _over(meeting, "all-gather", "fc6", pooled * met)
    if "fc7" not in model.without:
        yield from _over(meeting, "all-gather", "fc7", one * units["fc6"] * met)
    read = units["fc6" if "fc7" in model.without else "fc7"]
    if "fc7_linear" in units:
        yield from _over(devices, "all-gather", "fc7_linear", one * read)
        read = units["fc7_linear"]
    yield from _over(devices, "all-gather", "fc8", one * read)
    padded = columns.share(num_classes) * devices
    yield from _over(devices, "all-gather", "logits", one * padded)


def _update(config: Config, num_classes: int, data: int) -> Iterator[Collective]:
    """Sums of gradients, metrics and norms, one collective for each set of devices; with ZeRO also
    the parameters' gathers and their gradients' scatters."""
    devices, passes = config.mesh.model, config.optimizer.fc_updates
    # Classes are padded to equal shares.
    padded = num_classes + -num_classes % devices
    network = build(config.model, padded, config.precision)
    shapes = abstract_parameters(network, config.image_size)
    mesh = AbstractMesh((data, devices), (DATA, MODEL))
    specs = meshes.specs(shapes, mesh, config.mesh)
    # In a variable batch the convolutions and each pass of the rest have sums of their own.
    shapes = {layer: leaves for layer, leaves in shapes.items() if layer in LAYERS}
    classifier, convolutions = list(of_classifier(shapes)), list(of_convolutions(shapes))
    turns = [list(shapes)] if passes == 1 else [classifier] * passes + [convolutions]
    for layers in turns:
        counted = SUMS * 4 if layers != convolutions else 0
        over_data, over_all = counted, 0.0
        for layer in layers:
            for name, leaf in shapes[layer].items():
                spec, size = specs[layer][name], leaf.size * leaf.dtype.itemsize
                size /= devices if MODEL in spec else 1
                if DATA in spec:
                    yield from _over(data, "all-gather", "update", size)
                    yield from _over(data, "reduce-scatter", "update", size)
                elif MODEL in spec or devices == 1:
                    over_data += size
                else:
                    over_all += size
                if DATA in spec and MODEL not in spec and devices > 1:
                    yield from _over(devices, "all-reduce", "update", size / data)
        yield from _over(data if over_data else 1, "all-reduce", "update", over_data)
        yield from _over(data * devices if over_all else 1, "all-reduce", "update", over_all)
        axes = [set(spec) - {None} for layer in layers for spec in specs[layer].values()]
        for group, size in (
            ({DATA}, data),
            ({MODEL}, devices),
            ({DATA, MODEL}, data * devices),
        ):
            norms = sum(axes_of_leaf == group for axes_of_leaf in axes)
            yield from _over(size if norms else 1, "all-reduce", "update", norms * 4)
    yield from _over(data * devices, "all-reduce", "update", 4)  # was any process told to end?
