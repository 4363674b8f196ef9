"""Images in any form (paths, PIL, pixels) as the squares that an evaluation sees."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from alexnet_jax.data.decode import centre_square, decode
from alexnet_jax.data.image_files import read_file
from alexnet_jax.data.types import DataError

# A path, an image of PIL's, or pixels: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8.
AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray


def squares(
    images: AnyImage | Iterable[AnyImage], side: int, exif_orientation: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Prepares images as an evaluation does: RGB, the short side resized, the centre cut.

    Args:
      images: one, several, or a batch of pixels (N, H, W, C).
      side: of the squares.
      exif_orientation: turn photographs as their EXIF field says.

    Returns:
      (N, side, side, 3) uint8, and what each is called: its path, or its number.

    Raises:
      DataError: names one that cannot be read, or is no image.

    >>> pixels, names = squares(np.zeros((90, 120, 3), np.uint8), side=71)
    >>> pixels.shape, names
    ((1, 71, 71, 3), ['image 0'])
    """
    source: Any = images
    if not isinstance(source, Image.Image) and hasattr(source, "__array__"):  # JAX's, torch's too
        source = np.asarray(source)
    one = isinstance(source, str | os.PathLike | Image.Image)
    if isinstance(source, np.ndarray):
        one = source.ndim < 4 and source.dtype.kind not in "OSU"
    each: list[Any] = [source] if one else list(source)  # pyright: ignore[reportArgumentType]
    if not each:
        raise DataError("there is no image to look at")
    names = [
        os.fsdecode(image) if isinstance(image, str | os.PathLike) else f"image {number}"
        for number, image in enumerate(each)
    ]
    pixels = [
        _square(image, name, side, exif_orientation)
        for image, name in zip(each, names, strict=True)
    ]
    return np.stack(pixels), names


def _square(image: Any, name: str, side: int, exif_orientation: bool) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        encoded = read_file(pathlib.Path(os.path.expanduser(os.fsdecode(image))))
        return decode(encoded, name, side, exif_orientation)
    if isinstance(image, Image.Image):
        return centre_square(_of_pil(image, name, exif_orientation), side)
    return centre_square(_rgb(np.asarray(image), name), side)


def _of_pil(image: Image.Image, name: str, exif_orientation: bool) -> np.ndarray:
    """Returns (H, W, 3) uint8; 16-bit channels keep their upper 8 bits, as in decoded files."""
    try:
        turned = ImageOps.exif_transpose(image) if exif_orientation else image
        if turned.mode.startswith("I"):
            return _rgb((np.asarray(turned) >> 8).astype(np.uint8), name)
        return np.asarray(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name}: is not a readable image, or it is cut short ({error})") from error


def _rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    """Returns (H, W, 3) uint8: grey is spread over three channels, transparency is dropped."""
    if pixels.dtype != np.uint8:
        raise DataError(
            f"{name}: is an array of {pixels.dtype}; give uint8 pixels from 0 to 255 "
            "(images of floats in [0, 1]: (255 * image).astype('uint8'))"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise DataError(f"{name}: has shape {pixels.shape}; give (H, W, 3), channels last")
    return np.ascontiguousarray(
        np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, :3]
    )
