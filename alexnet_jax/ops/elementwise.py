"""ReLU and dropout as AlexNet uses them, and the activations that the paper compares ReLU with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from alexnet_jax.ops import platform


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), without a gradient at 0 (paper section 3.1)."""
    return platform.choose(reference=jax.nn.relu, auto=_relu)(x)


@jax.custom_vjp
def _relu(x: jax.Array) -> jax.Array:
    """Saves its output for the gradient: the next layer needs it too."""
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = platform.in_memory(_relu(x))
    return y, y


_relu.defvjp(_relu_forward, lambda y, dy: (jnp.where(y > 0, dy, 0),))


# What `model.activation` names (paper section 3.1 and figure 1).
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def keep_mask(keys: jax.Array, units: int, rate: float) -> jax.Array:
    """Draws which units stay, (B, units) bool.

    Args:
      keys: (B,) typed keys, one per example, so that the mask depends on the example and the unit,
        not on the device that computes it.
      units: of the whole layer, over all devices.
      rate: probability that a unit is dropped.
    """
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (units,)))(keys)


def dropout(x: jax.Array, keep: jax.Array) -> jax.Array:
    """Sets units to zero, without rescaling the others (paper section 4.2): (B, units) each."""
    return jnp.where(keep, x, jnp.zeros((), x.dtype))
