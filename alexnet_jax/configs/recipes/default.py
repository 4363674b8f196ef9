"""The embedded default: a narrow two-column AlexNet on drawn patterns, minutes on two CPU cores.

python -m alexnet_jax.main --workdir=runs/first
"""

from alexnet_jax.config import Config


def get_config() -> Config:
    """Returns the recipe."""
    config = Config(num_epochs=16, batch_size=32, resize=96, image_size=83)
    config.model.width = 0.25
    config.model.init = "he"
    config.model.bias_value = 0.0
    config.model.dropout_scaling = "train"
    config.model.dropout_rate = 0.3  # fc6 and fc7 are a quarter of the paper's
    config.augment.pixel_std = (58.0,)
    config.augment.lighting = "stddev"
    config.optimizer.learning_rate = 0.005
    config.optimizer.schedule.kind = "cosine"
    config.optimizer.schedule.warmup_epochs = 0.5
    return config
