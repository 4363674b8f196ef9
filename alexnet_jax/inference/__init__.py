"""Trained networks: predictions of images, evaluation of splits, features inside.

From a notebook: `network = alexnet_jax.inference.load("runs/first")`.
"""

from alexnet_jax.inference.network import Network, Prediction, load

__all__ = ["Network", "Prediction", "load"]
