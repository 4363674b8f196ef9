"""Learning rates of single layers, in words: "conv1 weights: 1e-5 from epoch 67"."""

import dataclasses
import re
from collections.abc import Sequence

from alexnet_jax.config import LAYERS, ConfigError
from alexnet_jax.configs import layer_names

EXAMPLE = "such as conv1 weights: 1e-5 from epoch 67, or fc8: x10"
NEW = "new"
PARTS = {"weights": ("kernel",), "biases": ("bias",), None: ("kernel", "bias")}
_RULE = re.compile(
    r"\s*(?P<layers>[\w *-]+?)(?:\s+(?P<part>weights|biases))?\s*:\s*(?P<times>x?)\s*(?P<value>\S+)"
    r"(?:\s+from\s+(?P<unit>epoch|update)\s+(?P<start>\S+))?\s*",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True)
class LayerRate:
    """A learning rate for some layers, from a given time on.

    Attributes:
      layers: conv1 .. fc8.
      parts: kernel, bias or both.
      value: the rate, or a factor that multiplies the schedule's rate.
      is_factor: is `value` a factor?
      epoch: first epoch of the rule; may be a fraction.
      update: first update of the rule, counted from 0, if the rule names one instead of an epoch.
    """

    layers: tuple[str, ...]
    parts: tuple[str, ...]
    value: float
    is_factor: bool
    epoch: float = 0.0
    update: int | None = None


def parse(rule: str) -> LayerRate:
    """Reads a rule: LAYERS [weights|biases]: RATE or xFACTOR [from epoch E | from update N].

    LAYERS are names, a range, a pattern or `all`, see `layer_names.select`; or `new`, the layers
    that do not start from weights: none until `resolved` names them.

    Raises:
      ConfigError: it is no such rule.

    >>> parse("conv1-conv3 biases: 0.002 from epoch 4.5").layers
    ('conv1', 'conv2', 'conv3')
    >>> parse("fc8: x10").is_factor
    True
    """
    match = _RULE.fullmatch(rule)
    if not match:
        raise ConfigError(f"optimizer.schedule.layer_rates: {rule!r} is no rule, {EXAMPLE}")
    known = (*LAYERS, NEW)
    layers = layer_names.select(match["layers"].split(), known, "optimizer.schedule.layer_rates")
    if not layers:
        raise ConfigError(f"optimizer.schedule.layer_rates: {rule!r} names no layer, {EXAMPLE}")
    layers = tuple(layer for layer in layers if layer != NEW)
    value, start = (_number(text, rule) for text in (match["value"], match["start"] or "0"))
    by_update = match["unit"] == "update"
    if by_update and start != int(start):
        raise ConfigError(
            f"optimizer.schedule.layer_rates: {rule!r}: the update must be a whole number"
        )
    return LayerRate(
        layers,
        PARTS[match["part"]],
        value,
        bool(match["times"]),
        0.0 if by_update else start,
        int(start) if by_update else None,
    )


def resolved(rules: tuple[str, ...], new: Sequence[str]) -> tuple[str, ...]:
    """Returns rules with the names of the layers that `new` stands for.

    >>> resolved(("new: x10", "conv1: 0"), ["fc7", "fc8"])
    ('fc7 fc8: x10', 'conv1: 0')
    >>> resolved(("new: x10",), [])
    ()
    """
    rates = []
    for rule in rules:
        layers, colon, rest = rule.partition(":")
        names = " ".join(re.sub(rf"\b{NEW}\b", " ".join(new), layers).split())
        if names not in ("", "weights", "biases"):
            rates.append(rule if NEW not in layers.split() else names + colon + rest)
    return tuple(rates)


def _number(text: str, rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(
            f"optimizer.schedule.layer_rates: {rule!r}: {text} is no number from 0 on, {EXAMPLE}"
        )
    return value
