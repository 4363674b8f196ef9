"""Image files to uint8 squares: the authors' resize rule (cuda-convnet2 make-data, pyext.cpp)."""

import cv2
import numpy as np

from alexnet_jax.data.types import DataError, Example

cv2.setNumThreads(0)  # the readers are the threads


def decode(encoded: bytes, name: str, side: int, exif_orientation: bool = False) -> np.ndarray:
    """Decodes a file and cuts its centre square, the short side resized to `side`.

    Grey, palette, transparent and CMYK images become RGB; transparency is dropped.

    Args:
      encoded: the bytes of a JPEG, PNG or other file that OpenCV reads.
      name: the file, for the error.
      side: pixels of the result.
      exif_orientation: turn the image as its EXIF field says; ImageNet's figures are without.

    Returns:
      (side, side, 3) uint8, RGB.

    Raises:
      DataError: names a file that cannot be decoded.
    """
    flags = cv2.IMREAD_COLOR_RGB | (0 if exif_orientation else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{name}: is not a readable image ({error.err})") from error
    if image is None:
        raise DataError(f"{name}: is not a readable image, or it is cut short")
    return centre_square(image, side)


def square(example: Example, where: str, side: int, exif_orientation: bool = False) -> np.ndarray:
    """Returns an example's pixels, decoded and cut where they are not: (side, side, 3) uint8 RGB.

    Args:
      example: what a source holds.
      where: it lies, for the error.
      side: pixels of the result.
      exif_orientation: as for `decode`.

    Raises:
      DataError: names a file that cannot be decoded.
    """
    if isinstance(example.image, np.ndarray):
        return centre_square(example.image, side)
    name = where if where.endswith(example.name) else f"{where} {example.name}"
    return decode(example.image, name, side, exif_orientation)


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes the short side of (H, W, 3) uint8 to `side` and cuts the centre.

    Area averaging where the image shrinks, cubic where it grows.
    """
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale != 1:
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        image = cv2.resize(image, size, interpolation=_kernel(scale))
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def _kernel(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
