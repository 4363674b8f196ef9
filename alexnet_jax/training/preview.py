"""Preview of a run before it writes anything: its layers and its memory."""

import math
import os
from typing import Any

import jax

from alexnet_jax.config import LAYERS, Config, num_train_steps
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.feed import choice, resident
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.feed.protocol import Cut, Feeding
from alexnet_jax.host import paths
from alexnet_jax.host.device_memory import device_memory, peak_bytes
from alexnet_jax.layers.standard_tree import abstract_parameters, count_parameters, layer_outputs
from alexnet_jax.steps import evaluation, training
from alexnet_jax.steps.setup import IMAGENET_TRAIN, Setup
from alexnet_jax.steps.state import abstract_state
from alexnet_jax.training import opening, report, run_files
from alexnet_jax.training import start as starts
from alexnet_jax.training.stored import Stored

MIB = 2**20
ON_THEIR_WAY = 2  # batches that the host copies to the devices during a step


def layers(setup: Setup) -> str:
    """Returns a table with each layer's output shape, kernel shape and parameters.

    Args:
      setup: of the run; its mesh decides what a device holds.
    """
    weights, outputs = abstract_state(setup).weights, _outputs(setup)
    whole = abstract_parameters(setup.network, setup.config.image_size)  # without padding
    rows = [("layer", "output", "kernel", "parameters", "a device holds")]
    for layer in sorted(weights, key=lambda name: (name not in LAYERS, name)):
        leaves = weights[layer]
        output = outputs[layer]["__call__"][0].shape[1:] if layer in outputs else ()
        kernel = whole[layer]["kernel"].shape if "kernel" in leaves else ()
        rows.append((layer, _by(output), _by(kernel), *_counts(whole[layer], leaves)))
    rows.append(("in all", "", "", *_counts(whole, weights)))
    a, b, c, d = (max(len(row[i]) for row in rows) for i in range(4))
    return "\n".join(
        f"{name:{a}}  {output:{b}}  {kernel:{c}}  {count:>{d}}  {on_device}".rstrip()
        for name, output, kernel, count, on_device in rows
    )


def _outputs(setup: Setup) -> Any:
    """Returns the outputs of the layers for one image, as shapes."""
    network, side = setup.network, setup.config.image_size

    def forward(key: jax.Array, image: jax.Array) -> Any:
        return network.init_with_output(key, image, capture_intermediates=layer_outputs)[1]

    image = jax.ShapeDtypeStruct((1, side, side, 3), "float32")
    return jax.eval_shape(forward, jax.random.key(0), image)["intermediates"]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


def _counts(whole: Any, placed: Any) -> tuple[str, str]:
    """Returns how many numbers a tree holds in all, and how many of them one device holds."""
    leaves = jax.tree.leaves(placed)
    on_device = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
    shape = leaves[0].sharding.mesh.shape
    axes = {axis for leaf in leaves for axis in leaf.sharding.spec if axis and shape[axis] > 1}
    over = f", cut over {' and '.join(sorted(axes))}" if axes else ""
    return f"{count_parameters(whole):,}", f"{on_device:,}{over}"


def memory(setup: Setup, evaluated: int) -> str:
    """Compiles the steps of a run; returns a line on the device memory that they take.

    Args:
      setup: of the run.
      evaluated: images of the evaluation split.

    Raises:
      ConfigError: `feed` = resident, and the images do not fit.
    """
    config, state = setup.config, abstract_state(setup)
    budget = choice.resident_budget(config)
    fed = _feeding(setup, setup.num_examples, Cut.for_training(config), budget)
    budget -= _kept(fed, _bytes(fed.abstract(setup.mesh)))
    shown = _feeding(setup, evaluated, Cut(evaluation.eval_batch_size(config)), budget)
    train = peak_bytes(training.compile_train_step(setup, fed))
    test = peak_bytes(evaluation.compile_eval_step(setup, shown, state.weights, config.eval_views))
    # While one step runs, what only the other needs stays: velocity, resident images.
    velocity = _bytes(state) - _bytes(state.weights)
    images, shown_images = _bytes(fed.abstract(setup.mesh)), _bytes(shown.abstract(setup.mesh))
    while_training = train + _besides(fed, images) + _kept(shown, shown_images)
    while_evaluating = test + velocity + _besides(shown, shown_images) + _kept(fed, images)
    most = max(while_training, while_evaluating)
    return (
        f"memory    about {most / MIB:,.0f} MiB of a device's {device_memory() / MIB:,.0f}: "
        f"{_bytes(state) / MIB:,.0f} for parameters and velocity, {images / MIB:,.0f} for "
        f"{'images that stay there' if _is_resident(fed) else 'a batch'}; the train step takes "
        f"{train / MIB:,.0f} with them, an evaluation {test / MIB:,.0f}"
    )


def _feeding(setup: Setup, count: int, cut: Cut, budget: int) -> Feeding:
    """Returns the feeding for a split of `count` images."""
    config = setup.config
    kind = choice.kind_of_feed(config, setup.mesh, count, budget)
    if kind == "host":
        return HostBatches(config.mesh, cut.batch_size, config.resize)
    return resident.resident_split(config, setup.mesh, count, cut, kind == "whole")


def _besides(feeding: Feeding, size: int) -> int:
    """Returns the bytes of batches that are on their way."""
    return 0 if _is_resident(feeding) else ON_THEIR_WAY * size


def _kept(feeding: Feeding, size: int) -> int:
    """Returns the bytes of images that stay on a device while they are not used."""
    return size if _is_resident(feeding) else 0


def _is_resident(feeding: Feeding) -> bool:
    return isinstance(feeding, resident.ResidentSplit)


def _bytes(tree: Any) -> int:
    """Returns what one device holds of a tree."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def preview(config: Config, workdir: str | os.PathLike[str], overwrite: bool = False) -> str:
    """Returns what `train` would do: its header, a table of the layers and the memory it takes.

    Reads what is there and compiles; makes, changes and prepares nothing.

    Args:
      config: of the run.
      workdir: of the run, whether it exists or not.
      overwrite: would it begin anew?

    Raises:
      ConfigError, DataError: those that would end `train` before its first update.
    """
    folder = paths.local(workdir, "--workdir")
    opening.validate(config)
    run_files.refuse_nested(folder, config)
    mesh = opening.build_mesh(config)
    stored = Stored(folder, {})
    begun = not overwrite and bool(stored.steps() or stored.record.newest is not None)
    weights = None if begun else starts.read(config, folder)
    config = starts.as_begun(config, folder) if begun else weights.config if weights else config
    dataset = open_dataset(config, silent=False, may_prepare=False)
    sizes = {}
    if dataset.sizes:
        splits = config.train_split, config.eval_split or dataset.eval_split()
        sizes = {split: dataset.size(split) for split in splits}
    examples = sizes.get(config.train_split, IMAGENET_TRAIN)
    done, last = 0, num_train_steps(config, examples)
    if not overwrite:
        run_files.refuse_lost_checkpoints(folder)
        done = (stored.steps() or [0])[-1]
        if begun:
            run_files.refuse_changes(folder, config)
            run_files.refuse_other_data(folder, dataset, examples)
            run_files.refuse_past_end(folder, done, last)
    classes = config.num_classes or len(dataset.class_names)
    statistics = dataset.statistics
    if config.init.weights:
        pinned = run_files.read_own_statistics
        statistics = weights.weights.statistics if weights else pinned(folder, config)
    setup = Setup.of(config, classes, examples, mesh, statistics)
    of_weights = starts.described(folder) if begun else []
    if weights:
        of_weights = starts.lines(weights, starts.fit(weights, setup, dataset.class_names))
    what = "is finished" if done == last else "would go on" if done else "would be begun"
    lines = [
        report.header(setup, sizes, min(done + 1, last), last, dataset.notes, of_weights),
        layers(setup),
        memory(setup, list(sizes.values())[-1] if sizes else examples),
        f"{folder} {what}; nothing was made or changed",
    ]
    return "\n\n".join(lines)
