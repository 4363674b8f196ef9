"""The gradient of a batch, as one device of a mesh computes its part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.config import Config
from alexnet_jax.feed.protocol import DeviceBatch
from alexnet_jax.model import of_convolutions
from alexnet_jax.steps import augment, metrics
from alexnet_jax.steps.schemes import Rows, Scheme


def dropout_keys(seed: int, step: jax.Array | int, places: jax.Array) -> jax.Array:
    """Returns the keys of images at `places` of the global batch, (B,), in the update after
    `step`."""
    key = augment.purpose_key(jax.random.key(seed), augment.DROPOUT, step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)


class Gradient:
    """Gradients of the summed loss over a device's batch, with the sums of its metrics.

    Where devices share a loss each takes an equal part of it, since all of them are differentiated.
    """

    def __init__(self, config: Config, scheme: Scheme, views: augment.Views) -> None:
        self._config, self._scheme, self._views = config, scheme, views

    def __call__(
        self, params: Any, batch: DeviceBatch, step: jax.Array
    ) -> tuple[Any, metrics.Sums]:
        """Returns the gradient of all layers, computed in `accumulate_steps` equal parts."""
        parts = self._config.optimizer.accumulate_steps
        if parts == 1:
            return self._at_once(params, batch, step)
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
        first = jax.tree.map(lambda a: a[0], split)
        shapes = jax.eval_shape(self._at_once, params, first, step)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total: Any, part: DeviceBatch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, self._at_once(params, part, step)), None

        return jax.lax.scan(add, zeros, split)[0]

    def _at_once(
        self, params: Any, batch: DeviceBatch, step: jax.Array
    ) -> tuple[Any, metrics.Sums]:
        views, rows = self.views(batch), self.rows(batch, step)

        def loss(params: Any) -> tuple[jax.Array, metrics.Sums]:
            return self._loss(self._scheme.logits(params, views, rows["dropout_key"]), rows)

        return jax.grad(loss, has_aux=True)(params)

    def features(
        self, params: Any, batch: DeviceBatch
    ) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
        """Returns what fc6 reads, and what maps its gradient to that of the convolutions."""
        layers = of_convolutions(params)
        views = self.views(batch)
        x, back = jax.vjp(lambda p: self._scheme.features(p, views, True), layers)
        return x, lambda dx: back(dx)[0]

    def of_classifier(
        self, params: Any, x: jax.Array, rows: Rows, turn: int
    ) -> tuple[Any, jax.Array, metrics.Sums]:
        """Returns the gradients of fc6 .. fc8 and of x over one pass, and the pass's sums."""
        of_turn = self._scheme.rows_of(rows, turn)

        def loss(params: Any, x: jax.Array) -> tuple[jax.Array, metrics.Sums]:
            gathered = self._scheme.gather(x, turn)
            logits = self._scheme.classify(params, gathered, of_turn["dropout_key"])
            return self._loss(logits, of_turn)

        (grads, dx), sums = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return grads, dx, sums

    def views(self, batch: DeviceBatch) -> jax.Array:
        """Draws the device's training views."""
        return self._views.training(batch, jax.random.key(self._config.seed))

    def rows(self, batch: DeviceBatch, step: jax.Array | int) -> Rows:
        """Returns `label`, `mask` and `dropout_key` of the images that the classifier sees."""
        rows = self._scheme.all_rows({name: batch[name] for name in ("label", "mask", "place")})
        keys = dropout_keys(self._config.seed, step, rows.pop("place"))
        return rows | {"dropout_key": keys}

    def _loss(self, logits: jax.Array, rows: Rows) -> tuple[jax.Array, metrics.Sums]:
        sums = metrics.classification(jax.nn.log_softmax(logits), rows["label"], rows["mask"])
        return sums["loss"].total / self._scheme.devices, sums
