"""A network as an ONNX graph: ONNX's own operators, in the order of the paper's figure 2.

Columns become groups of convolutions. Local normalisation becomes ONNX's LRN, one for each column
if no window crosses columns. ONNX has no operator for the spatial norm of run #145; elementary
operators compute it.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import ModelConfig
from alexnet_jax.layers.batch_norm import EPSILON
from alexnet_jax.layers.stage import SPATIAL_NORM2
from alexnet_jax.ops.lrn_formula import Lrn
from alexnet_jax.steps.augment import Views
from alexnet_jax.weights import card, safetensors_file
from alexnet_jax.weights.types import Weights, WeightsError

PRODUCER = "alexnet_jax"
OPSET, IR_VERSION = 13, 8  # of 2020 and 2021, which every runtime reads
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
IMAGES, VIEWS, LOGITS = "images", "views", "logits"


def use(weights: Weights, from_images: bool) -> str:
    """Says how the graph is called."""
    size = weights.config.image_size
    shape = ("N", size, size, 3) if from_images else ("N", 3, size, size)
    name = IMAGES if from_images else VIEWS
    takes = f"`{name}`, {card.taken(from_images, shape)}"
    return f"ONNX, opset {OPSET}; takes {takes}; gives `{LOGITS}`, before the softmax"


def write(weights: Weights, path: pathlib.Path, from_images: bool = False) -> None:
    """Writes the graph, with what `safetensors_file` keeps beside weights.

    Args:
      weights: of the network.
      path: of the file.
      from_images: begin with `images`, (N, S, S, 3) uint8 RGB crops; else with `views`,
        (N, 3, S, S) float32, less the mean and scaled.

    Raises:
      WeightsError: the onnx package is not installed.
    """
    try:
        import onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise WeightsError(f"{path}: needs the onnx package; pip install onnx") from error
    made = _Graph(onnx.helper, onnx.numpy_helper)
    size = weights.config.image_size
    batch: list[str | int] = ["N"]
    if from_images:
        shape, kind = [*batch, size, size, 3], onnx.TensorProto.UINT8
        x = _normalised(made, weights)
    else:
        shape, kind = [*batch, 3, size, size], onnx.TensorProto.FLOAT
        x = VIEWS
    made.add("Identity", [_network(made, weights, x)], LOGITS)
    helper = onnx.helper
    begin = helper.make_tensor_value_info(IMAGES if from_images else VIEWS, kind, shape)
    classes = len(weights.params["fc8"]["bias"])
    end = helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, [*batch, classes])
    graph = helper.make_graph(made.nodes, "AlexNet", [begin], [end], made.tensors)
    model = helper.make_model(
        graph,
        producer_name=PRODUCER,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, safetensors_file.metadata(weights))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class _Graph:
    """Nodes and tensors, in the order in which they are added."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self._helper, self._numpy = helper, numpy_helper
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._numbers = itertools.count()

    def add(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Adds a node with one output; returns its name."""
        name = name or f"{kind}_{next(self._numbers)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def split(self, x: str, channels: int, parts: int) -> list[str]:
        """Adds a node that splits the channels, the second axis, into equal parts."""
        if parts == 1:
            return [x]
        name = f"Split_{next(self._numbers)}"
        outputs = [f"{name}_{part}" for part in range(parts)]
        sizes = self.tensor(f"{name}_sizes", np.full(parts, channels // parts, np.int64))
        self.nodes.append(self._helper.make_node("Split", [x, sizes], outputs, name, axis=1))
        return outputs

    def join(self, parts: Sequence[str]) -> str:
        """Adds a node that concatenates parts along the channels."""
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=1)

    def tensor(self, name: str, values: Any) -> str:
        """Adds a constant; returns its name."""
        values = np.ascontiguousarray(values)
        self.tensors.append(self._numpy.from_array(values, name))
        return name


def _normalised(g: _Graph, weights: Weights) -> str:
    """Turns crops into views: less the mean, scaled, channels first; offset as of a black image."""
    config = weights.config
    views = Views.of(config, weights.statistics)
    black = np.zeros((1, config.resize, config.resize, 3), np.uint8)
    [offset] = (np.asarray(view)[0] for view in views.evaluation(jnp.asarray(black), 1))
    if views.mean.ndim == 1:
        offset = offset[:1, :1]
    spread = np.asarray(config.augment.pixel_std, np.float32)
    x = g.add("Cast", [IMAGES], to=1)
    x = g.add("Div", [x, g.tensor("spread", spread)])
    x = g.add("Add", [x, g.tensor("less_the_mean", offset.astype(np.float32))])
    return g.add("Transpose", [x], perm=[0, 3, 1, 2])


def _network(g: _Graph, weights: Weights, x: str) -> str:
    """The layers of `model.AlexNet`; returns the logits' name."""
    c, params = weights.config.model, weights.params
    together = 1 if c.columns_meet else c.columns
    before, after = c.conv1_padding_before, c.conv1_padding
    moves = {
        "conv1": (4, [before, before, after, after], 1),
        "conv2": (1, [c.conv2_padding] * 4, c.columns),
        "conv3": (1, [1] * 4, together),
        "conv4": (1, [1] * 4, c.columns),
        "conv5": (1, [c.conv5_padding] * 4, c.columns),
        "conv6": (1, [1] * 4, together),
    }
    channels = 3
    for layer, (stride, pads, groups) in moves.items():
        if layer in params:
            kernel = params[layer]["kernel"].transpose(3, 2, 0, 1)
            names = [x, g.tensor(f"{layer}.weight", kernel)]
            names.append(g.tensor(f"{layer}.bias", params[layer]["bias"]))
            x = g.add("Conv", names, layer, strides=[stride] * 2, pads=pads, group=groups)
            channels = len(kernel)
        if layer == "conv6" and layer in params:
            x = g.add(ACTIVATIONS[c.activation], [x])
        elif layer != "conv6":
            x = _stage(g, c, int(layer[-1]), x, channels, params.get(f"norm{layer[-1]}"))
    x, maps = _dropped(g, c, x, "pool5"), True
    for layer in ("fc6", "fc7", "fc7_linear", "fc8"):
        if layer not in params:
            continue
        groups = together if layer in ("fc6", "fc7") else 1
        x, maps = _matrix(g, layer, params[layer], x, channels, groups, maps), False
        channels = len(params[layer]["bias"])
        if layer in ("fc6", "fc7"):
            x = _dropped(g, c, g.add(ACTIVATIONS[c.activation], [x]), layer)
    return x


def _stage(g: _Graph, c: ModelConfig, number: int, x: str, channels: int, norm: Any | None) -> str:
    """What follows a convolution, as `layers.stage` has it."""
    for step in getattr(c, f"layer{number}").split():
        if step == "relu" and f"conv{number}" in c.without:
            continue  # a removed layer has no ReLU either
        if step == "relu":
            x = g.add(ACTIVATIONS[c.activation], [x])
        elif step == "pool":
            side = c.pool_size
            size = {"kernel_shape": [side] * 2, "strides": [2, 2], "ceil_mode": int(side == 2)}
            x = g.add("MaxPool", [x], **size)
        elif norm is not None:
            x = _batch_norm(g, f"norm{number}", x, norm)
        else:
            parts = g.split(x, channels, 1 if c.lrn.across_columns else c.columns)
            x = g.join([_local(g, c, part) for part in parts])
            if number == 2 and c.spatial_norm2:
                x = _spatial(g, x, SPATIAL_NORM2)
    return x


def _local(g: _Graph, c: ModelConfig, x: str) -> str:
    lrn = Lrn.named(c.lrn.convention, c.lrn.size, c.lrn.alpha, c.lrn.beta)
    # ONNX divides alpha by the window's size.
    alpha = lrn.scale * lrn.size
    return g.add("LRN", [x], alpha=alpha, beta=lrn.beta, bias=lrn.k, size=lrn.size)


def _spatial(g: _Graph, x: str, lrn: Lrn) -> str:
    """x / (k + scale * sum x^2) ** beta, the sum over a square of each map."""
    half = lrn.size // 2
    square = g.add("Mul", [x, x])
    around = {"kernel_shape": [lrn.size] * 2, "pads": [half] * 4, "count_include_pad": 1}
    mean = g.add("AveragePool", [square], **around)
    scale = g.tensor("spatial_scale", np.float32(lrn.scale * lrn.size**2))
    base = g.add("Add", [g.add("Mul", [mean, scale]), g.tensor("spatial_k", np.float32(lrn.k))])
    return g.add("Mul", [x, g.add("Pow", [base, g.tensor("spatial_beta", np.float32(-lrn.beta))])])


def _batch_norm(g: _Graph, layer: str, x: str, norm: Any) -> str:
    ones, zeros = np.ones_like(norm["mean"]), np.zeros_like(norm["mean"])
    parts = {"scale": ones, "shift": zeros, "mean": norm["mean"], "variance": norm["variance"]}
    names = [g.tensor(f"{layer}.{part}", values) for part, values in parts.items()]
    return g.add("BatchNormalization", [x, *names], layer, epsilon=EPSILON)


def _matrix(
    g: _Graph, layer: str, params: Any, x: str, channels: int, groups: int, maps: bool
) -> str:
    """Adds a fully connected layer; it reads maps channels first, as ONNX's Flatten orders them."""
    outputs = []
    kernels = np.split(params["kernel"], groups, axis=1)
    biases = np.split(params["bias"], groups)
    for number, part in enumerate(g.split(x, channels, groups)):
        kernel, width = kernels[number], channels // groups
        if maps:
            side = round((len(kernel) / width) ** 0.5)
            kernel = kernel.reshape(side, side, width, -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(-1, kernel.shape[-1])
            part = g.add("Flatten", [part], axis=1)
        name = layer if groups == 1 else f"{layer}_{number}"
        weight = g.tensor(f"{name}.weight", kernel.T)
        names = [part, weight, g.tensor(f"{name}.bias", biases[number])]
        outputs.append(g.add("Gemm", names, name, transB=1))
    return g.join(outputs)


def _dropped(g: _Graph, c: ModelConfig, x: str, layer: str) -> str:
    """Scales by 1 - `dropout_rate` where an evaluation does so in place of dropout."""
    if c.dropout_scaling != "test" or c.dropout_rate == 0:
        return x
    if layer not in set(c.dropout_after) - set(c.without):
        return x
    rate = g.tensor(f"{layer}_stays", np.float32(1 - c.dropout_rate))
    return g.add("Mul", [x, rate])
