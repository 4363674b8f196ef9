"""Weights read from a workdir, or written as one; `weights/` handles files of weights."""

import dataclasses
import json
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.host import files
from alexnet_jax.layers import standard_tree
from alexnet_jax.steps import digests
from alexnet_jax.steps.state import state_without_velocity
from alexnet_jax.training import checkpoint, run_files
from alexnet_jax.training.rows import METRICS, read_rows
from alexnet_jax.training.seal import DamageError
from alexnet_jax.training.stored import CheckpointError, Stored, compare
from alexnet_jax.weights import formats
from alexnet_jax.weights.types import Origin, Params, Weights, WeightsError

ORIGIN_FILE = "origin.json"  # of a workdir that was imported
FORMATS = (*formats.READERS, "workdir")


def read(form: str, path: pathlib.Path, recipe: str = "", which: str = "best") -> Weights:
    """Reads a file of weights, or a workdir.

    Args:
      form: one of FORMATS.
      path: of it.
      recipe: which network it is, where the file does not say.
      which: checkpoint of a workdir: best, latest or its step.

    Raises:
      WeightsError: there is no such file, it is too large for weights of AlexNet, damaged, or does
        not hold every tensor of the network.
      ConfigError: not the workdir of a run, or without that checkpoint.
      CheckpointError: the checkpoint is damaged.
    """
    if form != "workdir":
        return formats.read(form, path, recipe)
    if not path.is_dir():
        raise WeightsError(f"{path}: {'is not a workdir' if path.exists() else 'not found'}")
    if recipe:
        raise WeightsError(f"{path}: a run has its own config; leave --recipe out")
    return _read_workdir(path, which)


def write(form: str, weights: Weights, out: pathlib.Path, from_images: bool = False) -> None:
    """Writes a file of weights with a card beside it, or a workdir.

    Args:
      form: one of `formats.WRITERS` or `formats.GRAPHS`, or workdir.
      weights: to write.
      out: where to.
      from_images: of a graph: does it take the mean off the images itself?

    Raises:
      WeightsError: the format cannot hold them, or something is there already.
    """
    if form in formats.GRAPHS:
        formats.GRAPHS[form](weights, out, from_images)
    elif from_images:
        raise WeightsError(
            f"--from_images: {form} holds weights alone; {' and '.join(formats.GRAPHS)} take images"
        )
    elif form == "workdir":
        _write_workdir(weights, out)
    else:
        formats.WRITERS[form](weights, out)


def _read_workdir(path: pathlib.Path, which: str) -> Weights:
    """Reads a checkpoint on the host: it takes no device, and no mesh."""
    config = run_files.read_config(path)
    stored = Stored(path, run_files.identity(path, config))
    step = stored.choose(which)
    folder = stored.path / str(step)
    try:
        sealed, leaves = stored.check(step), stored.read(folder)
        if sealed is not None:
            compare({name: digests.of_array(leaf) for name, leaf in leaves.items()}, sealed.leaves)
    except DamageError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    params: Params = {}
    for name, leaf in leaves.items():
        kind, _, rest = name.partition(".")
        if kind in ("params", "batch_stats"):
            layer, _, part = rest.partition(".")
            params.setdefault(layer, {})[part] = np.asarray(leaf)
    names, statistics = run_files.read_class_names(path), run_files.read_statistics(path)
    return Weights(params, config, names, statistics, step, path, _origin(path, config, step))


def _origin(workdir: pathlib.Path, config: Config, step: int) -> Origin:
    imported = workdir / ORIGIN_FILE
    if imported.is_file() and not (workdir / METRICS).is_file():
        return _read_origin(imported)
    trained_on = f"`{config.dataset}`, split `{config.train_split}`"
    return Origin(trained_on, _errors(workdir, step))


def _read_origin(file: pathlib.Path) -> Origin:
    try:
        parsed = json.loads(file.read_text())
        origin = Origin(**parsed)
        if not all(isinstance(text, str) for text in parsed.values()):
            raise ValueError("a value is not text")
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file}: is damaged ({error}); convert the weights again") from error
    return origin


def _errors(workdir: pathlib.Path, step: int) -> str:
    """Describes the last evaluation of a step; empty if there was none."""
    path = workdir / METRICS
    rows = read_rows(path) if path.is_file() else []
    evaluations = [r for r in rows if r["split"] != "train" and r["step"] == step]
    try:
        evaluations += [files.read_object(workdir / run_files.SUMMARY_FILE)]
    except (FileNotFoundError, files.DamagedFileError):
        pass  # it repeats the last row
    evaluations = [row for row in evaluations if row.get("step") == step and "top1_error" in row]
    if not evaluations:
        return ""
    last = evaluations[-1]
    count = last.get("views", 1)
    views = f", {count} view{'s' if count != 1 else ''}"
    return (
        f"top-1 {100 * last['top1_error']:.2f} %, top-5 {100 * last['top5_error']:.2f} % over "
        f"{last.get('count', '?')} images of `{last['split']}`{views}"
    )


def _write_workdir(weights: Weights, out: pathlib.Path) -> None:
    """Writes a workdir that one can evaluate, predict with, and start runs from.

    Raises:
      WeightsError: something is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeightsError(f"{out}: is there already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=out.name, dir=out.parent) as folder:
        made = pathlib.Path(folder) / "workdir"
        made.mkdir()
        config = weights.config
        config.mesh = MeshConfig()
        tree = jax.tree.map(jnp.asarray, weights.params)
        params, statistics = standard_tree.parameters_and_statistics(tree)
        state = state_without_velocity(config.optimizer, params, statistics, weights.step)
        run_files.write_config(made, config)
        run_files.write_class_names(made, weights.class_names)
        with checkpoint.Checkpoints(made, 1, run_files.identity(made, config)) as checkpoints:
            checkpoints.begin_after(None)
            checkpoints.save(weights.step, state)
            checkpoints.wait()
        origin = json.dumps(dataclasses.asdict(weights.origin), ensure_ascii=False) + "\n"
        files.replace_text(made / ORIGIN_FILE, origin)
        if weights.statistics:
            weights.statistics.save(made)
        if out.exists():
            out.rmdir()
        shutil.move(made, out)
