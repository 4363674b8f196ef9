"""The paper's text: 227 crops without padding, 60,965,224 parameters, 90 epochs of ImageNet.

    python -m alexnet_jax.main --workdir=runs/paper --config=paper

Published for ILSVRC-2012 validation: 40.7 % top-1 and 18.2 % top-5 error with ten views.
"""

from alexnet_jax.config import Config


def get_config() -> Config:
    """Returns the recipe."""
    config = Config(
        dataset="imagenet2012",
        num_classes=1000,
        batch_size=128,
        num_epochs=90,
        eval_views=10,
        checkpoint_every_steps=2500,
        log_every_steps=100,
        matmul_precision="highest",  # the GTX 580 had no other
    )
    config.augment.mean_image = "moving"
    return config
