"""Weights of our own as safetensors: the standard tree, with the run's config beside it."""

import dataclasses
import json
import pathlib

import numpy as np
import safetensors
from safetensors.numpy import save_file

from alexnet_jax.config import Config, from_json, to_json
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.weights.types import Weights, WeightsError

COLOURS = "statistics."  # before the names of what is not a weight


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str], Statistics | None]:
    """Returns the tensors as "layer.kernel" and "layer.bias", the metadata, and the colours.

    Raises:
      WeightsError: not a whole safetensors file.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise WeightsError(f"{path}: is not a whole safetensors file ({error})") from error
    colours = {n.removeprefix(COLOURS): tensors.pop(n) for n in [*tensors] if n.startswith(COLOURS)}
    try:
        statistics = Statistics(**colours) if colours else None
    except TypeError as error:
        raise WeightsError(f"{path}: its {COLOURS}* are not those of a store ({error})") from error
    return tensors, metadata, statistics


def described(metadata: dict[str, str], path: pathlib.Path) -> tuple[Config, list[str], int]:
    """Returns the config, the class names and the step that the metadata hold.

    Raises:
      WeightsError: they were written by something else.
    """
    try:
        names = [str(name) for name in json.loads(metadata["class_names"])]
        return from_json(metadata["config"]), names, int(metadata["step"])
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: does not say which network it holds ({error}); name it with --recipe"
        ) from error


def write(tensors: dict[str, np.ndarray], weights: Weights, path: pathlib.Path) -> None:
    """Writes the standard tree with its config, class names and colours."""
    extra = {}
    if weights.statistics:
        extra = {f"{COLOURS}{n}": v for n, v in dataclasses.asdict(weights.statistics).items()}
    metadata = {
        "format": "alexnet_jax",
        "config": to_json(weights.config),
        "class_names": json.dumps(weights.class_names, ensure_ascii=False),
        "step": str(weights.step),
    }
    contiguous = {name: np.ascontiguousarray(v) for name, v in (tensors | extra).items()}
    save_file(contiguous, path, metadata)
