"""Start of a run from trained weights: which layers it takes, and whose input settings."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_jax.config import LAYERS, Config, ConfigError
from alexnet_jax.configs import layer_names, layer_rates
from alexnet_jax.configs.by_hand import put
from alexnet_jax.configs.inheritance import inherited
from alexnet_jax.configs.validation import validate
from alexnet_jax.host import files, paths
from alexnet_jax.layers.standard_tree import abstract_parameters
from alexnet_jax.parallel import processes
from alexnet_jax.steps.setup import Setup
from alexnet_jax.training import run_files, run_weights, seal
from alexnet_jax.training.stored import FOLDER
from alexnet_jax.weights import formats
from alexnet_jax.weights.types import Params, Weights, WeightsError

FILE = "init.json"  # of a workdir: where its weights came from
ANEW = "anew"  # before the reason
UNUSED = "of the weights, not used"
_SYNSET = re.compile(r"(n\d{8})(?:[-_ ].*)?")  # WordNet's number, with words after it or without


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that a run begins with, before its data set is known.

    Attributes:
      config: of the run, with the network and the input of the weights.
      gave_way: fields of a recipe or the defaults that the weights override: (old value, the
        weights').
      weights: as read.
      form: their format, one of `run_weights.FORMATS`.
      path: of their file or workdir.
      sha256: of the file; for a workdir, of the checkpoint's seal, or of its arrays if it has none.
      layers: to take, if they fit.
    """

    config: Config
    gave_way: dict[str, tuple[Any, Any]]
    weights: Weights
    form: str
    path: pathlib.Path
    sha256: str
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Weights in the shapes of a run's network.

    Attributes:
      params: of the layers that are taken, with the statistics of batch normalisation.
      layers: what becomes of every layer of the network, and of the weights.
    """

    params: Params
    layers: dict[str, str]


def read(config: Config, workdir: pathlib.Path | None = None) -> Start | None:
    """Reads the weights that a config names, in every process; None where it names none.

    Args:
      config: of the run.
      workdir: of the run, which cannot be where its weights come from; None where none begins.

    Raises:
      ConfigError: a field set by hand contradicts the weights, or names a layer or checkpoint
        that they do not have; or processes read different weights.
      WeightsError, CheckpointError: the weights cannot be read.
    """
    if not config.init.weights:
        if workdir is not None and config.init.layers:
            raise ConfigError(
                f"init.weights: empty, and init.layers names {', '.join(config.init.layers)} of "
                "them; name a workdir or a file of weights, or leave init.layers out"
            )
        return None
    start = processes.first_then_all(lambda: _read(config, workdir))
    for process, digest in enumerate(seen := processes.told_by_all(start.sha256)):
        if digest != seen[0]:
            raise ConfigError(
                f"init.weights: {start.path} is not the same in process {process} as in process 0; "
                "give every process the same file"
            )
    return start


def _read(config: Config, workdir: pathlib.Path | None) -> Start:
    form, path = _named(config.init.weights)
    which = config.init.checkpoint
    if form != "workdir" and which != "best":
        raise ConfigError(
            f"init.checkpoint: {which} is for a workdir, and {path} is a file; leave it out"
        )
    if workdir is not None and path.resolve() == workdir.resolve():
        raise ConfigError(
            f"init.weights: {path} is the workdir of this run itself; use another for one of them"
        )
    weights = run_weights.read(form, path, which=which)
    there = [layer for layer in LAYERS if layer in weights.params]
    layers = layer_names.select(config.init.layers or ("all",), there, "init.layers")
    source = weights.config
    if weights.statistics is None:  # theirs are in the config, whatever the data set has
        source.augment.statistics = "imagenet"
    inheritance = inherited(config, source, layers)
    if inheritance.by_hand:
        changes = "; ".join(
            f"{name}: {ours!r} is set by hand, and the weights have {theirs!r}"
            for name, (ours, theirs) in inheritance.by_hand.items()
        )
        raise ConfigError(
            f"{changes}; do not set what comes with {path}, or leave out its layers (init.layers)"
        )
    validate(inheritance.config)
    sealed = path / FOLDER / str(weights.step) / seal.FILE if path.is_dir() else path
    sha256 = files.sha256(sealed) if sealed.is_file() else _of_arrays(weights.params)
    return Start(inheritance.config, inheritance.gave_way, weights, form, path, sha256, layers)


def _of_arrays(params: Params) -> str:
    """Returns the SHA-256 of parameters, for checkpoints from before there were seals."""
    sha256 = hashlib.sha256()
    for layer, parts in sorted(params.items()):
        for part, values in sorted(parts.items()):
            sha256.update(f"{layer}.{part}".encode() + np.ascontiguousarray(values).tobytes())
    return sha256.hexdigest()


def _named(weights: str) -> tuple[str, pathlib.Path]:
    """Returns the format and the path of PATH or FORMAT:PATH."""
    form, colon, rest = weights.partition(":")
    if colon and form in run_weights.FORMATS and rest:
        return form, paths.local(rest, "--config.init.weights")
    path = paths.local(weights, "--config.init.weights")
    if path.is_dir():
        return "workdir", path
    if not path.exists():
        raise WeightsError(f"{path}: not found; init.weights names a workdir or a file of weights")
    return formats.format_of(path), path


def as_begun(config: Config, workdir: pathlib.Path) -> Config:
    """Returns a config with the network and the input that its run began with.

    What was set by hand to something else stays, and is refused like every other change.
    """
    if not config.init.weights:
        return config
    layers = layer_names.select(config.init.layers or ("all",), LAYERS, "init.layers")
    inheritance = inherited(config, run_files.read_config(workdir), layers)
    config = inheritance.config
    if any(layer_rates.NEW in rule.split(":")[0].split() for rule in _rules(config)):
        _name_new_layers(config, _anew(workdir))
    if not inheritance.by_hand:
        validate(config)
    return config


def _anew(workdir: pathlib.Path) -> list[str]:
    """Returns the layers that began anew in a run."""
    try:
        return _new(files.read_object(workdir / FILE)["layers"])
    except (files.DamagedFileError, OSError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{workdir / FILE}: does not say what the run began with; restore it"
        ) from error


def _new(layers: dict[str, str]) -> list[str]:
    """Returns those of `Fitted.layers` that begin anew and have learning rates."""
    return [layer for layer in LAYERS if layers.get(layer, "").startswith(ANEW)]


def _name_new_layers(config: Config, new: Sequence[str]) -> None:
    """Puts the names of the layers that begin anew into the rules that say `new`."""
    name = "optimizer.schedule.layer_rates"
    put(config, name, layer_rates.resolved(_rules(config), new))


def _rules(config: Config) -> tuple[str, ...]:
    return config.optimizer.schedule.layer_rates


def fit(start: Start, setup: Setup, class_names: list[str]) -> Fitted:
    """Finds what each layer of a network begins with; in the config's layer rates, replaces `new`
    by the names of the layers that begin anew.

    Args:
      start: what was read.
      setup: of the run.
      class_names: of its data set, in label order.

    Raises:
      WeightsError: a layer has another shape.
      ConfigError: rows of fc8 are to be picked by names, and one is not among the weights'.
    """
    params, layers = {}, {}
    shapes = abstract_parameters(setup.network, setup.config.image_size)
    for layer in sorted(shapes, key=lambda name: (name not in LAYERS, name)):
        leaves = shapes[layer]
        # The statistics of batch normalisation belong to their convolution.
        owner = layer.replace("norm", "conv")
        if owner not in start.layers:
            left = "is not in the weights" if owner not in start.weights.params else "is left out"
            layers[layer] = f"{ANEW}: {left}"
            continue
        theirs = start.weights.params.get(layer, {})
        if layer == "fc8":
            theirs, layers[layer] = _classes(start, setup.network.num_classes, class_names)
            if not theirs:
                continue
        for part, leaf in leaves.items():
            there = theirs[part].shape if part in theirs else "missing"
            if there != leaf.shape:
                raise WeightsError(
                    f"{start.path}: {layer}.{part} is {there}, in this network {leaf.shape}; "
                    f"leave {layer} out with init.layers, or change the network"
                )
        params[layer] = {part: theirs[part] for part in leaves}
        layers.setdefault(layer, "taken")
    _name_new_layers(setup.config, _new(layers))
    left = [layer for layer in LAYERS if layer in start.weights.params and layer not in layers]
    return Fitted(params, layers | dict.fromkeys(left, UNUSED))


def _classes(
    start: Start, classes: int, class_names: list[str]
) -> tuple[dict[str, np.ndarray], str]:
    """Returns fc8's initial weights, empty if it begins anew, and a description of them."""
    last = start.weights.params["fc8"]
    there, here = (_numbered(names) for names in (start.weights.class_names, class_names))
    count = len(last["bias"])
    if there == here and len(here) == classes == count:
        return last, "taken"
    if start.config.init.classes != "match":
        if not there:
            return {}, f"{ANEW}: the weights do not name their classes"
        known = sum(name in set(there) for name in here)
        hint = ", init.classes=match picks their rows" if here and known == len(here) else ""
        return {}, (
            f"{ANEW}: {known:,} of the {len(here):,} classes are among the weights' {count:,}{hint}"
        )
    rows = {name: row for row, name in enumerate(there)}
    if len(rows) < len(there):
        raise ConfigError(
            f"init.classes: {start.path} has two classes with the same name, so names cannot pick "
            "its rows; rename them with convert --class_names, or leave init.classes out"
        )
    for name, name_here in zip(here, class_names, strict=True):
        if name not in rows:
            raise ConfigError(
                f"init.classes: class {name_here} is not among the {len(there):,} names of classes "
                f"of {start.path}; leave init.classes out, and fc8 begins anew"
            )
    if len(here) != classes:
        raise ConfigError(
            f"init.classes: num_classes asks for {classes:,} classes, but only {len(here):,} "
            "have names to pick rows by; leave num_classes or init.classes out"
        )
    picked = [rows[name] for name in here]
    return (
        {"kernel": last["kernel"][:, picked], "bias": last["bias"][picked]},
        f"{len(picked):,} of {count:,} classes, picked by name",
    )


def _numbered(names: list[str]) -> list[str]:
    """Returns class names to compare: ImageNet's are cut to their synset numbers."""
    matches = [_SYNSET.fullmatch(name) for name in names]
    numbers = [match[1] if match else name for match, name in zip(matches, names, strict=True)]
    return numbers if len(set(numbers)) == len(numbers) else list(names)


def write(start: Start, fitted: Fitted, workdir: pathlib.Path) -> None:
    """Writes where a run's weights came from."""
    about = {
        "weights": str(start.path),
        "format": start.form,
        "sha256": start.sha256,
        "step": start.weights.step,
        "layers": fitted.layers,
        "gave_way": {name: list(values) for name, values in start.gave_way.items()},
    }
    files.replace_text(workdir / FILE, json.dumps(about, indent=1) + "\n")


def described(workdir: pathlib.Path) -> list[str]:
    """Returns what init.json says, in lines for the header; none where there is no such file."""
    try:
        about = files.read_object(workdir / FILE)
        return _lines(about["weights"], about["format"], about["sha256"], about["layers"], {})
    except FileNotFoundError:
        return []
    except (files.DamagedFileError, KeyError, TypeError, AttributeError) as error:
        return [f"weights   {workdir / FILE} is damaged ({error}); the run does not need it"]


def lines(start: Start, fitted: Fitted) -> list[str]:
    """Returns lines for the header of a run that begins: every layer, each field that gave way."""
    return _lines(str(start.path), start.form, start.sha256, fitted.layers, start.gave_way)


def _lines(
    path: str,
    form: str,
    sha256: str,
    layers: dict[str, str],
    gave_way: dict[str, tuple[Any, Any]],
) -> list[str]:
    all_lines = [f"weights   {path} ({form}, SHA-256 {sha256[:12]}...)"]
    by_source: dict[str, list[str]] = {}
    for layer, what in layers.items():
        by_source.setdefault(what, []).append(layer)
    all_lines += [f"          {', '.join(names)}: {what}" for what, names in by_source.items()]
    all_lines += [
        f"          {name}: {theirs!r} of the weights in the place of {ours!r}"
        for name, (ours, theirs) in gave_way.items()
    ]
    return all_lines
