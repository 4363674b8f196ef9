"""Image files to uint8 squares: the authors' resize rule (cuda-convnet2 make-data, pyext.cpp)."""

import io

import cv2
import numpy as np
from PIL import Image, ImageOps

from alexnet_jax.data.types import DataError, Example, Source

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
    try:
        if _is_cmyk(encoded):
            return centre_square(_decode_cmyk(encoded, name, exif_orientation), side)
        flags = cv2.IMREAD_COLOR_RGB | (0 if exif_orientation else cv2.IMREAD_IGNORE_ORIENTATION)
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        if image is None:
            raise DataError(f"{name}: is not a readable image, or it is cut short")
        return centre_square(image, side)
    except cv2.error as error:
        raise DataError(f"{name}: is not a readable image ({error.err})") from error


def _is_cmyk(encoded: bytes) -> bool:
    """Is it a JPEG of four components? Its frame header says so (ITU T.81, B.2.2)."""
    at = 2
    while encoded[:2] == b"\xff\xd8" and at + 9 < len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return encoded[at + 9] == 4
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return False


def _decode_cmyk(encoded: bytes, name: str, exif_orientation: bool) -> np.ndarray:
    """Decodes with Pillow, whose colours others compare with: OpenCV's are up to 2 apart."""
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            turned = ImageOps.exif_transpose(opened) if exif_orientation else opened
            return np.asarray(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: is not a readable image, or it is cut short ({error})") from error


def read_square(
    source: Source, index: int, side: int, exif_orientation: bool = False
) -> tuple[np.ndarray, Example]:
    """Reads an example and decodes and cuts its image, where that is not done yet.

    Returns:
      Its pixels, (side, side, 3) uint8 RGB, and the example.

    Raises:
      DataError: names a file that cannot be read or decoded.
    """
    example = source[index]
    if isinstance(example.image, np.ndarray):
        whole = example.image.shape[:2] == (side, side)
        return example.image if whole else centre_square(example.image, side), example
    where = source.where(index)
    name = where if where.endswith(example.name) else f"{where} {example.name}"
    return decode(example.image, name, side, exif_orientation), example


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
