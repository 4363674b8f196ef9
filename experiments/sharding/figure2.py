"""python -m experiments.sharding.figure2: the paper's figure 2, from what a step exchanges here."""

import pathlib

from alexnet_jax import configs
from alexnet_jax.figures import split
from alexnet_jax.figures.picture import Picture
from alexnet_jax.steps import communication

HERE = pathlib.Path(__file__).parent
DEVICES = 2


def figure() -> Picture:
    """Draws a step of `paper` on two devices, a batch of 128."""
    config = configs.get("paper")
    config.mesh.data, config.mesh.model = 1, DEVICES
    exchanged = communication.expected(config, 1000, 1)
    return split.draw(config, 1000, exchanged)


if __name__ == "__main__":
    figure().save(HERE / "results" / "figure2.png")
