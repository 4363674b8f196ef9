"""ONNX networks, such as the model zoo's bvlcalexnet, by the onnx package."""

import pathlib

import numpy as np

from alexnet_jax.weights.types import WeightsError

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the weights as "layer.weight" and "layer.bias", channels first, and the kinds of all
    layers in the order of the graph.

    Exporters name tensors as they like; the graph's order says which layer is which.

    Raises:
      WeightsError: not a network of five convolutions and three fully connected layers, or the
        onnx package is not installed.
    """
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise WeightsError(f"{path}: needs the onnx package; pip install onnx") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path}: is not an ONNX network ({error}); fetch it again") from error
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
        flags = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for part, name in zip(("weight", "bias"), list(node.input)[1:], strict=False):
            tensor = stored.get(name)
            if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise WeightsError(f"{path}: {name}, the {part} of {layer}, is not in the file")
            try:
                values = numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                raise WeightsError(f"{path}: {name} cannot be read ({error})") from error
            across = node.op_type == "Gemm" and part == "weight" and not flags.get("transB", 0)
            tensors[f"{layer}.{part}"] = values.T if across else values
            used.add(name)
    others = {
        n for n, t in stored.items() if n not in used and t.data_type == onnx.TensorProto.FLOAT
    }
    if others:
        raise WeightsError(f"{path}: {min(others)} belongs to no layer of AlexNet")
    return tensors, [node.op_type for node in graph.node]
