"""For large batches: batch normalisation instead of local, LARS, warm-up (NVIDIA's alexnet_bn).

    python -m alexnet_jax.main --workdir=runs/bn --config=alexnet_bn --config.mesh.data=8

The network of NVIDIA's fork of Caffe (models/alexnet_bn): means and variances over the whole batch,
without scale and offset, after pool1, pool2, relu3 and relu4; the rate and warm-up of its solver
for batches of 8,192. NVIDIA starts the convolutions' biases at 0.01; here the biases that the paper
starts at 1 start at 0.1. NVIDIA clips each layer's rate (LARC); here LARS follows You, Gitman and
Ginsburg (2017).
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import bvlc_alexnet


def get_config() -> Config:
    """Returns the recipe."""
    config = bvlc_alexnet.get_config()
    config.batch_size, config.num_steps, config.num_epochs = 8192, 0, 100
    config.matmul_precision = "default"  # it is there for speed
    config.eval_batch_size, config.checkpoint_every_steps = 1024, 500
    model = config.model
    model.normalisation = "batch"
    model.layer1 = model.layer2 = "relu pool norm"
    model.layer3 = model.layer4 = "relu norm"
    optimizer = config.optimizer
    optimizer.kind, optimizer.learning_rate = "lars", 10.0
    optimizer.bias_rate_factor = 1.0
    optimizer.schedule.kind, optimizer.schedule.steps = "polynomial", ()
    optimizer.schedule.warmup_epochs = 4.0
    return config
