"""Caffe's reference net (models/bvlc_reference_caffenet): pool before norm, biases 1.

    python -m alexnet_jax.main --workdir=runs/caffenet --config=caffenet

Caffe publishes 57.4 % top-1 accuracy for the centre crop.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import bvlc_alexnet


def get_config() -> Config:
    """Returns the recipe."""
    config = bvlc_alexnet.get_config()
    config.model.layer1 = "relu pool norm"
    config.model.layer2 = "relu pool norm"
    config.model.bias_value = 1.0
    return config
