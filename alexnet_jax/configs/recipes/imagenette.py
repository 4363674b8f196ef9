"""Ten classes of photographs from scratch, within an hour on two CPU cores.

    python -m alexnet_jax.main --workdir=runs/imagenette --config=imagenette \\
        --config.dataset=PATH/imagenette

PATH/imagenette holds train/CLASS/*.JPEG and val/CLASS/*.JPEG.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import default


def get_config() -> Config:
    """Returns the recipe."""
    config = default.get_config()
    config.dataset = "imagenette"
    config.resize, config.image_size = 208, 163
    config.model.width = 0.5
    config.model.dropout_rate = 0.5
    # Inputs of unit scale: alpha is the paper's at 0..255 pixels, and k = 1 keeps the scale of He's
    # initialisation. Layer 2's norm carries no weight (run #167) and is left out.
    config.model.lrn.convention = "caffe"
    config.model.lrn.alpha = 0.5
    config.model.layer2 = "relu pool"
    config.optimizer.weight_decay = 0.005  # few photographs: ten times the paper's
    config.num_epochs = 58
    config.eval_views = 10
    config.eval_every_epochs = 10
    config.optimizer.schedule.warmup_epochs = 1.0
    return config
