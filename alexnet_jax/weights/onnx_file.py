"""ONNX networks, such as the model zoo's bvlcalexnet, by the onnx package."""

import pathlib
from typing import Any

import numpy as np

from alexnet_jax.weights.types import WeightsError

# (stride, padding) of Caffe's convolutions; conv1's padding depends on the recipe.
MOVES = {"conv1": (4, None), "conv2": (1, 2), "conv3": (1, 1), "conv4": (1, 1), "conv5": (1, 1)}
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def load(path: pathlib.Path) -> Any:
    """Reads a model, without its external data files.

    Raises:
      WeightsError: it is not a model, or the onnx package is not installed.
    """
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise WeightsError(f"{path}: needs the onnx package; pip install onnx") from error
    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path}: is not an ONNX network ({error}); fetch it again") from error


def read(model: Any, path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the weights as "layer.weight" and "layer.bias", channels first, and the kinds of all
    layers in the order of the graph.

    Exporters name tensors as they like; the graph's order says which layer is which.

    Args:
      model: from `load`.
      path: of it, for messages.

    Raises:
      WeightsError: not a network of five convolutions and three fully connected layers.
    """
    import onnx  # pyright: ignore[reportMissingImports]
    from onnx import numpy_helper  # pyright: ignore[reportMissingImports]

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    kinds = [node.op_type for node in nodes]
    if kinds != ["Conv"] * 5 + ["Gemm"] * 3:
        raise WeightsError(
            f"{path}: has {kinds.count('Conv')} convolutions and {kinds.count('Gemm')} fully "
            "connected layers in the order of its graph, not five and then three"
        )
    tensors, used = {}, set()
    for layer, node in zip(LAYERS, nodes, strict=True):
        try:
            flags = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        except ValueError as error:  # a reference to another attribute
            raise WeightsError(f"{path}: {layer} has no values of its own ({error})") from error
        _refuse_another_kind(flags, layer, path)
        for part, name in zip(("weight", "bias"), list(node.input)[1:], strict=False):
            tensor = stored.get(name)
            if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise WeightsError(f"{path}: {name}, the {part} of {layer}, is not in the file")
            try:
                values = numpy_helper.to_array(tensor)
            except (ValueError, TypeError, KeyError) as error:
                raise WeightsError(f"{path}: {name} cannot be read ({error})") from error
            across = node.op_type == "Gemm" and part == "weight" and not flags.get("transB", 0)
            tensors[f"{layer}.{part}"] = values.T if across else values
            used.add(name)
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)  # shapes and axes, not weights
    others = {n for n, t in stored.items() if n not in used and t.data_type not in whole}
    if others:
        raise WeightsError(f"{path}: {min(others)} belongs to no layer of AlexNet")
    return tensors, [node.op_type for node in graph.node]


def _refuse_another_kind(flags: dict[str, Any], layer: str, path: pathlib.Path) -> None:
    """Refuses a layer whose attributes make it compute something else than AlexNet's.

    Raises:
      WeightsError: names the layer and the attribute.
    """
    wanted: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if layer in MOVES:
        stride, zeros = MOVES[layer]
        wanted = {"strides": [stride] * 2, "dilations": [1, 1]}
        if zeros is not None and flags.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"):
            wanted["pads"] = [zeros] * 4
    absent = {"strides": [1, 1], "pads": [0] * 4}
    for name, value in wanted.items():
        attribute = flags.get(name, absent.get(name, value))
        if list(np.ravel(attribute)) != list(np.ravel(value)):
            raise WeightsError(
                f"{path}: {layer} has {name} = {attribute}, where AlexNet has {value}"
            )


def read_own(model: Any, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors "layer.weight" and "layer.bias", and the metadata, of a graph that
    `onnx_graph.write` wrote.

    Raises:
      WeightsError: a tensor cannot be read.
    """
    from onnx import numpy_helper  # pyright: ignore[reportMissingImports]

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    wanted = {name for node in layers for name in list(node.input)[1:]}
    tensors = {}
    for tensor in model.graph.initializer:
        if tensor.name in wanted:
            try:
                tensors[tensor.name] = numpy_helper.to_array(tensor)
            except (ValueError, TypeError, KeyError) as error:
                raise WeightsError(f"{path}: {tensor.name} cannot be read ({error})") from error
    return tensors, metadata
