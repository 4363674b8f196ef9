"""Caffe's AlexNet (models/bvlc_alexnet): norm before pool, biases 0.1, LRN across the columns.

    python -m alexnet_jax.main --workdir=runs/bvlc --config=bvlc_alexnet

Caffe publishes 57.1 % top-1 accuracy for the centre crop.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import paper


def get_config() -> Config:
    """Returns the recipe."""
    config = paper.get_config()
    config.batch_size = 256
    config.eval_views = 1
    config.model.lrn.convention = "caffe"
    config.model.lrn.across_columns = True
    config.model.bias_value = 0.1
    config.model.fc_std = 0.005
    config.model.dropout_scaling = "train"
    config.augment.lighting = "none"
    config.optimizer.bias_rate_factor = 2.0
    config.optimizer.decay_biases = False
    # 450,000 iterations of 256, a tenth every 100,000.
    config.num_steps = 450_000
    epochs = (100_000 * 256 / 1_281_167, 200_000 * 256 / 1_281_167)
    epochs += (300_000 * 256 / 1_281_167, 400_000 * 256 / 1_281_167)
    schedule = config.optimizer.schedule
    schedule.kind = "step"
    schedule.steps = tuple(zip(epochs, (1e-3, 1e-4, 1e-5, 1e-6), strict=True))
    return config
