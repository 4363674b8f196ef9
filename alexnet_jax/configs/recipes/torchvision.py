"""torchvision's alexnet: the net of 2014 without normalisation, dropout before the matrices.

    python -m alexnet_jax.main --workdir=runs/torchvision --config=torchvision

torchvision publishes 56.522 % top-1 and 79.066 % top-5 accuracy for its weights, which
`python -m alexnet_jax.convert --from=torchvision` reads. Its training script crops and scales at
random (RandomResizedCrop) and multiplies the velocity by the rate, not the gradient; here crops,
flips and the update are the paper's.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import paper


def get_config() -> Config:
    """Returns the recipe."""
    config = paper.get_config()
    config.image_size, config.batch_size, config.eval_views = 224, 256, 1
    model = config.model
    model.columns = 1
    model.channels = (64, 192, 384, 256, 256)
    model.conv1_padding_before, model.conv1_padding = 2, 1
    model.layer1 = model.layer2 = "relu pool"
    model.init = "torch"
    model.dropout_after = ("pool5", "fc6")
    model.dropout_scaling = "train"
    augment = config.augment
    augment.lighting, augment.mean_image, augment.statistics = "none", "none", "imagenet"
    augment.mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    augment.pixel_std = (0.229 * 255, 0.224 * 255, 0.225 * 255)
    config.optimizer.weight_decay = 1e-4
    schedule = config.optimizer.schedule
    schedule.kind, schedule.steps = "step", ((30.0, 1e-3), (60.0, 1e-4))
    return config
