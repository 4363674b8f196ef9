"""Squares of a photograph covered one after the other (Zeiler and Fergus 2014, section 4.2)."""

import numpy as np

from alexnet_jax.data.words import spoken
from alexnet_jax.figures.occlusion import Covered
from alexnet_jax.inference.images import AnyImage, squares
from alexnet_jax.inference.network import Network


def covered(network: Network, image: AnyImage, patch: int = 0, places: int = 15) -> Covered:
    """Covers a square at a time with the training images' mean colour.

    Args:
      network: from `inference.load`.
      image: a path, an image of PIL's, or pixels.
      patch: side of the square in pixels; 0: a fifth of the crop.
      places: in each direction, evenly over the crop that one view sees.

    Returns:
      The photograph's centre crop, and the likeliest class's log-odds at each place.
    """
    c = network.config
    pixels, _ = squares(image, c.resize, c.exif_orientation)
    patch = patch or max(1, c.image_size // 5)
    inside = (c.resize - c.image_size) // 2
    starts = inside + np.linspace(0, c.image_size - patch, places).round().astype(int)
    mean = np.asarray(network.setup.views.mean).reshape(-1, 3).mean(axis=0).round()
    whole = network.features(pixels[:1], "fc8")
    answer = int(whole.argmax())
    corners = [(y, x) for y in starts for x in starts]
    variants = np.repeat(pixels[:1], len(corners), axis=0)
    for one, (y, x) in zip(variants, corners, strict=True):
        one[y : y + patch, x : x + patch] = mean
    left = _odds(network.features(variants, "fc8"), answer)
    crop = pixels[0, inside : inside + c.image_size, inside : inside + c.image_size]
    odds = float(_odds(whole, answer)[0])
    return Covered(
        crop, spoken(network.class_name(answer)), odds, left.reshape(places, places), patch
    )


def _odds(logits: np.ndarray, answer: int) -> np.ndarray:
    """Returns log odds log(p / (1 - p)) of a class from (N, K) logits, accurate even near p = 1."""
    others = np.delete(logits, answer, axis=1).astype(np.float64)
    most = others.max(axis=1)
    return logits[:, answer] - most - np.log(np.exp(others - most[:, None]).sum(axis=1))
