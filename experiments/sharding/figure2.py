"""python -m experiments.sharding.figure2: the paper's figure 2, from what a step exchanges here."""

import pathlib

from alexnet_jax import configs
from alexnet_jax.configs.sizes import feature_sizes
from alexnet_jax.figures import split
from alexnet_jax.figures.picture import Picture
from alexnet_jax.steps import communication

HERE = pathlib.Path(__file__).parent
DEVICES = 2


def figure() -> Picture:
    """Draws the forward pass of `paper` on two devices, a batch of 128."""
    config = configs.get("paper")
    config.mesh.data, config.mesh.model = 1, DEVICES
    sent = {}
    for exchange in communication.expected(config, 1000, 1, training=False):
        sent[exchange.layer] = sent.get(exchange.layer, 0) + exchange.moved
    sides = feature_sizes(config)
    maps = zip(
        (sides.pool1, sides.pool2, sides.pool2, sides.pool2, sides[-1]), range(5), strict=True
    )
    layers = [
        split.Layer(
            f"conv{n + 1}",
            f"{side} x {side} x {config.model.channels[n] // DEVICES}",
            sent.get(f"conv{n + 1}", 0),
        )
        for side, n in maps
    ]
    for name, units in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        layers.append(split.Layer(name, f"{units // DEVICES}", sent.get(name, 0)))
    title = (
        f"paper on two devices: red, what each sends the other for a batch of {config.batch_size}, "
        "forward"
    )
    return split.draw(DEVICES, layers, title)


if __name__ == "__main__":
    figure().save(HERE / "results" / "figure2.png")
