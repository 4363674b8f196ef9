"""The network of the paper's starred rows (table 2): `paper` and a sixth convolution, pre-trained.

    python -m alexnet_jax.main --workdir=runs/star --config=paper_conv6 \\
        --config.init.weights=runs/fall2011

61,555,304 parameters. Published for one such CNN, pre-trained on ImageNet's Fall 2011 release and
fine-tuned: 39.0 % top-1 and 16.6 % top-5 error on ILSVRC-2012 validation, ten views. Without
`init.weights` it begins with random ones, which the paper has no figure for.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import paper


def get_config() -> Config:
    """Returns the recipe."""
    config = paper.get_config()
    config.model.conv6_channels = 256
    return config
