"""What a run will be, before anything is written: its layers, and the memory that it takes."""

import math
from typing import Any

import jax

from alexnet_jax.feed import choice, resident
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.feed.protocol import Feeding
from alexnet_jax.host.device_memory import device_memory, peak_bytes
from alexnet_jax.model import LAYERS, abstract_parameters, count_parameters, layer_outputs
from alexnet_jax.steps import evaluation, training
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import abstract_state

MIB = 2**20
ON_THEIR_WAY = 2  # batches that a host puts on the devices while one is learned from


def layers(setup: Setup) -> str:
    """Returns a table: of each layer the shapes of its output and kernel, and its parameters.

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
        f"{name:{a}}  {output:{b}}  {kernel:{c}}  {count:>{d}}  {held}".rstrip()
        for name, output, kernel, count, held in rows
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
    """Returns how many numbers a tree holds, and how many one device does where it is placed."""
    leaves = jax.tree.leaves(placed)
    held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
    shape = leaves[0].sharding.mesh.shape
    axes = {axis for leaf in leaves for axis in leaf.sharding.spec if axis and shape[axis] > 1}
    over = f", cut over {' and '.join(sorted(axes))}" if axes else ""
    return f"{count_parameters(whole):,}", f"{held:,}{over}"


def memory(setup: Setup, evaluated: int) -> str:
    """Compiles the steps of a run; returns a line of what it takes of a device.

    Args:
      setup: of the run.
      evaluated: images of the evaluation split.

    Raises:
      ConfigError: a feed that cannot be had.
    """
    config, state = setup.config, abstract_state(setup)
    budget = choice.resident_budget(config)
    passes, steps = config.optimizer.fc_updates, config.steps_per_dispatch
    fed = _feeding(setup, setup.num_examples, config.batch_size, budget, passes, steps)
    budget -= _kept(fed, _bytes(fed.abstract(setup.mesh)))
    shown = _feeding(setup, evaluated, evaluation.eval_batch_size(config), budget)
    train = peak_bytes(training.compile_train_step(setup, fed))
    test = peak_bytes(evaluation.compile_eval_step(setup, shown, state.weights, config.eval_views))
    # While one of the two runs, what the other keeps stays: velocity, and resident images.
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


def _feeding(
    setup: Setup, count: int, batch_size: int, budget: int, passes: int = 1, steps: int = 1
) -> Feeding:
    """Returns how a split of so many images comes."""
    config = setup.config
    kind = choice.kind_of_feed(config, setup.mesh, count, budget)
    if kind == "host":
        return HostBatches(config.mesh, batch_size, config.resize)
    return resident.resident_split(
        config, setup.mesh, count, batch_size, kind == "whole", passes, steps
    )


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
