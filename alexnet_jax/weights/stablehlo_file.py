"""A network as a StableHLO artefact of `jax.export`, for processes that do not have this package.

`jax.export.deserialize(pathlib.Path(FILE).read_bytes()).call(views)` gives logits, on a CPU, an
NVIDIA GPU or a TPU. JAX reads an artefact for six months after the release that wrote it
(docs.jax.dev, "Exporting and serializing", compatibility guarantees).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from alexnet_jax import model
from alexnet_jax.layers import standard_tree
from alexnet_jax.ops import platform
from alexnet_jax.ops.compilation import Numerics
from alexnet_jax.steps.augment import Views
from alexnet_jax.weights import card
from alexnet_jax.weights.types import Weights


def use(weights: Weights, from_images: bool) -> str:
    """Says how the artefact is called."""
    size = weights.config.image_size
    what = "images" if from_images else "views"
    takes = f"{what}, {card.taken(from_images, ('N', size, size, 3))}"
    return (
        f"`jax.export.deserialize(pathlib.Path(FILE).read_bytes()).call(x)` on "
        f"{', '.join(platform.EXPORTED_TO)}; x are {takes}; gives logits, before the softmax. "
        f"Written by JAX {jax.__version__}, whose later releases read it for at least six months"
    )


def write(weights: Weights, path: pathlib.Path, from_images: bool = False) -> None:
    """Writes the artefact: the network with its weights, for any number of images.

    Args:
      weights: of the network.
      path: of the file.
      from_images: takes images, (N, S, S, 3) uint8 RGB crops; else views, (N, S, S, 3) float32,
        less the mean and scaled.
    """
    config = weights.config
    network = model.build(config.model, len(weights.params["fc8"]["bias"]), "float32")
    views = Views.of(config, weights.statistics)
    size, border = config.image_size, config.resize - config.image_size

    def logits(x: jax.Array) -> jax.Array:
        if from_images:  # a crop is the centre of an image
            low, high = border // 2, border - border // 2
            x = jnp.pad(x, ((0, 0), (low, high), (low, high), (0, 0)))
            [x] = views.evaluation(x, 1)
        return standard_tree.logits(network, jax.tree.map(jnp.asarray, weights.params), x)

    [batch] = export.symbolic_shape("batch")
    kind = np.uint8 if from_images else np.float32
    images = jax.ShapeDtypeStruct((batch, size, size, 3), kind)
    # XLA's own operations only: ours call machine-specific code.
    numerics = Numerics("reference", matmul_precision=config.matmul_precision)
    with numerics.apply():
        exported = export.export(jax.jit(logits), platforms=platform.EXPORTED_TO)(images)
    path.write_bytes(exported.serialize())
