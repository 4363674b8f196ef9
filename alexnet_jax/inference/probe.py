"""Linear probes: how well a linear classifier separates the classes by a layer's activations.

Multinomial logistic regression with a squared penalty, by L-BFGS (optax) on all images at once. The
training images' mean and variance centre each activation and scale it to unit variance. Every fifth
training image is held out to choose the penalty: the search goes through PENALTIES from the
strictest on, stops at the first that does worse, and takes the best. The classifier then learns
from all training images.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.types import DataError
from alexnet_jax.host.machine import memory
from alexnet_jax.inference import features
from alexnet_jax.inference.trained import TrainedNetwork

PENALTIES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
HELD_OUT = 5  # every fifth training image chooses the penalty
MOST_STEPS = 100
TOLERANCE = 1e-3  # of the gradient's norm, relative to that at zero weights


class Activations(NamedTuple):
    """Activations, (N, D) float32 by layer, and labels, (N,): of readable, labelled images."""

    layers: dict[str, np.ndarray]
    labels: np.ndarray


class Probe(NamedTuple):
    """What a probe found.

    Attributes:
      layer: whose activations it read.
      size: activations per image.
      penalty: the chosen one.
      top1_error, top5_error: fractions of the test images; top-5 of five classes or fewer is 0.
      seconds: that the fit and the count of errors took, without computing activations.
    """

    layer: str
    size: int
    penalty: float
    top1_error: float
    top5_error: float
    seconds: float


def collect(
    network: TrainedNetwork,
    reader: ImageReader,
    layers: Sequence[str],
    advance: Callable[[int], None] = lambda images: None,
    bytes_held: int = 0,
) -> Activations:
    """Computes activations of every image of a split, in one pass.

    Args:
      network: from `trained.load`, on one device.
      reader: of the split.
      layers: as for `features.activations`.
      advance: told of the images as they are done.
      bytes_held: bytes of what was collected before.

    Raises:
      DataError: they would not fit into memory, or have no labels.
      ConfigError: no such layer.
    """
    features_by_layer: dict[str, np.ndarray] = {}
    labels, readable, seen = np.zeros(len(reader), np.int32), np.zeros(len(reader), bool), 0
    for batch, label, mask in features.of_split(network, reader, layers):
        if not seen:
            _refuse_too_many(batch, len(reader), bytes_held)
            features_by_layer = {
                k: np.zeros((len(reader), v.shape[1]), np.float32) for k, v in batch.items()
            }
        here = slice(seen, seen + len(label))
        for layer, values in batch.items():
            features_by_layer[layer][here] = values
        labels[here], readable[here] = label, mask
        seen += len(label)
        advance(len(label))
    labelled = readable & (labels >= 0)
    if not labelled.any():
        raise DataError(f"{reader.where(0)}: none of its images has a label to learn or compare")
    if labelled.all():
        return Activations(features_by_layer, labels)
    return Activations(
        {layer: values[labelled] for layer, values in features_by_layer.items()}, labels[labelled]
    )


def _refuse_too_many(layers: dict[str, np.ndarray], images: int, bytes_held: int = 0) -> None:
    """Refuses activations that need over half the memory, with a copy of one layer's to fit on.

    Raises:
      DataError: says how many images would.
    """
    sizes = [values.shape[1] * 4 for values in layers.values()]
    needed, there = images * (sum(sizes) + max(sizes)), memory() // 2 - bytes_held
    if needed > there:
        fits = there // (sum(sizes) + max(sizes))
        raise DataError(
            f"{images:,} images' activations of {', '.join(layers)} need {needed / 2**30:.1f} GiB, "
            f"half of this machine's memory is {there / 2**30:.1f}; name fewer layers, or a slice "
            f"of about {fits:,} images such as train[:{max(1, 100 * fits // images)}%]"
        )


def probe(layer: str, train: Activations, test: Activations, classes: int) -> Probe:
    """Fits a linear classifier to a layer's activations, and counts its errors.

    Args:
      layer: of both.
      train: to learn from.
      test: to count errors on.
      classes: of the labels.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 300)
    >>> values = rng.normal(size=(300, 8)).astype(np.float32)
    >>> values[np.arange(300), labels] += 6
    >>> some = Activations({"fc7": values}, labels)
    >>> probe("fc7", some, some, 3).top1_error < 0.01
    True
    """
    started = time.perf_counter()
    values, labels = train.layers[layer], train.labels
    spread = values.std(axis=0)
    is_alive = spread > 1e-6 * max(spread.max(), 1e-30)
    scale = np.where(is_alive, 1 / np.where(is_alive, spread, 1), 0).astype(np.float32)
    x, y = jnp.asarray(values), jnp.asarray(labels)
    scaling = jnp.asarray(values.mean(axis=0)), jnp.asarray(scale)
    weights = jnp.zeros((x.shape[1], classes)), jnp.zeros(classes)
    held_out = np.arange(len(values)) % HELD_OUT == 0
    penalty = PENALTIES[3]
    if len(values) >= 2 * HELD_OUT:
        learned, least, tried = jnp.asarray(~held_out, jnp.float32), np.inf, weights
        for candidate in PENALTIES:  # each from the stricter one's weights, while it helps
            tried = fitted(x, y, learned, scaling, candidate, tried)
            error = _errors(tried, scaling, values[held_out], labels[held_out])[0]
            if error > least:
                break
            if error < least:
                penalty, least, weights = candidate, error, tried
    weights = fitted(x, y, jnp.ones(len(values)), scaling, penalty, weights)
    top1, top5 = _errors(weights, scaling, test.layers[layer], test.labels)
    seconds = time.perf_counter() - started
    return Probe(layer, values.shape[1], penalty, top1, top5, seconds)


Weights = tuple[jax.Array, jax.Array]
Scaling = tuple[jax.Array, jax.Array]  # each activation's mean and scale factor


def _logits(weights: Weights, scaling: Scaling, x: Any) -> jax.Array:
    """Returns the logits of activations; scales the kernel rather than x, which saves a copy."""
    (kernel, bias), (mean, scale) = weights, scaling
    kernel = scale[:, None] * kernel
    return x @ kernel + (bias - mean @ kernel)


def _errors(
    weights: Weights, scaling: Scaling, x: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Returns the top-1 and top-5 errors; a class that ties with the right one ranks before it."""
    logits = np.asarray(_logits(weights, scaling, x))
    right = logits[np.arange(len(x)), labels]
    before = (~(logits < right[:, None])).sum(axis=1) - 1  # NaN is as bad as can be
    return float((before >= 1).mean()), float((before >= 5).mean())


@jax.jit
def fitted(
    x: jax.Array,
    labels: jax.Array,
    learned: jax.Array,
    scaling: Scaling,
    penalty: float,
    start: Weights,
) -> Weights:
    """Minimises the mean cross-entropy plus half the penalty times the squared kernel.

    Args:
      x: activations (N, D).
      labels: (N,).
      learned: (N,), 1 for the images that are learned from, else 0.
      scaling: of x.
      penalty: of the kernel of scaled activations.
      start: kernel (D, K) and bias (K,) to start from.
    """

    def loss(weights: Weights) -> jax.Array:
        logits = _logits(weights, scaling, x)
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (learned * each).sum() / learned.sum() + 0.5 * penalty * (weights[0] ** 2).sum()

    solver = optax.lbfgs()
    both = optax.value_and_grad_from_state(loss)

    def step(carry: tuple) -> tuple:
        weights, state, count, _ = carry
        value, grad = both(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state, count + 1, optax.tree.norm(grad)

    first = optax.tree.norm(jax.grad(loss)(jax.tree.map(jnp.zeros_like, start)))

    def goes_on(carry: tuple) -> jax.Array:
        return (carry[2] < MOST_STEPS) & (carry[3] > TOLERANCE * first)

    begin = (start, solver.init(start), jnp.int32(0), jnp.float32(jnp.inf))
    return jax.lax.while_loop(goes_on, step, begin)[0]
