"""The gradient of a batch, as one device of a mesh computes its part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.feed.protocol import DeviceBatch
from alexnet_jax.layers.standard_tree import of_convolutions
from alexnet_jax.steps import augment, metrics
from alexnet_jax.steps.forward import Forward, Rows
from alexnet_jax.steps.setup import Setup


def dropout_keys(seed: int, step: jax.Array | int, places: jax.Array) -> jax.Array:
    """Returns the keys of images at `places` of the global batch, (B,), in the update after
    `step`."""
    key = augment.purpose_key(jax.random.key(seed), augment.DROPOUT, step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)


class Gradient:
    """Gradients of the summed loss over a device's batch, with the sums of its metrics.

    They cover the layers that are not frozen; nothing below the lowest of these is differentiated.

    Devices that share a loss each take an equal part of it, since each one differentiates it.
    """

    def __init__(self, setup: Setup, forward: Forward) -> None:
        self._config, self._views, self._forward = setup.config, setup.views, forward

    def __call__(
        self, params: Any, batch_stats: Any, batch: DeviceBatch, step: jax.Array
    ) -> tuple[Any, metrics.Sums, Any]:
        """Computes all layers' gradients, summed over `accumulate_steps` equal parts of the batch.

        Returns:
          The gradient, the sums, and the new statistics of batch normalisation.
        """
        parts = self._config.optimizer.accumulate_steps
        if parts == 1:
            return self._at_once(params, batch_stats, batch, step)
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
        first = jax.tree.map(lambda a: a[0], split)
        shapes = jax.eval_shape(self._at_once, params, batch_stats, first, step)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total: Any, part: DeviceBatch) -> tuple[Any, None]:
            of_part = self._at_once(params, batch_stats, part, step)
            return jax.tree.map(jnp.add, total, of_part), None

        grads, sums, statistics = jax.lax.scan(add, zeros, split)[0]
        statistics = jax.tree.map(lambda total: total / parts, statistics)
        return grads, sums, statistics | self._kept(batch_stats)

    def _at_once(
        self, params: Any, batch_stats: Any, batch: DeviceBatch, step: jax.Array
    ) -> tuple[Any, metrics.Sums, Any]:
        views, rows = self.views(batch), self.rows(batch, step)

        def loss(trained: Any) -> tuple[jax.Array, tuple[metrics.Sums, Any]]:
            whole = params | trained
            x, statistics = self._forward.features(whole | batch_stats, views)
            gathered = self._forward.gather(x)
            logits = self._forward.classify(whole, gathered, rows["dropout_key"])
            total, sums = self._loss(logits, rows)
            return total, (sums, statistics)

        grads, (sums, statistics) = jax.grad(loss, has_aux=True)(self.trained(params))
        return grads, sums, statistics

    def features(
        self, params: Any, batch_stats: Any, batch: DeviceBatch
    ) -> tuple[jax.Array, Callable[[jax.Array], Any], Any]:
        """Returns fc6's input, a function from its gradient to the convolutions' gradients, and the
        new statistics of batch normalisation."""
        views = self.views(batch)

        convolutions = of_convolutions(params)

        def compute(trained: Any) -> tuple[jax.Array, Any]:
            return self._forward.features(convolutions | trained | batch_stats, views)

        x, back, statistics = jax.vjp(compute, self.trained(convolutions), has_aux=True)
        return x, lambda dx: back(dx)[0], statistics

    def of_classifier(
        self, params: Any, x: jax.Array, rows: Rows, turn: int
    ) -> tuple[Any, jax.Array, metrics.Sums]:
        """Returns the gradients of fc6 .. fc8 and of x over one pass, and the pass's sums."""
        of_turn = self._forward.rows_of(rows, turn)

        def loss(trained: Any, x: jax.Array) -> tuple[jax.Array, metrics.Sums]:
            gathered = self._forward.gather(x, turn)
            logits = self._forward.classify(params | trained, gathered, of_turn["dropout_key"])
            return self._loss(logits, of_turn)

        (grads, dx), sums = jax.grad(loss, argnums=(0, 1), has_aux=True)(self.trained(params), x)
        return grads, dx, sums

    def _kept(self, batch_stats: Any) -> Any:
        """Returns the frozen layers' statistics unchanged: averaging over parts may round them."""
        frozen = [layer.replace("conv", "norm") for layer in self._config.optimizer.frozen]
        return {layer: leaves for layer, leaves in batch_stats.items() if layer in frozen}

    def trained(self, params: Any) -> Any:
        """Returns the layers that learn."""
        frozen = self._config.optimizer.frozen
        return {layer: leaves for layer, leaves in params.items() if layer not in frozen}

    def views(self, batch: DeviceBatch) -> jax.Array:
        """Draws the device's training views."""
        with jax.named_scope("views"):
            return self._views.training(batch, jax.random.key(self._config.seed))

    def rows(self, batch: DeviceBatch, step: jax.Array | int) -> Rows:
        """Returns `label`, `mask` and `dropout_key` of the images that the classifier sees."""
        rows = self._forward.all_rows({name: batch[name] for name in ("label", "mask", "place")})
        keys = dropout_keys(self._config.seed, step, rows.pop("place"))
        return rows | {"dropout_key": keys}

    def _loss(self, logits: jax.Array, rows: Rows) -> tuple[jax.Array, metrics.Sums]:
        sums = metrics.classification(jax.nn.log_softmax(logits), rows["label"], rows["mask"])
        return sums["loss"].total / self._forward.devices, sums
