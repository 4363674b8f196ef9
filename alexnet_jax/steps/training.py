"""One update as a pure function, and its compiled form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.feed.protocol import DeviceBatch, Fed, Feeding
from alexnet_jax.model import LAYERS, AlexNet, of_classifier, of_convolutions
from alexnet_jax.ops import compilation, platform
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import augment, metrics, optimizer, schemes
from alexnet_jax.steps.gradient import Gradient
from alexnet_jax.steps.schemes import Scheme
from alexnet_jax.steps.state import TrainState, abstract_state


class TrainStep:
    """The update as one device of a mesh computes it, for use inside `mesh.per_device`.

    Called with a state and what is fed, it returns the new state and its metrics: the sums of
    `metrics.classification`, `learning_rate`, `gradient_norm`, `stop` (was any process told to
    end?), and `finite`: from the first update where that is false the state keeps its parameters
    and velocity.
    """

    def __init__(
        self,
        config: Config,
        scheme: Scheme,
        num_examples: int,
        specs: TrainState,
        feeding: Feeding,
        views: augment.Views,
    ) -> None:
        """Prepares an update.

        Args:
          config: of the run.
          scheme: how the mesh computes the network.
          num_examples: of the training split.
          specs: where the leaves of the state live.
          feeding: how the batch comes.
          views: what the network sees of it.
        """
        self._config, self._scheme, self._feeding = config.optimizer, scheme, feeding
        self._specs = specs.params
        self._optimizer = optimizer.build(config.optimizer, self._squared_norms)
        self._schedule = optimizer.Schedule(config, num_examples)
        self._gradient = Gradient(config, scheme, views)

    def __call__(self, state: TrainState, fed: Fed) -> tuple[TrainState, dict[str, Any]]:
        """Learns from one batch."""
        batch = dict(self._feeding.training(fed, state.step))
        stop = batch.pop("stop")  # not of an image: it may be one number for all of them
        learn = self._at_once if self._scheme.passes == 1 else self._in_turns
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
        grads, sums = self._total(*self._gradient(params, batch, state.step))
        return *self._update(state, grads, sums), sums

    def _in_turns(
        self, state: TrainState, batch: DeviceBatch
    ) -> tuple[TrainState, jax.Array, metrics.Sums]:
        """The variable batch: fc6 .. fc8 learn from each part of it before they see the next."""
        gradient, passes = self._gradient, self._scheme.passes
        x, back = gradient.features(state.params, batch)
        rows, dx = gradient.rows(batch, state.step), jnp.zeros_like(x)
        sums, squared_norm = None, jnp.zeros(())
        for turn in range(passes):
            layers = of_classifier(state.params)
            grads, part_dx, part_sums = gradient.of_classifier(layers, x, rows, turn)
            grads, part_sums = self._total(grads, part_sums)
            state, of_part = self._update(state, grads, part_sums)
            dx, squared_norm = dx + part_dx, squared_norm + of_part / passes
            sums = metrics.merge(sums, part_sums) if sums else part_sums
        assert sums is not None
        grads = collectives.sum_gradients(back(dx), of_convolutions(self._specs))
        state, of_rest = self._update(state, grads, sums)
        return state, squared_norm + of_rest, sums

    def _total(self, grads: Any, sums: metrics.Sums) -> tuple[Any, metrics.Sums]:
        """Adds up what devices know of some layers' gradients."""
        own = {layer: self._specs[layer] for layer in grads}
        return collectives.sum_gradients(grads, own), collectives.sum_over_data(sums)

    def _squared_norms(self, grads: Any) -> Any:
        return collectives.squared_norms(grads, {layer: self._specs[layer] for layer in grads})

    def _update(
        self, state: TrainState, grads: Any, sums: metrics.Sums
    ) -> tuple[TrainState, jax.Array]:
        """Changes the layers that the summed gradients are of, while everything is finite.

        v <- momentum v - rate (decay w + g / count); w <- w + v.

        Returns:
          The state, and the squared norm of g / count.
        """
        count = images_counted(sums)
        norms = self._squared_norms(optimizer.learned(grads))
        squared_norm = sum(jax.tree.leaves(norms)) / count**2
        finite = jnp.isfinite(sums["loss"].total) & jnp.isfinite(squared_norm)
        finite = state.finite & finite
        rates = self._schedule(state.step, state.plateau.drops)
        params = {layer: state.params[layer] for layer in grads}
        before = optimizer.of_layers(state.opt_state, params)
        _, after = self._optimizer.update(
            jax.tree.map(lambda g: g / count, grads),
            before,
            params,
            rates=optimizer.rate_tree(rates, params, self._config.fc_rate_factor),
        )
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
        kept, finite = platform.before_others((kept, finite))
        moved = jax.tree.map(
            lambda w, v: jnp.where(finite, w + v, w), params, optimizer.velocity(kept)
        )
        state = dataclasses.replace(
            state,
            params=state.params | moved,
            opt_state=optimizer.replaced(state.opt_state, kept),
            finite=finite,
        )
        return state, squared_norm


class Repeated:
    """Several updates in one dispatch; the host is not asked between them.

    Figures have one more axis, of `most` updates; those past fed["steps"] are zeros.
    """

    def __init__(self, one: TrainStep, most: int) -> None:
        self._one, self._most = one, most

    def __call__(self, state: TrainState, fed: Fed) -> tuple[TrainState, dict[str, Any]]:
        """Learns from fed["steps"] batches."""
        _, shapes = jax.eval_shape(self._one, state, fed)
        room = jax.tree.map(lambda leaf: jnp.zeros((self._most, *leaf.shape), leaf.dtype), shapes)

        def again(update: jax.Array, carried: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
            state, found = self._one(carried[0], fed)
            return state, jax.tree.map(
                lambda kept, new: kept.at[update].set(new), carried[1], found
            )

        return jax.lax.fori_loop(0, fed["steps"], again, (state, room))


def images_counted(sums: metrics.Sums) -> jax.Array:
    """Returns how many images the sums are of, at least 1."""
    return jnp.maximum(sums["loss"].count, 1)


def compile_step(
    config: Config,
    model: AlexNet,
    mesh: Mesh,
    num_examples: int,
    feeding: Feeding,
    views: augment.Views,
) -> jax.stages.Compiled:
    """Compiles (state, fed) -> (state, metrics) for a mesh; the old state's memory is reused.

    Where the feeding has several updates in a dispatch, metrics are those of `Repeated`.
    """
    state = abstract_state(config, model, mesh)
    specs = meshes.specs(state, mesh, config.mesh)
    scheme = schemes.build(config, model, mesh, config.optimizer.fc_updates)
    train_step = TrainStep(config, scheme, num_examples, specs, feeding, views)
    if feeding.steps > 1:
        train_step = Repeated(train_step, feeding.steps)
    out = (specs, meshes.EVERYWHERE)
    step = meshes.per_device(train_step, mesh, specs, feeding.specs, out)
    abstract, deterministic = (state, feeding.abstract(mesh)), config.deterministic
    return compilation.compiled(
        step, *abstract, kernels=config.kernels, deterministic=deterministic, donate_argnums=0
    )


def first_nonfinite_layer(
    config: Config,
    model: AlexNet,
    mesh: Mesh,
    params: Any,
    fed: Fed,
    at: int,
    feeding: Feeding,
    views: augment.Views,
) -> str:
    """Computes a batch's layers one by one and returns the first that holds a NaN or Inf.

    Args:
      config: of the run.
      model: of the run.
      mesh: of the run.
      params: the parameters that the step started from, on the mesh.
      fed: what gave the NaN or Inf.
      at: the update that it was given to, from 1.
      feeding: of the run.
      views: of the run.
    """
    specs = meshes.specs(params, mesh, config.mesh)
    scheme = schemes.build(config, model, mesh)
    gradient = Gradient(config, scheme, views)

    def bad(tree: Any) -> jax.Array:
        return jnp.stack([~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).any()

    def outputs(params: Any, fed: Fed) -> dict[str, jax.Array]:
        batch: DeviceBatch = feeding.training(fed, jnp.int32(at - 1))
        params = collectives.whole_over_data(params, specs)
        found = {f"parameters of {layer}": params[layer] for layer in params}
        found["the augmented images"] = gradient.views(batch)
        rows = gradient.rows(batch, at - 1)
        kept = scheme.outputs(params, found["the augmented images"], rows)
        found |= {name.removesuffix("_output"): output for name, output in kept.items()}
        return collectives.any_device({name: bad(tree) for name, tree in found.items()})

    found = jax.device_get(
        jax.jit(meshes.per_device(outputs, mesh, specs, feeding.specs))(params, fed)
    )
    # In the order of the computation: jit sorts what it returns by name.
    places = [f"parameters of {layer}" for layer in params] + ["the augmented images"]
    for place in places + [layer for layer in LAYERS if layer in found]:
        if found[place]:
            return place
    return "the gradient (every layer's output is finite)"
