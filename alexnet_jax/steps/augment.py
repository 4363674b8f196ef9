"""Augmentation: uint8 images to views, on the device (paper sections 2 and 4.1).

Every draw is a function of (seed, purpose, epoch, index), or where images share one (`chunk`) of
(seed, purpose, position // chunk): never of a device or a place in a buffer.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.config import AugmentConfig, Config
from alexnet_jax.data.statistics import Statistics

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
    "none": (np.zeros(3), np.zeros((3, 3))),
    "stddev": (STDDEV_SCALES, STDDEV_AXES),
    "eigenvalue_unit_range": (EIGENVALUE_SCALES, EIGENVALUE_AXES),
}

# The purposes of keys: no two purposes share a random stream.
CROP, FLIP, LIGHT, DROPOUT = range(4)


def purpose_key(seed_key: jax.Array, purpose: int, *numbers: jax.Array | int) -> jax.Array:
    """Returns the key of one draw: a function of the seed, its purpose and some integers."""
    key = jax.random.fold_in(seed_key, purpose)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Draws training views and cuts those of an evaluation.

    Attributes:
      config: what to draw.
      size: side S of the crop.
      mean: what is subtracted, on 0..255: (3,), or a mean image (R, R, 3).
      colour: standard colour offsets along the axes, as columns, (3, 3), on 0..255.
    """

    config: AugmentConfig
    size: int
    mean: np.ndarray
    colour: np.ndarray

    @classmethod
    def of(cls, config: Config, statistics: Statistics | None = None) -> "Views":
        """Chooses mean and colour axes: of a store's training split, or of ImageNet.

        Args:
          config: of the run.
          statistics: of the store that the run reads, if it does.
        """
        c = config.augment
        scales, axes = LIGHTING[c.lighting]
        mean = np.asarray(c.mean)
        if statistics and c.statistics == "auto":
            mean = statistics.channel_mean
            if c.lighting == "stddev":
                scales, axes = statistics.stdevs, statistics.axes
            elif c.lighting == "eigenvalue_unit_range":
                scales, axes = statistics.stdevs**2 / 255, statistics.axes
            if c.mean_image != "none":
                mean = statistics.mean_image
        colour = axes * scales * c.lighting_std
        return cls(c, config.image_size, mean.astype(np.float32), colour.astype(np.float32))

    def training(self, batch: dict[str, jax.Array], seed_key: jax.Array) -> jax.Array:
        """Draws one training view of each image.

        Args:
          batch: `image` (B, R, R, 3) uint8; `index`, `epoch`, `position` (B,) int32: the example,
            its epoch, and its position in the stream of all examples ever used.
          seed_key: typed key of the run.

        Returns:
          Centred pixels, (B, S, S, 3) float32.
        """
        c, size = self.config, self.size
        border = batch["image"].shape[1] - size

        def draw(
            index: jax.Array, epoch: jax.Array, position: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            # The authors' code draws crop and flip once for `chunk` consecutive images.
            owner = (epoch, index) if c.chunk == 1 else (position // c.chunk,)
            if c.random_crop:
                key = purpose_key(seed_key, CROP, *owner)
                corner = jax.random.randint(key, (2,), 0, border + 1)
            else:
                corner = jnp.full((2,), border // 2)
            mirrored = jnp.bool_(False)
            if c.flip:
                mirrored = jax.random.bernoulli(purpose_key(seed_key, FLIP, *owner))
            colour, rescale = jnp.zeros(3), jnp.ones(())
            if c.lighting != "none":
                colour = self.lighting(purpose_key(seed_key, LIGHT, epoch, index))
                rescale = rescale * c.lighting_rescale
                if c.lighting_off_epoch:  # the authors' code divides only where it adds noise
                    on = epoch < c.lighting_off_epoch
                    colour, rescale = jnp.where(on, colour, 0), jnp.where(on, rescale, 1)
            return corner, mirrored, colour, rescale

        def one(
            image: jax.Array,
            corner: jax.Array,
            mirrored: jax.Array,
            colour: jax.Array,
            rescale: jax.Array,
        ) -> jax.Array:
            pixels = self._centred(image, corner, mirrored)
            if c.lighting != "none":
                pixels = pixels + colour
            if c.lighting_rescale != 1:
                pixels = pixels / rescale
            return pixels / self._spread

        drawn = jax.vmap(draw)(batch["index"], batch["epoch"], batch["position"])
        # The barrier keeps the draw at one per image; fused with what follows, XLA would draw for
        # each pixel.
        return jax.vmap(one)(batch["image"], *lax.optimization_barrier(drawn))

    def lighting(self, key: jax.Array) -> jax.Array:
        """Draws the paper's colour noise: one RGB offset, (3,) float32 on 0..255."""
        return (self.colour * jax.random.normal(key, (3,))).sum(axis=1)

    def evaluation(self, image: jax.Array, views: int) -> list[jax.Array]:
        """Cuts the centre, or the paper's ten views: corners and centre, and their mirror images.

        Args:
          image: (B, R, R, 3) uint8.
          views: 1 or 10.

        Returns:
          `views` arrays (B, S, S, 3) float32.
        """
        border = image.shape[1] - self.size
        centre = (border // 2, border // 2)
        corners = [(0, 0), (0, border), (border, 0), (border, border), centre]
        mirrors, places = (False, True), corners
        if views == 1:
            mirrors, places = (False,), [centre]
        return [
            jax.vmap(lambda one, y=y, x=x, m=mirrored: self._centred(one, jnp.array((y, x)), m))(
                image
            )
            / self._spread
            for mirrored in mirrors
            for y, x in places
        ]

    @property
    def _spread(self) -> float | np.ndarray:
        """What centred pixels are divided by: one number, or one for each channel."""
        spread = self.config.pixel_std
        return spread[0] if len(spread) == 1 else np.asarray(spread, np.float32)

    def _centred(
        self, image: jax.Array, corner: jax.Array, mirrored: jax.Array | bool
    ) -> jax.Array:
        """Cuts a view at a corner, (S, S, 3) float32, mirrors it and subtracts the mean."""
        view = self._flipped(self._cut(image, corner), mirrored).astype(jnp.float32)
        mean = jnp.asarray(self.mean)
        if mean.ndim == 1:
            return view - mean
        if self.config.mean_image == "centre":
            border = image.shape[0] - self.size
            return view - self._cut(mean, jnp.full((2,), border // 2))
        return view - self._flipped(self._cut(mean, corner), mirrored)

    def _cut(self, image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), (self.size, self.size, 3))

    @staticmethod
    def _flipped(view: jax.Array, mirrored: jax.Array | bool) -> jax.Array:
        return jnp.where(mirrored, view[:, ::-1], view)
