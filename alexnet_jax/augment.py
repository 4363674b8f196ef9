"""From uint8 images to what the network sees, on the device (paper sections 2 and 4.1).

Every draw belongs to (seed, epoch, example), never to a device or a position in a buffer.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.config import AugmentConfig

# Colour axes of ImageNet's training pixels: standard deviations on 0..255, and the axes as columns
# of an RGB-row matrix (`color_pca` of the authors' input_meta).
STDDEV_SCALES = np.array([19.72083305, 37.09388853, 121.78006099])
STDDEV_AXES = np.array(
    [
        [0.41795513, -0.71257945, -0.56351045],
        [-0.81698062, -0.02354167, -0.5761844],
        [0.39731118, 0.70119634, -0.59200296],
    ]
)
# The same axes as fb.resnet.torch prints them: eigenvalues of the covariance on [0, 1].
EIGENVALUE_SCALES = np.array([0.2175, 0.0188, 0.0045]) * 255
EIGENVALUE_AXES = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
LIGHTING = {
    "stddev": (STDDEV_SCALES, STDDEV_AXES),
    "eigenvalue_unit_range": (EIGENVALUE_SCALES, EIGENVALUE_AXES),
}

# What a key is for, so that no two purposes share a stream.
CROP, FLIP, LIGHT, DROPOUT = range(4)


def purpose_key(seed_key: jax.Array, purpose: int, *numbers: jax.Array | int) -> jax.Array:
    """Returns the key of one draw: a function of the seed, its purpose and some integers."""
    key = jax.random.fold_in(seed_key, purpose)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def training_views(
    batch: dict[str, jax.Array], seed_key: jax.Array, config: AugmentConfig, size: int
) -> jax.Array:
    """Draws one training view of each image.

    Args:
      batch: `image` (B, R, R, 3) uint8; `index`, `epoch`, `position` (B,) int32: the example, its
        epoch, and its position in the stream of all examples ever used.
      seed_key: typed key of the run.
      config: what to draw.
      size: side S of the crop.

    Returns:
      Centred pixels, (B, S, S, 3) float32.
    """
    border = batch["image"].shape[1] - size

    def one(image: jax.Array, index: jax.Array, epoch: jax.Array, position: jax.Array) -> jax.Array:
        # The authors' code draws crop and flip once for `chunk` consecutive images.
        owner = (epoch, index) if config.chunk == 1 else (position // config.chunk,)
        if config.random_crop:
            key = purpose_key(seed_key, CROP, *owner)
            corner = jax.random.randint(key, (2,), 0, border + 1)
        else:
            corner = jnp.full((2,), border // 2)
        view = lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, 3))
        if config.flip:
            mirrored = jax.random.bernoulli(purpose_key(seed_key, FLIP, *owner))
            view = jnp.where(mirrored, view[:, ::-1], view)
        pixels = view.astype(jnp.float32) - jnp.asarray(config.mean, jnp.float32)
        if config.lighting != "none":
            colour = lighting(purpose_key(seed_key, LIGHT, epoch, index), config)
            if config.lighting_off_epoch:
                colour = jnp.where(epoch < config.lighting_off_epoch, colour, 0)
            pixels = pixels + colour
        return pixels / (config.lighting_rescale * config.pixel_std)

    return jax.vmap(one)(batch["image"], batch["index"], batch["epoch"], batch["position"])


def lighting(key: jax.Array, config: AugmentConfig) -> jax.Array:
    """Draws the paper's colour noise: one RGB offset, (3,) float32 on 0..255."""
    scales, axes = LIGHTING[config.lighting]
    amounts = config.lighting_std * jax.random.normal(key, (3,))
    return (jnp.asarray(axes * scales, jnp.float32) * amounts).sum(axis=1)


def evaluation_views(
    image: jax.Array, views: int, config: AugmentConfig, size: int
) -> list[jax.Array]:
    """Cuts the centre, or the paper's ten views: corners and centre, and their mirror images.

    Args:
      image: (B, R, R, 3) uint8.
      views: 1 or 10.
      config: the mean and scale of pixels.
      size: side S of the crop.

    Returns:
      `views` arrays (B, S, S, 3) float32.
    """
    border = image.shape[1] - size
    centre = (border // 2, border // 2)
    corners = [(0, 0), (0, border), (border, 0), (border, border), centre]
    mean = jnp.asarray(config.mean, jnp.float32)
    crops = [
        (image[:, y : y + size, x : x + size].astype(jnp.float32) - mean) / config.pixel_std
        for y, x in (corners if views == 10 else [centre])
    ]
    return crops if views == 1 else crops + [crop[:, :, ::-1] for crop in crops]
