"""The one-column net of 2014 (Krizhevsky, One weird trick; cuda-convnet2 layers-imagenet-1gpu.cfg).

    python -m alexnet_jax.main --workdir=runs/owt --config=one_weird_trick

cuda-convnet2's wiki (TrainingExample) prints 42.55 % top-1 and 19.81 % top-5 error on ILSVRC-2012
validation for the centre crop, 40.42 and 18.15 % with ten views. With `--config.mesh.scheme=hybrid`
each device convolves images of its own, and the devices share the fully connected layers by units.
The cfg has a bias of -7 in fc1000, a remnant of independent logistic units, which cancels in a
softmax; the recipe omits it.
"""

from alexnet_jax.config import Config
from alexnet_jax.configs.recipes import original_code


def get_config() -> Config:
    """Returns the recipe."""
    config = original_code.get_config()
    config.model.columns = 1
    config.model.channels = (64, 192, 384, 256, 256)
    config.model.spatial_norm2 = False
    config.augment.chunk = 1  # jpeg.cpp draws for every image
    config.augment.lighting_off_epoch = 0
    config.num_epochs = 90
    schedule = config.optimizer.schedule
    schedule.kind = "dexp"  # 0.01, divided by 250 in four stages; biases 0.02, by 10 in two
    schedule.steps = schedule.bias_steps = schedule.layer_rates = ()
    return config
