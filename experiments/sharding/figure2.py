"""python -m experiments.sharding.figure2: the paper's figure 2, from the compiled step."""

import pathlib

import jax

from alexnet_jax import configs, train
from alexnet_jax.figures import split
from alexnet_jax.figures.picture import Picture
from alexnet_jax.steps import communication

HERE = pathlib.Path(__file__).parent
DEVICES = 2


def figure() -> Picture:
    """Draws a step of `paper` on two devices, a batch of 128."""
    config = configs.get("paper")
    config.mesh.data, config.mesh.model = 1, DEVICES
    config.num_classes = 1000
    exchanged = communication.compiled(train.compile_train_step(config))
    return split.draw(config, 1000, exchanged)


if __name__ == "__main__":
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", DEVICES)
    figure().save(HERE / "results" / "figure2.png")
