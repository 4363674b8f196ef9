"""`paper` with the sixth convolution of the paper's starred rows (table 2), from random weights.

    python -m alexnet_jax.main --workdir=runs/conv6 --config=paper_conv6

61,555,304 parameters. The paper gives no error for this network from scratch. Its 39.0 % top-1 and
16.6 % top-5 (ILSVRC-2012 validation, ten views) are of one that was pre-trained on ImageNet's Fall
2011 release: `original_code_conv6`, the last of four runs.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import paper


def get_config() -> Config:
    """Returns the recipe."""
    config = paper.get_config()
    config.model.conv6_channels = 256
    return config
