"""One update as a pure function, and its compiled form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.feed.protocol import DeviceBatch, Fed, Feeding
from alexnet_jax.layers.standard_tree import of_classifier
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import metrics, optimizer
from alexnet_jax.steps.forward import Forward
from alexnet_jax.steps.gradient import Gradient
from alexnet_jax.steps.repeated import Repeated
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import TrainState, abstract_state


class TrainStep:
    """The update as one device of a mesh computes it, for use inside `mesh.per_device`.

    Maps a state and a fed batch to the new state and its metrics: the sums of
    `metrics.classification`, `learning_rate`, `gradient_norm`, `stop` (was any process told to
    end?), and `finite`: from the first update where `finite` is false, the state keeps its
    parameters and velocity.
    """

    def __init__(self, setup: Setup, feeding: Feeding, specs: TrainState) -> None:
        """Prepares an update.

        Args:
          setup: of the run.
          feeding: how the batch comes.
          specs: where the leaves of the state live.
        """
        self._config, self._feeding, self._specs = setup.config.optimizer, feeding, specs.params
        self._forward = Forward.of(setup, self._config.fc_updates, training=True)
        self._optimizer = optimizer.build(self._config, self._squared_norms)
        self._schedule = optimizer.Schedule(setup.config, setup.num_examples)
        self._gradient = Gradient(setup, self._forward)

    def __call__(self, state: TrainState, fed: Fed) -> tuple[TrainState, dict[str, Any]]:
        """Learns from one batch."""
        batch = dict(self._feeding.training(fed, state.step))
        stop = batch.pop("stop")  # not of an image: it may be one number for all of them
        learn = self._at_once if self._forward.passes == 1 else self._in_passes
        new, squared_norm, sums = learn(state, batch)
        figures = {
            "sums": sums,
            "learning_rate": self._schedule(state.step, state.plateau.drops)["kernel"],
            "gradient_norm": jnp.sqrt(squared_norm),
            "finite": new.finite,
            "stop": collectives.any_device(stop.any()),
        }
        return dataclasses.replace(new, step=state.step + 1), figures

    def _at_once(
        self, state: TrainState, batch: DeviceBatch
    ) -> tuple[TrainState, jax.Array, metrics.Sums]:
        """The paper's update: all layers learn from the whole batch."""
        params = collectives.whole_over_data(state.params, self._specs)
        grads, sums, statistics = self._gradient(params, state.batch_stats, batch, state.step)
        grads, sums = self._summed(grads), collectives.sum_over_data(sums)
        state, squared_norm = self._update(state, grads, sums)
        return _with_statistics(state, statistics), squared_norm, sums

    def _in_passes(
        self, state: TrainState, batch: DeviceBatch
    ) -> tuple[TrainState, jax.Array, metrics.Sums]:
        """The variable batch: fc6 .. fc8 learn from each part of it before they see the next."""
        gradient, passes = self._gradient, self._forward.passes
        x, back, statistics = gradient.features(state.params, state.batch_stats, batch)
        rows, dx = gradient.rows(batch, state.step), jnp.zeros_like(x)
        sums, squared_norm = None, jnp.zeros(())
        for turn in range(passes):
            layers = of_classifier(state.params)
            grads, part_dx, part_sums = gradient.of_classifier(layers, x, rows, turn)
            grads, part_sums = self._summed(grads), collectives.sum_over_data(part_sums)
            state, of_part = self._update(state, grads, part_sums)
            dx, squared_norm = dx + part_dx, squared_norm + of_part / passes
            sums = metrics.merge(sums, part_sums) if sums else part_sums
        assert sums is not None
        state, of_rest = self._update(state, self._summed(back(dx)), sums)
        return _with_statistics(state, statistics), squared_norm + of_rest, sums

    def _summed(self, grads: Any) -> Any:
        """Sums some layers' gradients over the devices that share them."""
        return collectives.sum_gradients(grads, {layer: self._specs[layer] for layer in grads})

    def _squared_norms(self, grads: Any) -> Any:
        return collectives.squared_norms(grads, {layer: self._specs[layer] for layer in grads})

    def _update(
        self, state: TrainState, grads: Any, sums: metrics.Sums
    ) -> tuple[TrainState, jax.Array]:
        """Updates the layers that the summed gradients cover, while everything is finite.

        v <- momentum v - rate (decay w + g / count); w <- w + v.

        Returns:
          The state, and the squared norm of g / count.
        """
        count = images_counted(sums)
        squared_norm = sum(jax.tree.leaves(self._squared_norms(grads))) / count**2
        finite = jnp.isfinite(sums["loss"].total) & jnp.isfinite(squared_norm)
        finite = state.finite & finite
        params = {layer: state.params[layer] for layer in grads}
        rates = self._schedule(state.step, state.plateau.drops)
        updates, opt_state = self._optimizer.update(
            jax.tree.map(lambda g: g / count, grads),
            optimizer.of_layers(state.opt_state, params),
            params,
            rates=optimizer.rate_tree(rates, params, self._config.fc_rate_factor),
            finite=finite,
        )
        state = dataclasses.replace(
            state,
            params=state.params | optax.apply_updates(params, updates),
            opt_state=optimizer.replaced(state.opt_state, opt_state),
            finite=finite,
        )
        return state, squared_norm


def _with_statistics(state: TrainState, batch_stats: Any) -> TrainState:
    statistics = jax.tree.map(
        lambda new, old: jnp.where(state.finite, new, old), batch_stats, state.batch_stats
    )
    return dataclasses.replace(state, batch_stats=statistics)


def images_counted(sums: metrics.Sums) -> jax.Array:
    """Returns how many images the sums are of, at least 1."""
    return jnp.maximum(sums["loss"].count, 1)


def compile_train_step(setup: Setup, feeding: Feeding) -> jax.stages.Compiled:
    """Compiles (state, fed) -> (state, metrics) for a mesh; the old state's memory is reused.

    Where the feeding has several updates in a dispatch, metrics are those of `Repeated`.
    """
    state, mesh, config = abstract_state(setup), setup.mesh, setup.config
    specs = meshes.specs(state, mesh, config.mesh)
    one = TrainStep(setup, feeding, specs)
    several = one if feeding.steps == 1 else Repeated(one, feeding.steps)
    out = (specs, meshes.EVERYWHERE)
    return compilation.compiled(
        meshes.per_device(several, mesh, specs, feeding.specs, out),
        state,
        feeding.abstract(mesh),
        numerics=compilation.Numerics.of(config),
        donate_argnums=0,
    )
