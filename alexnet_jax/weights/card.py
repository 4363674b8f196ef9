"""The card beside exported weights: what they are, how they were trained, what was measured."""

import hashlib
import pathlib

from alexnet_jax import __version__
from alexnet_jax.config import Config, flatten, to_json
from alexnet_jax.layers import standard_tree
from alexnet_jax.weights.types import Weights


def text(weights: Weights, made: pathlib.Path, use: str = "") -> str:
    """Returns the card, Markdown.

    Args:
      weights: that were exported.
      made: the file that holds them.
      use: of a graph, how it is called.
    """
    c = weights.config
    lines = [
        f"# {made.name}",
        "",
        f"AlexNet by alexnet_jax {__version__}: {standard_tree.count_parameters(weights.params):,} "
        f"parameters, float32, {len(weights.params['fc8']['bias'])} classes, after "
        f"{weights.step:,} updates.",
        "",
        f"- data: {weights.origin.trained_on or 'not said by the file they come from'}",
        f"- errors: {weights.origin.errors or 'not measured by alexnet_jax'}",
        *([f"- use: {use}"] if use else []),
        f"- input of the network: {_input(weights)}",
        f"- SHA-256 of {made.name}: `{hashlib.sha256(made.read_bytes()).hexdigest()}`",
        "",
        "What differs from the paper's text:",
        "",
        *(f"- `{name}` = {value!r}" for name, value in _differences(c)),
        "",
        "The whole recipe:",
        "",
        "```json",
        to_json(c).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def taken(from_images: bool, shape: tuple[object, ...]) -> str:
    """Says what a graph takes.

    Args:
      from_images: the input is images, else views.
      shape: of the input, with its axes in the graph's order.
    """
    size = f"({', '.join(map(str, shape))})"
    if from_images:
        return f"{size} uint8 RGB, centre crops; it takes the mean off"
    return f"{size} float32, RGB less the mean and divided as below"


def _input(weights: Weights) -> str:
    c = weights.config
    mean = weights.statistics.channel_mean.tolist() if weights.statistics else c.augment.mean
    less = "/".join(f"{value:.3f}" for value in mean)
    if weights.statistics and c.augment.mean_image != "none":
        less = "the mean image of its data"
    spread = "/".join(f"{value:g}" for value in c.augment.pixel_std)
    return (
        f"RGB on 0..255, short side {c.resize}, crops of {c.image_size}, less {less}, divided by "
        f"{spread}"
    )


def _differences(config: Config) -> list[tuple[str, object]]:
    from alexnet_jax import configs

    paper = flatten(configs.get("paper"))
    prefixes = (
        "model.",
        "augment.",
        "optimizer.",
        "image_size",
        "resize",
        "batch_size",
        "num_epochs",
    )
    return [
        (name, value)
        for name, value in flatten(config).items()
        if name.startswith(prefixes) and value != paper[name]
    ]
