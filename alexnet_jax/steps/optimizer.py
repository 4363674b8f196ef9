"""The paper's update (section 5) as optax pieces, its learning rates over time, and LARS."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.config import Config, OptimizerConfig, ScheduleConfig, num_train_steps
from alexnet_jax.configs import layer_rates
from alexnet_jax.configs.layer_rates import LayerRate
from alexnet_jax.ops import platform

Scalar = Any  # a 0-d array, NumPy's on the host or JAX's on a device


class Plateau(NamedTuple):
    """Where the plateau rule stands; saved with the parameters.

    Attributes:
      best: lowest validation error so far, 0-d float32 (NumPy's or JAX's, as the others).
      waited: evaluations since the best one or the last drop, 0-d int32.
      drops: times the rate was divided by ten, 0-d int32.
    """

    best: Scalar
    waited: Scalar
    drops: Scalar


def plateau_start() -> Plateau:
    """Returns the state before the first evaluation."""
    return Plateau(jnp.float32(jnp.inf), jnp.int32(0), jnp.int32(0))


def plateau_update(state: Plateau, error: float, schedule: ScheduleConfig) -> Plateau:
    """Counts one evaluation, on the host; drops the rate after `patience` without improvement."""
    waited = 0 if np.float32(error) < state.best else int(state.waited) + 1
    drop = waited >= schedule.patience and int(state.drops) < schedule.most_drops
    return Plateau(
        np.minimum(state.best, np.float32(error)),
        np.int32(0 if drop else waited),
        np.int32(int(state.drops) + drop),
    )


def scale_by_rates() -> optax.GradientTransformationExtraArgs:
    """Multiplies each leaf by minus its own rate, given to `update` as the tree `rates`."""

    def update(
        updates: Any, state: Any, params: Any = None, *, rates: Any, **_: Any
    ) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, rate: -rate * u, updates, rates), state

    transformation = optax.GradientTransformationExtraArgs
    return transformation(lambda _: optax.EmptyState(), update)  # pyright: ignore[reportArgumentType]


def trace(momentum: float) -> optax.GradientTransformation:
    """Accumulates velocity, v <- momentum v + u.

    This is `optax.trace` with the terms in the paper's order. The order decides which of two
    products a CPU fuses with the sum; this one continues runs of earlier versions to the last bit.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moved = jax.tree.map(lambda u, v: momentum * v + u, updates, state.trace)
        return moved, optax.TraceState(trace=moved)

    return optax.GradientTransformation(optax.trace(momentum).init, update)


def kernels(params: Any) -> Any:
    """Marks the kernels of a parameter tree."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


SquaredNorms = Callable[[Any], Any]


def local_squared_norms(tree: Any) -> Any:
    """Returns the squared norm of each leaf, where this device holds all of it."""
    return jax.tree.map(lambda leaf: jnp.vdot(leaf, leaf), tree)


def scale_by_trust(coefficient: float, squared_norms: SquaredNorms) -> optax.GradientTransformation:
    """Multiplies each kernel's update u by coefficient * |w| / |u| (LARS, You et al. 2017).

    Where either is zero, and for biases, u stays as it is.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        of_params, of_updates = squared_norms(params), squared_norms(updates)

        def scaled(is_kernel: bool, u: jax.Array, w2: jax.Array, u2: jax.Array) -> jax.Array:
            if not is_kernel:
                return u
            ratio = coefficient * jnp.sqrt(w2 / jnp.where(u2 > 0, u2, 1))
            return u * jnp.where((w2 > 0) & (u2 > 0), ratio, 1)

        return jax.tree.map(scaled, kernels(params), updates, of_params, of_updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def while_finite(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Keeps the state, and returns updates that change nothing, where `finite` is given as false.

    The updates are the new velocity. Adding -0.0 leaves a weight as it is, to the last bit.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, finite: jax.Array, **more: Any
    ) -> tuple[Any, Any]:
        _, after = inner.update(updates, state, params, **more)
        chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        chosen, finite = platform.before_others((chosen, finite))
        return jax.tree.map(lambda v: jnp.where(finite, v, -0.0), velocity(chosen)), chosen

    extra = optax.GradientTransformationExtraArgs
    return extra(inner.init, update)  # pyright: ignore[reportArgumentType]


def build(
    config: OptimizerConfig, squared_norms: SquaredNorms = local_squared_norms
) -> optax.GradientTransformationExtraArgs:
    """Returns v <- momentum v - rate (decay w + g); w <- w + v, while everything is finite.

    The rate is inside the velocity, as in the paper, the authors' weights.cu and Caffe;
    `optax.sgd` has it outside, which differs after every change of the rate. LARS multiplies
    (decay w + g) of each kernel by trust * |w| / |decay w + g| first.

    Its `update` wants `rates`, from `rate_tree`, and `finite`, 0-d bool.

    Args:
      config: of the optimizer.
      squared_norms: maps a tree of this device's parts to each whole leaf's squared norm.
    """
    decayed = None if config.decay_biases else kernels
    pieces = [optax.add_decayed_weights(config.weight_decay, decayed)]
    if config.kind == "lars":
        pieces.append(scale_by_trust(config.trust_coefficient, squared_norms))
    chain = optax.chain(*pieces, scale_by_rates(), trace(config.momentum))
    return while_finite(chain)


def velocity(opt_state: Any) -> Any:
    """Returns the velocity tree inside an optimizer state of `build`."""
    return opt_state[-1].trace


def of_layers(opt_state: Any, layers: Any) -> Any:
    """Returns the optimizer state of some layers alone."""
    trace = opt_state[-1].trace
    part = opt_state[-1]._replace(trace={layer: trace[layer] for layer in layers})
    return (*opt_state[:-1], part)


def replaced(opt_state: Any, part: Any) -> Any:
    """Returns an optimizer state in which `part`, from `of_layers`, replaces some layers' state."""
    trace = opt_state[-1].trace | part[-1].trace
    return (*opt_state[:-1], opt_state[-1]._replace(trace=trace))


class Schedule:
    """The learning rates of a run as a function of (updates done, plateau drops)."""

    def __init__(self, config: Config, num_examples: int) -> None:
        self._optimizer, self._schedule = config.optimizer, config.optimizer.schedule
        self._total = num_train_steps(config, num_examples)
        self._steps_per_epoch = num_examples / config.batch_size
        self._rules = [layer_rates.parse(rule) for rule in self._schedule.layer_rates]

    def __call__(self, step: jax.Array, drops: Scalar) -> dict[str, jax.Array]:
        """Returns 0-d float32 rates: `kernel`, `bias`, and for each layer that `layer_rates` names
        two of its own, such as `conv1_kernel` and `conv1_bias`."""
        optimizer = self._optimizer
        kernel_share, bias_share = self._shares(step, drops)
        warm = self._warm_up(step)
        kernel = optimizer.learning_rate * kernel_share * warm
        bias = optimizer.learning_rate * optimizer.bias_rate_factor * bias_share * warm
        rates = {"kernel": kernel, "bias": bias}
        for rule in self._rules:
            for layer, part in itertools.product(rule.layers, ("kernel", "bias")):
                factor = optimizer.fc_rate_factor if layer.startswith("fc") else 1.0
                usual = rates[part] * factor
                before = rates.get(f"{layer}_{part}", usual)
                rates[f"{layer}_{part}"] = before
                if part in rule.parts:
                    value = usual * rule.value if rule.is_factor else jnp.float32(rule.value)
                    late = step >= self._start(rule)
                    rates[f"{layer}_{part}"] = jnp.where(late, value, before)
        return rates

    def _start(self, rule: LayerRate) -> int:
        return self._first_step(rule.epoch) if rule.update is None else rule.update

    def _first_step(self, epoch: float) -> int:
        return math.ceil(epoch * self._steps_per_epoch)

    def _warm_up(self, step: jax.Array) -> jax.Array:
        if not self._schedule.warmup_epochs:
            return jnp.float32(1)
        length = max(1, self._first_step(self._schedule.warmup_epochs))
        return jnp.minimum((step.astype(jnp.float32) + 1) / length, 1.0)

    def _shares(self, step: jax.Array, drops: Scalar) -> tuple[jax.Array, jax.Array]:
        """The schedule's rates of kernels and of biases, as fractions of their first rates."""
        schedule, base = self._schedule, self._optimizer.learning_rate
        progress = jnp.minimum(step.astype(jnp.float32) / self._total, 1.0)
        if schedule.kind == "dexp":
            kernels = self._dexp(schedule.dexp_factor, schedule.dexp_count, step)
            return kernels, self._dexp(schedule.bias_dexp_factor, schedule.bias_dexp_count, step)
        if schedule.kind == "step":
            kernels = self._stepped(base, schedule.steps, step)
            bias_base = base * self._optimizer.bias_rate_factor
            if not schedule.bias_steps or not bias_base:
                return kernels, kernels
            return kernels, self._stepped(bias_base, schedule.bias_steps, step)
        share = {
            "constant": lambda: jnp.float32(1),
            "plateau": lambda: jnp.float32(10) ** -drops.astype(jnp.float32),
            "polynomial": lambda: (1 - progress) ** schedule.power,
            "cosine": lambda: 0.5 * (1 + jnp.cos(jnp.pi * progress)),
        }[schedule.kind]()
        return share, share

    def _stepped(
        self, base: float, rows: tuple[tuple[float, float], ...], step: jax.Array
    ) -> jax.Array:
        share = jnp.float32(1)
        for epoch, rate in rows:
            share = jnp.where(step >= self._first_step(epoch), jnp.float32(rate / base), share)
        return share

    def _dexp(self, factor: float, count: int, step: jax.Array) -> jax.Array:
        share = jnp.float32(1)
        for stage in range(1, count):
            later = jnp.float32(factor ** (-stage / (count - 1)))
            share = jnp.where(step >= math.ceil(stage * self._total / count), later, share)
        return share


def rate_tree(rates: dict[str, jax.Array], params: Any, fc_factor: float = 1.0) -> Any:
    """Spreads the result of a `Schedule` over the leaves of a parameter tree.

    Args:
      rates: of one step.
      params: some layers of the standard tree.
      fc_factor: multiplies the rates of those of fc6 .. fc8 that have none of their own.
    """

    def leaf(path: tuple[Any, ...], _: Any) -> jax.Array:
        layer, name = path[0].key, path[-1].key
        if f"{layer}_{name}" in rates:
            return rates[f"{layer}_{name}"]
        return rates[name] * fc_factor if layer.startswith("fc") else rates[name]

    return jax.tree_util.tree_map_with_path(leaf, params)
