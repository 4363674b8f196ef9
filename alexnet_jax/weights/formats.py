"""Formats by name: a file to `Weights` and back, whole or not at all."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax import configs, model
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs.validation import validate
from alexnet_jax.data.imagenet import class_names
from alexnet_jax.host import files
from alexnet_jax.layers import standard_tree
from alexnet_jax.weights import (
    caffe,
    card,
    layout,
    onnx_file,
    onnx_graph,
    safetensors_file,
    stablehlo_file,
    torch_file,
)
from alexnet_jax.weights.types import Weights, WeightsError

# Caffe's ilsvrc_2012_mean.npy by channel, RGB.
CAFFE_MEAN = (122.6789143406786, 116.66876761696767, 104.0069879317889)
BACKGROUND = "background"  # the class that TensorFlow's networks have before ImageNet's thousand
# Fields that affect neither a trained network's weights nor what they compute.
NOT_OF_A_TRAINED_NETWORK = (
    *("init", "conv_std", "conv345_std", "fc_std", "fc8_std", "bias_value", "dropout_rate"),
    *("columns_meet", "lrn", "normalisation"),  # of one column without norms
)


def _recipe(name: str) -> Config:
    config = configs.get(name)
    config.augment.statistics = "imagenet"  # imported weights bring their own mean
    return config


def _imported(
    tensors: dict[str, np.ndarray], of: layout.Layout, config: Config, path: pathlib.Path
) -> Weights:
    params = layout.to_standard(tensors, of, config, path)
    config.num_classes = len(params["fc8"]["bias"])
    names = {1000: class_names(), 1001: [BACKGROUND, *class_names()]}.get(config.num_classes, [])
    return Weights(params, config, names, None, 0, path)


def read_caffe(path: pathlib.Path, recipe: str) -> Weights:
    """Reads a .caffemodel or a .npy dictionary; the order of its layers says which net it is."""
    if path.suffix == ".npy":
        tensors, kinds, of = caffe.read_dictionary(path), [], layout.LAYOUTS["caffe dictionary"]
    else:
        (tensors, kinds), of = caffe.read_caffemodel(path), layout.LAYOUTS["caffe"]
    config = _recipe(recipe or _caffes(kinds))
    config.augment.mean = CAFFE_MEAN
    return _imported(tensors, of, config, path)


def _caffes(kinds: list[str]) -> str:
    """Returns which of Caffe's two a network is: CaffeNet pools before it normalises."""
    order = [kind for kind in kinds if kind in ("LRN", "Pooling", "MaxPool")]
    return "bvlc_alexnet" if order[:1] in ([], ["LRN"]) else "caffenet"


def read_onnx(path: pathlib.Path, recipe: str) -> Weights:
    """Reads an ONNX network with Caffe's weights, such as bvlcalexnet-12; with the recipe
    torchvision, one whose input is RGB, with that recipe's own mean and scale."""
    model = onnx_file.load(path)
    if model.producer_name == onnx_graph.PRODUCER and not recipe:
        return _read_own_onnx(model, path)
    tensors, kinds = onnx_file.read(model, path)
    if recipe == "torchvision":
        return _imported(tensors, layout.LAYOUTS["onnx, rgb"], _recipe(recipe), path)
    config = _recipe(recipe or _caffes(kinds))
    config.augment.mean = CAFFE_MEAN
    return _imported(tensors, layout.LAYOUTS["onnx"], config, path)


def _read_own_onnx(model: Any, path: pathlib.Path) -> Weights:
    """Reads what `write_onnx` wrote.

    Raises:
      WeightsError: it does not hold every tensor of the network that it says it is.
    """
    tensors, metadata = onnx_file.read_own(model, path)
    description = safetensors_file.described(metadata, path)
    try:
        validate(description.config)
    except ConfigError as error:
        raise WeightsError(f"{path}: its config is no network's ({error})") from error
    if (
        description.config.model.normalisation == "batch"
        or not description.config.model.columns_meet
    ):
        raise WeightsError(
            f"{path}: batch normalisation and columns that do not meet are written to ONNX, and "
            "not read from it; use safetensors or the workdir"
        )
    _bound(description.config, tensors, path)
    params = layout.to_standard(tensors, layout.LAYOUTS["onnx, rgb"], description.config, path)
    return Weights(
        params,
        description.config,
        description.class_names,
        None,
        description.step,
        path,
        description.origin,
    )


def read_torchvision(path: pathlib.Path, recipe: str) -> Weights:
    """Reads a state dictionary of torchvision.models.alexnet."""
    config = _recipe(recipe or "torchvision")
    return _imported(torch_file.read(path), layout.LAYOUTS["torchvision"], config, path)


def read_safetensors(path: pathlib.Path, recipe: str) -> Weights:
    """Reads what `write_safetensors` wrote, torchvision's names, or a named recipe's tree."""
    tensors, metadata, statistics = safetensors_file.read(path)
    theirs = torch_file.without_wrappers(tensors)
    if torch_file.FIRST in theirs and "config" not in metadata:
        config = _recipe(recipe or "torchvision")
        return _imported(theirs, layout.LAYOUTS["torchvision"], config, path)
    if recipe:
        return _imported(tensors, layout.LAYOUTS["standard"], _recipe(recipe), path)
    description = safetensors_file.described(metadata, path)
    config, names = description.config, description.class_names
    try:
        validate(config)
    except ConfigError as error:
        raise WeightsError(
            f"{path}: its config is not a network's ({error}); export it again"
        ) from (error)
    _bound(config, tensors, path)
    params = layout.to_standard(tensors, layout.LAYOUTS["standard"], config, path)
    classes = len(params["fc8"]["bias"])
    if (config.num_classes or len(names)) != classes or len(names) > classes:
        raise WeightsError(
            f"{path}: fc8.bias has {classes} classes, its config {config.num_classes} and "
            f"{len(names)} names; export it again"
        )
    fault = statistics.fault(config.resize) if statistics else ""
    if fault:
        raise WeightsError(f"{path}: {safetensors_file.COLOURS}{fault}; export it again")
    return Weights(params, config, names, statistics, description.step, path, description.origin)


def _bound(config: Config, tensors: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Refuses a config with wider layers than the file's longest tensor, before shapes are built.

    Raises:
      WeightsError: names the widest layer's units and that tensor's length.
    """
    c = config.model
    widest = c.width * max(*c.channels, c.fc_units, c.fc7_units)
    longest = max((max(values.shape, default=0) for values in tensors.values()), default=0)
    if widest > longest:
        raise WeightsError(
            f"{path}: its config has layers of {widest:,.0f} units, and its longest tensor "
            f"{longest:,}; export it again"
        )


def write_safetensors(weights: Weights, out: pathlib.Path) -> None:
    """Writes the standard tree, and a card beside it."""
    tensors = layout.from_standard(weights.params, layout.LAYOUTS["standard"])
    _with_card(lambda path: safetensors_file.write(tensors, weights, path), weights, out)


def write_torchvision(weights: Weights, out: pathlib.Path) -> None:
    """Writes a state dictionary for torchvision.models.alexnet, and a card beside it.

    Raises:
      WeightsError: the network is not of that kind, or PyTorch is not installed.
    """
    theirs = configs.get("torchvision")
    for field in dataclasses.fields(theirs.model):
        ours, wanted = (getattr(c.model, field.name) for c in (weights.config, theirs))
        if ours != wanted and field.name not in NOT_OF_A_TRAINED_NETWORK:
            raise WeightsError(
                f"{weights.source}: torchvision's network has model.{field.name} = {wanted!r}, "
                f"not {ours!r}; use safetensors"
            )
    network = model.build(theirs.model, len(weights.params["fc8"]["bias"]), "float32")
    wanted = standard_tree.abstract_parameters(network, theirs.image_size)["fc6"]["kernel"].shape
    if weights.params["fc6"]["kernel"].shape != wanted:
        raise WeightsError(
            f"{weights.source}: fc6.kernel is {weights.params['fc6']['kernel'].shape}; that of "
            f"torchvision's network, for crops of {theirs.image_size}, {wanted}; use safetensors"
        )
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise WeightsError(f"{out}: needs PyTorch; pip install torch") from error
    tensors = layout.from_standard(weights.params, layout.LAYOUTS["torchvision"])
    state = {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}
    _with_card(lambda path: torch.save(state, path), weights, out)


def write_onnx(weights: Weights, out: pathlib.Path, from_images: bool = False) -> None:
    """Writes an ONNX graph (`onnx_graph`), and a card beside it.

    Raises:
      WeightsError: the onnx package is not installed.
    """
    use = onnx_graph.use(weights, from_images)
    _with_card(lambda path: onnx_graph.write(weights, path, from_images), weights, out, use)


def write_stablehlo(weights: Weights, out: pathlib.Path, from_images: bool = False) -> None:
    """Writes a StableHLO artefact (`stablehlo_file`), and a card beside it."""
    use = stablehlo_file.use(weights, from_images)
    _with_card(lambda path: stablehlo_file.write(weights, path, from_images), weights, out, use)


def _with_card(
    write: Callable[[pathlib.Path], None], weights: Weights, out: pathlib.Path, use: str = ""
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=out.name, dir=out.parent) as folder:
        made = pathlib.Path(folder) / out.name
        with files.named(out):
            write(made)
            text = card.text(weights, made, use)
            made.replace(out)
        files.replace_text(out.with_name(f"{out.name}.md"), text)


MOST_BYTES = 2**31  # AlexNet's float64 parameters are a quarter of it


def read(form: str, path: pathlib.Path, recipe: str = "") -> Weights:
    """Reads a file of weights.

    Args:
      form: one of READERS.
      path: of it.
      recipe: which network it is, where the file does not say.

    Raises:
      WeightsError: there is no such file, it is too large for weights of AlexNet, damaged, or does
        not hold every tensor of the network.
    """
    if not path.exists():
        raise WeightsError(f"{path}: not found")
    if not path.is_file() and not path.is_dir():
        raise WeightsError(f"{path}: is neither a file nor a folder")
    if path.is_dir():
        raise WeightsError(f"{path}: is not a file of weights of the format {form}")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise WeightsError(
            f"{path}: has {size / 2**30:.1f} GiB; weights of AlexNet have less than "
            f"{MOST_BYTES / 2**30:.0f}: is it the right file?"
        )
    return READERS[form](path, recipe)


Reader = Callable[[pathlib.Path, str], Weights]
Writer = Callable[[Weights, pathlib.Path], None]
GraphWriter = Callable[[Weights, pathlib.Path, bool], None]

READERS: dict[str, Reader] = {
    "caffe": read_caffe,
    "torchvision": read_torchvision,
    "onnx": read_onnx,
    "safetensors": read_safetensors,
}
WRITERS: dict[str, Writer] = {"torchvision": write_torchvision, "safetensors": write_safetensors}
GRAPHS: dict[str, GraphWriter] = {"onnx": write_onnx, "stablehlo": write_stablehlo}

# Formats by a file's suffix, or else by its first bytes.
_ENDINGS = {
    **dict.fromkeys((".caffemodel", ".npy"), "caffe"),
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".tar"), "torchvision"),
    ".onnx": "onnx",
    ".safetensors": "safetensors",
}
_BEGINNINGS = {b"PK\x03\x04": "torchvision", b"\x80": "torchvision", b"\x93NUMPY": "caffe"}


def format_of(path: pathlib.Path) -> str:
    """Returns the format of a file of weights by its name, or else by its first bytes.

    Raises:
      WeightsError: neither tells.
    """
    if path.suffix.lower() in _ENDINGS:
        return _ENDINGS[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            first = file.read(16)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    for beginning, form in _BEGINNINGS.items():
        if first.startswith(beginning):
            return form
    if first[8:9] == b"{":  # after the length of its header
        return "safetensors"
    raise WeightsError(
        f"{path}: its name does not show its format; put the format before the path, such as "
        f"{next(iter(READERS))}:{path} (one of {', '.join(READERS)})"
    )
