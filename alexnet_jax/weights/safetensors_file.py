"""Weights of our own as safetensors: the standard tree, with the run's config beside it."""

import dataclasses
import json
import pathlib

import numpy as np
import safetensors
from safetensors.numpy import save

from alexnet_jax.config import Config, to_json
from alexnet_jax.configs.earlier_versions import config_of
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import printable
from alexnet_jax.host import files
from alexnet_jax.weights.types import Origin, Weights, WeightsError

COLOURS = "statistics."  # prefix of the tensors that are not weights
MOST_STEPS = 2**31 - 1  # a step is int32


@dataclasses.dataclass(frozen=True)
class Description:
    """What the metadata say of the weights.

    Attributes:
      config: of the run.
      class_names: in label order.
      step: finished updates.
      origin: what they were trained on, and what was measured.
    """

    config: Config
    class_names: list[str]
    step: int
    origin: Origin


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str], Statistics | None]:
    """Returns the tensors as "layer.kernel" and "layer.bias", the metadata, and the colours.

    Raises:
      WeightsError: not a whole safetensors file.
    """
    try:
        with files.safe_path(path) as safe, safetensors.safe_open(safe, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise WeightsError(f"{path}: is not a whole safetensors file ({error})") from error
    colours = {n.removeprefix(COLOURS): tensors.pop(n) for n in [*tensors] if n.startswith(COLOURS)}
    try:
        statistics = Statistics(**colours) if colours else None
    except TypeError as error:
        raise WeightsError(f"{path}: its {COLOURS}* are not those of a store ({error})") from error
    return tensors, metadata, statistics


def metadata(weights: Weights) -> dict[str, str]:
    """Returns what stands beside the tensors, for `described`."""
    return {
        "format": "alexnet_jax",
        "config": to_json(weights.config),
        "class_names": json.dumps(weights.class_names),
        "step": str(weights.step),
    } | {name: printable(text) for name, text in dataclasses.asdict(weights.origin).items()}


def described(fields: dict[str, str], path: pathlib.Path) -> Description:
    """Parses a file's metadata.

    Raises:
      WeightsError: another program wrote them, or a value is invalid.
    """
    try:
        config, names = config_of(fields["config"]), json.loads(fields["class_names"])
        step = int(fields["step"])
        if not 0 <= step <= MOST_STEPS:
            raise ValueError(f"step {step}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names are not a list of names")
        origin = Origin(fields.get("trained_on", ""), fields.get("errors", ""))
        return Description(config, names, step, origin)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: does not say which network it holds ({error}); name it with --recipe"
        ) from error


def write(tensors: dict[str, np.ndarray], weights: Weights, path: pathlib.Path) -> None:
    """Writes the standard tree with its config, class names, colours and origin."""
    extra = {}
    if weights.statistics:
        extra = {f"{COLOURS}{n}": v for n, v in dataclasses.asdict(weights.statistics).items()}
    contiguous = {name: np.ascontiguousarray(v) for name, v in (tensors | extra).items()}
    # Not `save_file`, which takes a path only if it is valid text.
    path.write_bytes(save(contiguous, metadata(weights)))
