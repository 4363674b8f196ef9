"""Contents of a file of weights, and the error that refuses one."""

import dataclasses
import pathlib

import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError

# layer -> {"kernel": HWIO or (in, out), "bias": (out,)}, float32: the standard tree, which
# files of every format are mapped to and from.
Params = dict[str, dict[str, np.ndarray]]


class WeightsError(UserError, ValueError):
    """Weights that cannot be used; the message names the file and the tensor."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of weights, for the card; every format of ours keeps it.

    Attributes:
      trained_on: data set and split; "" where nobody says.
      errors: what was measured; "" where nothing was.
    """

    trained_on: str = ""
    errors: str = ""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's weights with what is needed to use them.

    Attributes:
      params: the standard tree, float32.
      config: the network, and how images become its inputs.
      class_names: in label order; may be fewer than the classes.
      statistics: colours of the store that it was trained on, if it was.
      step: finished updates.
      source: where the weights come from.
      origin: what they were trained on, and what was measured.
    """

    params: Params
    config: Config
    class_names: list[str]
    statistics: Statistics | None
    step: int
    source: pathlib.Path
    origin: Origin = Origin()


def array_of(values: np.ndarray, tensor: str, path: pathlib.Path) -> np.ndarray:
    """Returns a tensor as float32.

    Raises:
      WeightsError: it is not of floating-point numbers, or one of them is not finite.
    """
    if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
        raise WeightsError(
            f"{path}: {tensor} holds {values.dtype}, not floating-point numbers; export it again"
        )
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise WeightsError(f"{path}: {tensor} holds NaN or Inf: it is damaged; fetch it again")
    return values
