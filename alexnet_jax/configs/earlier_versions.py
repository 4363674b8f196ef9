"""Names of earlier versions: fields of a run's config, and leaves of a checkpoint.

No other file knows these names. Runs, stores and safetensors of every version remain readable.
"""

import json
import pathlib
from typing import Any

from alexnet_jax.config import Config, ConfigError, from_json

# Removed fields, none of which affected what a run computes.
REMOVED = ("cache_gib",)


def config_of(text: str) -> Config:
    """Reads the text of a config.json of any version.

    Raises:
      ValueError: it is no JSON, or (ConfigError) has a field or a value that no version had.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ConfigError(f"it holds {type(values).__name__}, not an object")
    values = {name: value for name, value in values.items() if name not in REMOVED}
    _say_rates_in_words(values)
    return from_json(json.dumps(values))


def _say_rates_in_words(values: dict[str, Any]) -> None:
    """Replaces `conv1_steps`, ((epoch, rate), ...), by `layer_rates`; 0 was the bias's rate too."""
    schedule = values.get("optimizer", {})
    schedule = schedule.get("schedule", {}) if isinstance(schedule, dict) else {}
    if not isinstance(schedule, dict) or "conv1_steps" not in schedule:
        return
    rows = schedule.pop("conv1_steps")
    try:
        rules = [
            f"conv1{' weights' if rate else ''}: {float(rate)!r} from epoch {float(epoch)!r}"
            for epoch, rate in rows
        ]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.schedule.conv1_steps: {rows!r} ({error})") from error
    schedule["layer_rates"] = rules


def stored_state(state: dict[str, Any], stored: Any) -> dict[str, Any]:
    """Converts a state's tree to the form that a checkpoint stores.

    Until be20fbf the statistics of batch normalisation were parameters with a velocity.

    Args:
      state: the tree that is wanted, by the fields of `TrainState`.
      stored: the names that are in the checkpoint, as nested dictionaries.
    """
    if "batch_stats" in stored:
        return state
    state = dict(state)
    statistics = state.pop("batch_stats")
    state["params"] = state["params"] | statistics
    if state["opt_state"]:  # empty: the velocity is not read
        *rest, trace = state["opt_state"]
        state["opt_state"] = (*rest, trace._replace(trace=trace.trace | statistics))
    return state


def current_state(state: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Converts a state that was read in the form of `stored_state` to the form of `wanted`."""
    if "batch_stats" in state:
        return state
    state, layers = dict(state), wanted["batch_stats"]
    params = state["params"]
    state["batch_stats"] = {layer: params[layer] for layer in layers}
    state["params"] = {layer: params[layer] for layer in params if layer not in layers}
    if not state["opt_state"]:
        return state
    *rest, trace = state["opt_state"]
    learned = {layer: trace.trace[layer] for layer in trace.trace if layer not in layers}
    state["opt_state"] = (*rest, trace._replace(trace=learned))
    return state


def checkpoint_errors(folder: pathlib.Path) -> dict[int, float]:
    """Returns the validation error of each checkpoint that stores its own, as until be20fbf.

    Skips files that hold no such error: it only ranks checkpoints, and nothing else depends on it.
    """
    errors = {}
    for path in folder.glob("*/metrics/metrics"):
        try:
            errors[int(path.parts[-3])] = float(json.loads(path.read_text())["top1_error"])
        except (ValueError, TypeError, KeyError, OSError):
            continue
    return errors
