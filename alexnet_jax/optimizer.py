"""The paper's update (section 5) as optax pieces, its learning rates over time, and LARS."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.config import Config, OptimizerConfig, ScheduleConfig, num_train_steps

Scalar = Any  # a 0-d array, NumPy's on the host or JAX's on a device


class Plateau(NamedTuple):
    """Where the plateau rule stands; saved with the parameters.

    Attributes:
      best: lowest validation error so far, 0-d float32 (NumPy's or JAX's, as the others).
      waited: evaluations since, 0-d int32.
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


def kernels(params: Any) -> Any:
    """Marks the kernels of a parameter tree."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def build(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """Returns v <- momentum v - rate (decay w + g); w <- w + v.

    The rate is inside the velocity, as in the paper, the authors' weights.cu and Caffe;
    `optax.sgd` has it outside, which differs after every change of the rate. LARS multiplies
    (decay w + g) of each kernel by trust * |w| / |decay w + g| first.
    """
    mask = None if config.decay_biases else kernels
    pieces = [optax.add_decayed_weights(config.weight_decay, mask)]
    if config.kind == "lars":
        trust = optax.scale_by_trust_ratio(trust_coefficient=config.trust_coefficient)
        pieces.append(optax.masked(trust, kernels))
    return optax.chain(*pieces, scale_by_rates(), optax.trace(config.momentum))


def velocity(opt_state: Any) -> Any:
    """Returns the velocity tree inside an optimizer state of `build`."""
    return opt_state[-1].trace


class Schedule:
    """The learning rates of a run as a function of (updates done, plateau drops)."""

    def __init__(self, config: Config, num_examples: int) -> None:
        self._optimizer, self._schedule = config.optimizer, config.optimizer.schedule
        self._total = num_train_steps(config, num_examples)
        self._steps_per_epoch = num_examples / config.batch_size

    def __call__(self, step: jax.Array, drops: Scalar) -> dict[str, jax.Array]:
        """Returns 0-d float32 rates of `kernel` and `bias`, and of `conv1_kernel` and `conv1_bias`,
        which differ from them only where `conv1_steps` says so."""
        optimizer = self._optimizer
        kernel_share, bias_share = self._shares(step, drops)
        warm = self._warm_up(step)
        kernel = optimizer.learning_rate * kernel_share * warm
        bias = optimizer.learning_rate * optimizer.bias_rate_factor * bias_share * warm
        conv1_kernel, conv1_bias = kernel, bias
        for epoch, value in self._schedule.conv1_steps:
            late = step >= self._first_step(epoch)
            conv1_kernel = jnp.where(late, jnp.float32(value), conv1_kernel)
            conv1_bias = jnp.where(late & (value == 0), 0.0, conv1_bias)
        return {
            "kernel": kernel,
            "bias": bias,
            "conv1_kernel": conv1_kernel,
            "conv1_bias": conv1_bias,
        }

    def _first_step(self, epoch: float) -> int:
        return math.ceil(epoch * self._steps_per_epoch)

    def _warm_up(self, step: jax.Array) -> jax.Array:
        if not self._schedule.warmup_epochs:
            return jnp.float32(1)
        length = max(1, self._first_step(self._schedule.warmup_epochs))
        return jnp.minimum((step.astype(jnp.float32) + 1) / length, 1.0)

    def _shares(self, step: jax.Array, drops: Scalar) -> tuple[jax.Array, jax.Array]:
        """What is left of the kernels' and of the biases' first rate."""
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


def rate_tree(rates: dict[str, jax.Array], params: Any) -> Any:
    """Spreads the result of a `Schedule` over the leaves of a parameter tree."""

    def leaf(path: tuple[Any, ...], _: Any) -> jax.Array:
        layer, name = path[0].key, path[-1].key
        return rates[f"conv1_{name}" if layer == "conv1" else name]

    return jax.tree_util.tree_map_with_path(leaf, params)
