"""Pre-training on ImageNet's Fall 2009 release: 8.9 million images, 10,184 classes (#146-2009).

    python -m alexnet_jax.main --workdir=runs/146-2009 --config=fall2009 \\
        --config.init.weights=runs/145 --config.dataset=PATH/fall2009

The convolutions begin with those of `original_code` (#145); conv6 and the rest begin anew. The
paper reports 67.4 % top-1 and 40.9 % top-5 error on this release, for a network with conv6.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import original_code


def get_config() -> Config:
    """Returns the recipe; rates are those of layer-params-146-2009's notes."""
    config = original_code.get_config()
    config.dataset, config.num_classes = "fall2009", 0
    config.train_split, config.eval_split = "train[:98%]", "train[98%:]"  # it has no other
    config.model.conv6_channels = 256
    config.init.layers = ("conv1-conv5",)
    config.augment.lighting_off_epoch = 0
    config.num_epochs = 7  # killed at 6.65
    config.optimizer.learning_rate = 1e-2
    schedule = config.optimizer.schedule
    schedule.kind = "step"
    schedule.steps = ((2.16, 1e-3),)
    schedule.bias_steps = ((0.0, 2e-2),)
    schedule.layer_rates = ("conv1-conv5 weights: 0.001",)
    return config
