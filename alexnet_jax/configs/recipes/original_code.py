"""The authors' own code as their notebook ran it on 2012 data: run #145.

    python -m alexnet_jax.main --workdir=runs/145 --config=original_code

Its notebook says 40.664 % top-1 and 18.210 % top-5 error on ILSVRC-2012 validation, ten views.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import paper


def get_config() -> Config:
    """Returns the recipe; each line is a place where the code departs from the paper's text."""
    config = paper.get_config()
    config.image_size = 224
    config.model.conv1_padding = 3
    config.model.layer1 = "norm pool relu"
    config.model.lrn.convention = "original_code"
    config.model.spatial_norm2 = True
    config.model.conv345_std = 0.03
    config.augment.chunk = 32
    config.augment.mean_image = "centre"
    config.augment.lighting = "stddev"
    config.augment.lighting_rescale = 1.1
    config.augment.lighting_off_epoch = 67
    config.optimizer.bias_rate_factor = 2.0
    config.optimizer.decay_biases = False
    config.num_epochs = 91
    schedule = config.optimizer.schedule
    schedule.kind = "step"
    schedule.steps = ((25.0, 1e-3), (51.0, 1e-4), (79.0, 1e-5))
    schedule.bias_steps = ((0.0, 2e-2),)  # its notes change the kernels' rate only
    schedule.layer_rates = ("conv1 weights: 1e-5 from epoch 67", "conv1: 0 from epoch 72")
    return config
