"""Caffe's weights: .caffemodel files, and the .npy dictionaries made from them.

A .caffemodel is a protocol buffer (caffe.proto: NetParameter), read here by its wire format;
Caffe's own Python package is no longer published. The dictionaries, from the TensorFlow ports, are
pickled: layer -> [kernel, bias], kernels already HWIO and (in, out).
"""

import itertools
import math
import pathlib
import struct
import tokenize
from collections.abc import Iterator
from typing import Any

import numpy as np

from alexnet_jax.weights import pickled
from alexnet_jax.weights.types import WeightsError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
# Fields of NetParameter, LayerParameter and, until 2014, V1LayerParameter.
V1_LAYERS, LAYERS = 2, 100
V0_LAYER = 1  # within a V1LayerParameter: what layers were until 2013
NAME = {LAYERS: 1, V1_LAYERS: 4, V0_LAYER: 1}
KIND = {LAYERS: 2, V1_LAYERS: 5, V0_LAYER: 2}
BLOBS = {LAYERS: 7, V1_LAYERS: 6, V0_LAYER: 50}
V0_KINDS = {"lrn": "LRN", "pool": "Pooling"}
MOST_DIMENSIONS = 8
V1_KINDS = {15: "LRN", 17: "Pooling"}
# Fields of BlobProto and BlobShape.
OLD_SHAPE, DATA, SHAPE, DOUBLES, DIMENSIONS = (1, 2, 3, 4), 5, 7, 8, 1

Field = tuple[int, int, memoryview | int]


def read_caffemodel(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the blobs, as "layer.weight" and "layer.bias", and the kinds of the layers in order.

    Raises:
      WeightsError: not a network of Caffe, or cut short.
    """
    tensors: dict[str, np.ndarray] = {}
    kinds: list[str] = []
    parts = ("weight", "bias")
    try:
        for number, wire, content in _fields(memoryview(path.read_bytes())):
            if number not in (LAYERS, V1_LAYERS) or wire != LENGTH:
                continue
            name, kind, blobs = _layer(number, content)
            kinds.append(kind)
            if len(blobs) > len(parts):
                raise ValueError(f"{name} has {len(blobs)} blobs, not weights and biases")
            for part, values in zip(parts, blobs, strict=False):
                if f"{name}.{part}" in tensors:
                    raise ValueError(f"{name} is there twice")
                tensors[f"{name}.{part}"] = values
    except (IndexError, ValueError, struct.error, UnicodeError) as error:
        raise WeightsError(
            f"{path}: is not a whole .caffemodel ({error}); fetch it again"
        ) from error
    if not tensors:
        raise WeightsError(f"{path}: holds no layers with weights; is it a .caffemodel?")
    return tensors, kinds


def read_dictionary(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a .npy dictionary as "layer.kernel" and "layer.bias".

    Raises:
      WeightsError: not such a file, or something else than arrays is pickled in it.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
            if shape != () or dtype != np.dtype(object):
                raise ValueError(f"an array of {dtype}, not a dictionary")
            outer = pickled.read(file.read())
    # NumPy evaluates the header as a Python literal and compares its values, hence so many errors.
    except (
        *(ValueError, KeyError, TypeError, OverflowError, RecursionError),
        *(SyntaxError, tokenize.TokenError),
    ) as error:
        raise WeightsError(
            f"{path}: is not a dictionary of layers, {{'conv1': [weights, biases], ...}} ({error})"
        ) from error
    return _named(path, outer)


def _named(path: pathlib.Path, blobs: Any) -> dict[str, np.ndarray]:
    tensors = {}
    sized = isinstance(blobs, tuple | list) or (isinstance(blobs, np.ndarray) and blobs.ndim > 0)
    if sized and len(blobs) == 1:
        [blobs] = blobs  # the array around the dictionary
    if not isinstance(blobs, dict):
        raise WeightsError(f"{path}: holds a {type(blobs).__name__}, not a dictionary of layers")
    for layer, parts in blobs.items():
        if isinstance(parts, list | tuple) and len(parts) == 2:
            parts = dict(zip(("kernel", "bias"), parts, strict=True))
        if not isinstance(parts, dict):
            raise WeightsError(
                f"{path}: {str(layer)[:100]} holds {type(parts).__name__}, not two arrays"
            )
        for name, values in parts.items():
            if not isinstance(values, np.ndarray):
                raise WeightsError(
                    f"{path}: {str(layer)[:100]} holds a {type(values).__name__}, not arrays"
                )
            tensor = f"{layer}.{ {'weights': 'kernel', 'biases': 'bias'}.get(name, name) }"
            if tensor in tensors:
                raise WeightsError(f"{path}: {tensor} is there twice, as {name} too")
            tensors[tensor] = values
    return tensors


def _layer(number: int, content: memoryview | int) -> tuple[str, str, list[np.ndarray]]:
    name, kind, blobs = "", "", []
    for field, wire, value in _fields(_message(content)):
        if number == V1_LAYERS and field == V0_LAYER and wire == LENGTH:
            return _layer(V0_LAYER, value)
        if field == NAME[number] and wire == LENGTH:
            name = bytes(_message(value)).decode()
        elif field == KIND[number]:
            kind = V1_KINDS.get(value, "") if isinstance(value, int) else bytes(value).decode()
            kind = V0_KINDS.get(kind, kind)
        elif field == BLOBS[number] and wire == LENGTH:
            blobs.append(_message(value))
    return name, kind, [_blob(blob, f"{name}, blob {n}") for n, blob in enumerate(blobs)]


def _blob(message: memoryview, name: str) -> np.ndarray:
    old = {number: 1 for number in OLD_SHAPE}
    shape: list[int] | None = None
    # Joins the bytes before decoding: a file may keep each number in a field of its own.
    values, doubles = bytearray(), bytearray()
    for field, wire, value in _fields(message):
        if field in OLD_SHAPE and isinstance(value, int):
            old[field] = value
        elif field == DATA and wire in (LENGTH, FIXED32):
            values += _message(value)
        elif field == DOUBLES and wire in (LENGTH, FIXED64):
            doubles += _message(value)
        elif field == SHAPE and wire == LENGTH:
            shape = list(itertools.islice(_dimensions(_message(value)), MOST_DIMENSIONS + 1))
            if len(shape) > MOST_DIMENSIONS:
                raise ValueError(f"{name} has more than {MOST_DIMENSIONS} dimensions")
    if shape is None:
        shape = [old[number] for number in OLD_SHAPE]
        while len(shape) > 1 and shape[0] == 1:  # a bias was (1, 1, 1, n), a matrix (1, 1, o, i)
            del shape[0]
    flat = np.frombuffer(values, "<f4")
    if doubles:
        flat = np.frombuffer(doubles, "<f8").astype(np.float32)
    if flat.size != math.prod(shape):
        raise ValueError(f"{name}, of shape {shape}, has {flat.size} numbers")
    return flat.reshape(shape)


def _dimensions(message: memoryview) -> Iterator[int]:
    for field, wire, value in _fields(message):
        if field == DIMENSIONS and isinstance(value, int):
            yield value
        elif field == DIMENSIONS and wire == LENGTH:
            packed, at = _message(value), 0
            while at < len(packed):
                one, at = _varint(packed, at)
                yield one


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _fields(message: memoryview | int) -> Iterator[Field]:
    """Yields (number, wire type, content) of a message's fields; contents are views of it."""
    message, at = _message(message), 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == LENGTH:
            size, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(message):
            raise ValueError("it is cut short")
        yield number, wire, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
