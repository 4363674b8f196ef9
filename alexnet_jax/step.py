"""One update as a pure function, and its compiled form."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from alexnet_jax import augment, metrics, optimizer
from alexnet_jax import mesh as meshes
from alexnet_jax.config import Config
from alexnet_jax.model import AlexNet, logits
from alexnet_jax.state import TrainState, abstract_state

DeviceBatch = dict[str, jax.Array]


def dropout_keys(seed: int, step: jax.Array | int, positions: jax.Array) -> jax.Array:
    """Returns the keys of images at global batch `positions`, (B,), in the update after `step`."""
    key = augment.purpose_key(jax.random.key(seed), augment.DROPOUT, step)
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)


def make_train_step(
    config: Config, model: AlexNet, num_examples: int
) -> Callable[[TrainState, DeviceBatch], tuple[TrainState, dict[str, Any]]]:
    """Returns the update as one device of a mesh computes it; use inside `mesh.per_device`.

    The metrics hold the sums of `metrics.classification`, `learning_rate`, `gradient_norm`, and
    `finite`: from the first step where that is false the state keeps its parameters and velocity.
    """
    tx = optimizer.build(config.optimizer)
    schedule = optimizer.Schedule(config, num_examples)
    parts = config.optimizer.accumulate_steps

    def loss(params: Any, part: DeviceBatch, views: jax.Array) -> tuple[jax.Array, metrics.Sums]:
        scores = logits(model, params, views, part["dropout_key"])
        sums = metrics.classification(jax.nn.log_softmax(scores), part["label"], part["mask"])
        return sums["loss"].total, sums

    def gradient(params: Any, part: DeviceBatch) -> tuple[Any, metrics.Sums]:
        """Returns the gradient of the summed loss, and sums, of images on this device."""
        seed_key = jax.random.key(config.seed)
        views = augment.training_views(part, seed_key, config.augment, config.image_size)
        return jax.grad(loss, has_aux=True)(params, part, views)

    def accumulated(params: Any, batch: DeviceBatch) -> tuple[Any, metrics.Sums]:
        """Returns the same over equal parts of the batch, one in memory at a time."""
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda a: a[0], split))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total: Any, part: DeviceBatch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, part)), None

        return jax.lax.scan(add, zeros, split)[0]

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, dict[str, Any]]:
        where = meshes.global_positions(batch["label"].shape[0])
        batch = batch | {"dropout_key": dropout_keys(config.seed, state.step, where)}
        grads, sums = (gradient if parts == 1 else accumulated)(state.params, batch)
        grads, sums = meshes.sum_over_data((grads, sums))
        grads = jax.tree.map(lambda g: g / jnp.maximum(sums["loss"].count, 1), grads)

        rates = schedule(state.step, state.plateau.drops)
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, rates=optimizer.rate_tree(rates, state.params)
        )
        params = optax.apply_updates(state.params, updates)

        norm = optax.global_norm(grads)
        finite = state.finite & jnp.isfinite(sums["loss"].total) & jnp.isfinite(norm)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        state = dataclasses.replace(
            state, step=state.step + 1, params=params, opt_state=opt_state, finite=finite
        )
        return state, {
            "sums": sums,
            "learning_rate": rates["kernel"],
            "gradient_norm": norm,
            "finite": finite,
        }

    return train_step


def abstract_batch(config: Config, batch_size: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a host batch as shapes with their shardings."""
    sharding, side = meshes.split_batch(mesh), config.resize
    rows = {
        "image": ((side, side, 3), jnp.uint8),
        "label": ((), jnp.int32),
        "mask": ((), jnp.float32),
        "position": ((), jnp.int32),
        "epoch": ((), jnp.int32),
        "index": ((), jnp.int32),
    }
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in rows.items()
    }


def compile_options(config: Config) -> dict[str, str | bool]:
    """Returns XLA's options for a run; CPU kernels are deterministic as they are."""
    if not config.deterministic or jax.default_backend() != "gpu":
        return {}
    return {"xla_gpu_deterministic_ops": True, "xla_gpu_exclude_nondeterministic_ops": True}


def compile_step(
    config: Config, model: AlexNet, mesh: Mesh, num_examples: int
) -> jax.stages.Compiled:
    """Compiles (state, batch) -> (state, metrics) for a mesh; the old state's memory is reused."""
    step = meshes.per_device(make_train_step(config, model, num_examples), mesh)
    state = abstract_state(config, model, mesh)
    batch = abstract_batch(config, config.batch_size, mesh)
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    return lowered.compile(compile_options(config))


def first_nonfinite_layer(
    config: Config, model: AlexNet, params: Any, batch: dict[str, jax.Array], at: int
) -> str:
    """Computes a batch's layers one by one and returns the first that holds a NaN or Inf.

    Args:
      config: of the run.
      model: of the run.
      params: the parameters that the step started from.
      batch: the device batch that gave the NaN or Inf.
      at: the update that it was given to, from 1.
    """

    def outputs(params: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        seed_key = jax.random.key(config.seed)
        views = augment.training_views(batch, seed_key, config.augment, config.image_size)
        keys = dropout_keys(config.seed, at - 1, jnp.arange(views.shape[0]))
        _, kept = model.apply({"params": params}, views, keys, mutable=["intermediates"])
        return jnp.isfinite(views).all(), jax.tree.map(
            lambda leaf: jnp.isfinite(leaf).all(), kept["intermediates"]
        )

    def parameter(path: tuple[Any, ...]) -> str:
        return "parameters of " + path[0].key

    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not bool(jax.device_get(jnp.isfinite(leaf).all())):
            return parameter(path)
    views, kept = jax.device_get(jax.jit(outputs)(params, batch))
    if not views:
        return "the augmented images"
    for name in sorted(kept):
        if not all(kept[name]):
            return name.removesuffix("_output")
    return "the gradient (every layer's output is finite)"
