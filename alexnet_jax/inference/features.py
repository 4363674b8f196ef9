"""Features: activations of a layer for every image, and exact nearest neighbours."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alexnet_jax.config import LAYERS, ConfigError
from alexnet_jax.data.loader import (
    ImageReader,
    Loader,
    evaluation_batches,
    evaluation_positions,
)
from alexnet_jax.errors import unknown
from alexnet_jax.host.progress import Progress
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.layers.standard_tree import variables
from alexnet_jax.ops import compilation, elementwise

LINEAR = ("fc7_linear", "fc8")  # without ReLU
POOLS = {"pool1": "stage1", "pool2": "stage2", "pool5": "stage5"}  # norms included


def there(network: TrainedNetwork) -> list[str]:
    """Returns the layers whose activations a network has."""
    return [*(layer for layer in LAYERS if layer in network.params), *POOLS]


def activations(network: TrainedNetwork, layer: str) -> Callable[[np.ndarray], jax.Array]:
    """Returns a function from images (B, R, R, 3) uint8 to a layer's activations, (B, D) float32.

    They are of the centre view, after the layer's ReLU, where it has one (fc8: the logits).

    Args:
      network: from `trained.load`, on one device.
      layer: of `there`: conv1 .. fc8, pool1, pool2 or pool5.

    Raises:
      ConfigError: no such layer.
    """
    compute = of_layers(network, [layer])
    return lambda images: compute(images)[layer]


def of_layers(
    network: TrainedNetwork, layers: Sequence[str]
) -> Callable[[np.ndarray], dict[str, jax.Array]]:
    """Returns a function like `activations`' for several layers in one pass.

    Raises:
      ConfigError: one of them is not there.
    """
    for layer in layers:
        if layer not in there(network):
            raise ConfigError(f"layer: {unknown(layer, there(network))}")
    module = network.setup.network
    activation = elementwise.ACTIVATIONS[module.config.activation]

    def is_wanted(part: nn.Module, method: str) -> bool:
        return method == "__call__" and part.name in {POOLS.get(layer, layer) for layer in layers}

    def compute(params: Any, image: jax.Array) -> dict[str, jax.Array]:
        (view,) = network.setup.views.evaluation(image, 1)
        _, captured = module.apply(
            variables(params),
            view,
            capture_intermediates=is_wanted,
            mutable=["intermediates"],
        )
        features = {}
        for layer in layers:
            (output,) = dict(captured)["intermediates"][POOLS.get(layer, layer)]["__call__"]
            output = output if layer in LINEAR or layer in POOLS else activation(output)
            features[layer] = output.reshape(output.shape[0], -1).astype(jnp.float32)
        return features

    jitted = compilation.jit(compute, compilation.Numerics.of(network.config))
    return functools.partial(jitted, network.params)


def of_split(
    network: TrainedNetwork, reader: ImageReader, layers: Sequence[str]
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """Computes the activations of some layers for every image of a split, once.

    Args:
      network: from `trained.load`, on one device.
      reader: of the split.
      layers: as for `activations`.

    Yields:
      For each batch, in the order of the split: layer -> activations (b, D) float32, labels (b,)
      int32, and which images are readable, (b,) bool.
    """
    compute, c = of_layers(network, layers), network.config
    size = c.eval_batch_size or c.batch_size
    positions = evaluation_positions(size, len(reader))
    loader = Loader(reader, c.read_threads, c.read_ahead)
    left = len(reader)
    numbers = evaluation_batches(size, len(reader))
    for batch in loader.batches(positions, numbers, slice(0, size)):
        shown = min(size, left)
        left -= shown
        features = compute(jax.device_put(batch["image"]))
        rows = {layer: np.asarray(values)[:shown] for layer, values in features.items()}
        yield rows, batch["label"][:shown].copy(), batch["mask"][:shown] > 0


def write(network: TrainedNetwork, path: pathlib.Path, layer: str, split: str = "") -> None:
    """Writes a layer's activations of every image of a split, as FILE.npz.

    It holds `features` (N, D) float32, `label` (N,), `image`, the images' names (N,), and
    `readable` (N,) bool.

    Raises:
      ConfigError: another ending, or no such layer.
      DataError: no such split.
    """
    if path.suffix != ".npz":
        raise ConfigError(f"out: {path} must end in .npz")
    source, split = network.source(split)
    reader = network.reader(source)
    values, labels = np.zeros((0, 0), np.float32), np.zeros(len(reader), np.int32)
    readable, seen = np.zeros(len(reader), bool), 0
    with Progress(f"{layer} of {split}", 0, len(reader), "image") as bar:
        for features, label, mask in of_split(network, reader, [layer]):
            rows = features[layer]
            if not seen:
                values = np.zeros((len(reader), rows.shape[1]), np.float32)
            here = slice(seen, seen + len(rows))
            values[here], labels[here], readable[here] = rows, label, mask
            seen += len(rows)
            bar.advance(len(rows))
    names = [reader.name(i) if readable[i] else reader.where(i) for i in range(len(reader))]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=values, label=labels, readable=readable, image=np.array(names))


def nearest_of_split(
    network: TrainedNetwork,
    reader: ImageReader,
    layer: str,
    queries: jax.Array,
    count: int,
    advance: Callable[[int], None] = lambda images: None,
) -> tuple[np.ndarray, int]:
    """Finds a split's images with the nearest activations; holds one batch's activations at a time.

    Args:
      network: from `trained.load`, on one device.
      reader: of the split.
      layer: as for `activations`.
      queries: activations (Q, D).
      count: of neighbours.
      advance: told of the images as they are compared.

    Returns:
      Their numbers in the split, (Q, count), nearest first, with fewer columns if the split has
      fewer readable images; and how many images were compared.
    """
    numbers = np.zeros((len(queries), 0), np.int64)
    distances = np.zeros((len(queries), 0), np.float32)
    seen = compared = 0
    for features, _, readable in of_split(network, reader, [layer]):
        values = features[layer]
        here = seen + np.flatnonzero(readable)
        seen += len(readable)
        compared += len(here)
        order, apart = nearest(queries, jnp.asarray(values[readable]), min(count, len(here)))
        distances = np.concatenate([distances, np.asarray(apart)], axis=1)
        numbers = np.concatenate([numbers, here[np.asarray(order)]], axis=1)
        closest = np.argsort(distances, axis=1, kind="stable")[:, :count]  # the first of equals
        distances, numbers = (np.take_along_axis(a, closest, 1) for a in (distances, numbers))
        advance(len(readable))
    return numbers, compared


@functools.partial(jax.jit, static_argnums=2)
def nearest(queries: jax.Array, candidates: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Finds the candidates at the least Euclidean distance, by comparing with all of them.

    Args:
      queries: (Q, D).
      candidates: (N, D).
      count: of neighbours, at most N.

    Returns:
      Numbers of candidates, (Q, count) int32, nearest first, and their distances, (Q, count).
    """

    def of_one(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Subtract first: |q - c|^2 from products suffers cancellation if vectors are similar, as
        # those of fc7 are. One query at a time reads the candidates once with either formula.
        apart = jnp.sqrt(((candidates - query) ** 2).sum(axis=1))
        least, index = jax.lax.top_k(-apart, count)
        return index.astype(jnp.int32), -least

    return jax.lax.map(of_one, queries)
