"""Pre-training on ImageNet's Fall 2011 release: 15 million images, 21,843 classes (#146-2011).

    python -m alexnet_jax.main --workdir=runs/146-2011 --config=fall2011 \\
        --config.init.weights=runs/146-2009 --config.dataset=PATH/fall2011

The six convolutions begin with those of `fall2009`. Between fc7 and the classes is a linear layer
of 2 x 1,024 units; on two devices each holds half of the classes, with one softmax over all. The
notebook gives no error for this run; its purpose is `original_code_conv6`, which starts from it.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import fall2009


def get_config() -> Config:
    """Returns the recipe; rates are those of layer-params-146-2011's notes."""
    config = fall2009.get_config()
    config.dataset = "fall2011"
    config.model.fc7_linear_units = 2048
    config.init.layers = ("conv1-conv6",)
    config.num_epochs = 8  # killed at 8.11
    schedule = config.optimizer.schedule
    schedule.steps = ((6.0, 1e-3),)
    schedule.layer_rates = ("conv1-conv6 weights: 0.001",)
    return config
