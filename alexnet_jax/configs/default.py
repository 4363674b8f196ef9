"""The embedded default: a narrow two-column AlexNet on drawn patterns, minutes on two CPU cores.

python -m alexnet_jax.main --workdir=runs/first
"""

from alexnet_jax.config import Config


def get_config() -> Config:
    """Returns the recipe."""
    config = Config(num_epochs=10, batch_size=64, resize=128, image_size=115)
    config.model.width = 0.25
    config.model.init = "he"
    config.model.bias_value = 0.0
    config.model.dropout_scaling = "train"
    config.augment.pixel_std = 58.0
    config.augment.lighting = "stddev"
    config.optimizer.learning_rate = 0.02
    config.optimizer.schedule.kind = "cosine"
    config.optimizer.schedule.warmup_epochs = 0.5
    return config
