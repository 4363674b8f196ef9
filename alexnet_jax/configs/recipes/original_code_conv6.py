"""The authors' net #146 on ILSVRC-2012, from its own pre-training on Fall 2011 (#146-2012-2011).

    python -m alexnet_jax.main --workdir=runs/146-2012-2011 --config=original_code_conv6 \\
        --config.init.weights=runs/146-2011

Its notebook says 38.990 % top-1 and 16.622 % top-5 error, ten views: the paper's 39.0 / 16.6. From
#146-2009 alone, with other rates, it says 39.100 / 16.876.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import original_code


def get_config() -> Config:
    """Returns the recipe; rates are those of layer-params-146-2012-2011's notes."""
    config = original_code.get_config()
    config.model.conv6_channels = 256
    config.init.layers = ("conv1-conv6", "fc6", "fc7")  # all but the classes
    config.augment.lighting_off_epoch = 38
    config.num_epochs = 54
    config.optimizer.learning_rate = 1e-3
    config.optimizer.bias_rate_factor = 20.0  # 0.02
    schedule = config.optimizer.schedule
    schedule.kind = "step"
    schedule.steps = ((22.0, 1e-4), (42.0, 1e-5))
    schedule.bias_steps = ((0.0, 2e-2),)
    schedule.layer_rates = (
        "conv1 weights: 1e-4",
        "fc8 weights: 0.01 from update 300",
        "conv1 weights: 1e-5 from epoch 5",
        "conv1 weights: 0 from epoch 7",  # the notes are of weights; biases keep 0.02
        "fc8 weights: 0.001 from epoch 9",
        "conv1-conv6 fc* weights: 1e-4 from epoch 22",
        "conv1-conv6 fc* weights: 1e-5 from epoch 42",
    )
    return config
