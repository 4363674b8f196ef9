"""Other frameworks' names and axes mapped to the standard tree, with no tensor left over."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from alexnet_jax import model
from alexnet_jax.config import CONVOLUTIONS, LAYERS, Config
from alexnet_jax.errors import nearest
from alexnet_jax.layers import standard_tree
from alexnet_jax.weights.types import Params, WeightsError, array_of

TORCHVISION: dict[str, str] = dict(
    zip(
        (*CONVOLUTIONS, "fc6", "fc7", "fc8"),
        ("features.0", "features.3", "features.6", "features.8", "features.10")
        + ("classifier.1", "classifier.4", "classifier.6"),
        strict=True,
    )
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a format names and lays out the sixteen tensors.

    Attributes:
      name: from a layer and "kernel" or "bias" to the tensor's name.
      channels_first: convolutions are (out, in, h, w), matrices (out, in), fc6 reads (C, H, W);
        else (h, w, in, out), (in, out) and (H, W, C), as in the standard tree.
      bgr: conv1 reads blue first, as Caffe does.
    """

    name: Callable[[str, str], str]
    channels_first: bool = False
    bgr: bool = False


def _weight(layer: str, part: str) -> str:
    return f"{layer}.{'weight' if part == 'kernel' else part}"


LAYOUTS = {
    "caffe": Layout(_weight, channels_first=True, bgr=True),
    "caffe dictionary": Layout("{}.{}".format, bgr=True),
    "onnx": Layout(_weight, channels_first=True, bgr=True),
    "onnx, rgb": Layout(_weight, channels_first=True),
    "torchvision": Layout(lambda layer, part: _weight(TORCHVISION.get(layer, layer), part), True),
    "standard": Layout("{}.{}".format),
}


def to_standard(
    tensors: Mapping[str, np.ndarray], layout: Layout, config: Config, path: pathlib.Path
) -> Params:
    """Returns the standard tree of a file's tensors.

    Args:
      tensors: by the file's names.
      layout: of the file.
      config: of the network that they are for; the classes are counted in the file.
      path: of the file, for messages.

    Raises:
      WeightsError: names a tensor that is missing, not known, or of another shape or type.
    """
    tensors = _with_last_layer(tensors, layout)
    last = layout.name("fc8", "bias")
    classes = tensors[last].shape[0] if last in tensors and tensors[last].ndim else 1000
    if classes == 0:
        raise WeightsError(f"{path}: {last} has no class")
    wanted = {
        layout.name(layer, part): (layer, part, shape.shape)
        for layer, parts in _shapes(config, classes).items()
        for part, shape in parts.items()
    }
    for name in sorted(wanted.keys() - tensors.keys()):
        there = ", ".join(list(tensors)[:6]) + (", ..." if len(tensors) > 6 else "")
        raise WeightsError(f"{path}: {name} is missing; there are {there[:300] or 'no tensors'}")
    for name in sorted(tensors.keys() - wanted.keys()):
        raise WeightsError(
            f"{path}: {name} belongs to no layer of AlexNet; the nearest is {nearest(name, wanted)}"
        )
    for name, (_, _, shape) in wanted.items():
        there = _in_file(shape, layout)
        if tensors[name].shape != there:
            raise WeightsError(f"{path}: {name} is {tensors[name].shape}, not {there}")
    params: Params = {}
    channels = len(tensors[layout.name(_last_convolution(config.model.layers()), "bias")])
    for name, (layer, part, shape) in wanted.items():
        values = array_of(tensors[name], name, path)
        if layout.channels_first:
            values = _channels_last(values, layer, channels)
        if layout.bgr and (layer, part) == ("conv1", "kernel"):
            values = values[:, :, ::-1]
        params.setdefault(layer, {})[part] = np.ascontiguousarray(values).reshape(shape)
    return params


def _with_last_layer(tensors: Mapping[str, np.ndarray], layout: Layout) -> Mapping[str, np.ndarray]:
    """Renames a fine-tuned network's last layer, such as `fc8_flickr`, to fc8."""
    names = {part: layout.name("fc8", part) for part in ("kernel", "bias")}
    if any(name in tensors for name in names.values()):
        return tensors
    endings = {part: name.removeprefix("fc8") for part, name in names.items()}
    known = {layout.name(layer, part) for layer in LAYERS for part in names}
    others = {
        name.removesuffix(endings["kernel"])
        for name in tensors.keys() - known
        if name.endswith(endings["kernel"])
    }
    if len(others) != 1 or not names["kernel"].startswith("fc8"):
        return tensors
    [other] = others
    renamed = {other + ending: names[part] for part, ending in endings.items()}
    return {renamed.get(name, name): values for name, values in tensors.items()}


def from_standard(params: Params, layout: Layout) -> dict[str, np.ndarray]:
    """Returns the tensors of a file: what `to_standard` takes."""
    tensors = {}
    channels = len(params[_last_convolution(params)]["bias"])
    for layer, parts in params.items():
        for part, values in parts.items():
            if layout.bgr and (layer, part) == ("conv1", "kernel"):
                values = values[:, :, ::-1]
            if layout.channels_first:
                values = _channels_first(values, layer, channels)
            tensors[layout.name(layer, part)] = np.ascontiguousarray(values)
    return tensors


def _last_convolution(layers: Iterable[str]) -> str:
    """Returns the last convolution, whose channels fc6 reads."""
    return max(layer for layer in layers if layer.startswith("conv"))


def _shapes(config: Config, classes: int) -> dict:
    network = model.build(config.model, classes, "float32")
    return standard_tree.abstract_parameters(network, config.image_size)


def _in_file(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    if not layout.channels_first:
        return shape
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def _channels_last(values: np.ndarray, layer: str, channels: int) -> np.ndarray:
    """(O, I, H, W) to (H, W, I, O), (O, I) to (I, O); fc6's inputs from (C, H, W) to (H, W, C)."""
    if values.ndim == 4:
        return values.transpose(2, 3, 1, 0)
    if values.ndim == 2 and layer == "fc6":
        values = values.reshape(len(values), channels, -1).transpose(0, 2, 1)
        values = values.reshape(len(values), -1)
    return values.T


def _channels_first(values: np.ndarray, layer: str, channels: int) -> np.ndarray:
    if values.ndim == 4:
        return values.transpose(3, 2, 0, 1)
    values = values.T
    if values.ndim == 2 and layer == "fc6":
        values = values.reshape(len(values), -1, channels).transpose(0, 2, 1)
        values = values.reshape(len(values), -1)
    return values
