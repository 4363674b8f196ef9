"""Image files to uint8 squares: the authors' resize rule (cuda-convnet2 make-data, pyext.cpp)."""

import io
import os
from typing import NamedTuple

MOST_PIXELS = 2**28  # of an image, before and after it is enlarged: 0.8 GB, more than any camera's
# OpenCV checks the header of every format against this; it reads the variable when it is loaded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import simplejpeg  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

from alexnet_jax.data.types import DataError, Example, Source  # noqa: E402

cv2.setNumThreads(0)  # the readers are the threads

HOLE = 128  # zero bytes in a row that no picture has


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
      DataError: names the file: it cannot be decoded, the decoder had to invent pixels, or it has
        more than MOST_PIXELS.
    """
    try:
        if encoded[:2] == b"\xff\xd8":
            image = _decode_jpeg(encoded, name, exif_orientation)
        else:
            _refuse_large(_png_size(encoded), name)
            image = _decode_by_opencv(encoded, name, exif_orientation)
        return centre_square(image, side)
    except cv2.error as error:
        raise DataError(f"{name}: is not a readable image ({error.err})") from error


def _decode_by_opencv(encoded: bytes, name: str, exif_orientation: bool) -> np.ndarray:
    flags = cv2.IMREAD_COLOR_RGB | (0 if exif_orientation else cv2.IMREAD_IGNORE_ORIENTATION)
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    if image is None:
        raise DataError(f"{name}: is not a readable image, or it is cut short")
    return image


def _decode_jpeg(encoded: bytes, name: str, exif_orientation: bool) -> np.ndarray:
    """Decodes a JPEG with a decoder that reports when it had to invent pixels.

    simplejpeg and OpenCV use the same decoder and give the same pixels; OpenCV does not report it.
    """
    frame = _jpeg_frame(encoded)
    if frame:
        _refuse_large((frame.width, frame.height), name)
        if frame.components == 4:
            return _decode_cmyk(encoded, name, exif_orientation)
        end = encoded.find(b"\xff\xd9", frame.scan)  # padding may follow
        hole = encoded.find(bytes(HOLE), frame.scan, end if end >= 0 else None)
        if frame.baseline and hole >= 0 and not _zeros_are_flat(encoded):
            raise DataError(
                f"{name}: is not a readable image: zero bytes from byte {hole:,} on are no picture"
            )
    try:
        image = simplejpeg.decode_jpeg(encoded, "RGB")
    except ValueError as error:
        reason = str(error)
        invented = "Corrupt JPEG data" in reason or "remature end" in reason
        if invented and "extraneous" not in reason:
            raise DataError(
                f"{name}: is not a readable image, or it is cut short ({reason.strip()})"
            ) from error
        return _decode_by_opencv(encoded, name, exif_orientation)  # simplejpeg lacks this kind
    # simplejpeg does not read EXIF: here it has only looked for damage.
    return _decode_by_opencv(encoded, name, True) if exif_orientation else image


class _Frame(NamedTuple):
    """What the header of a JPEG's frame says, and where its first scan begins."""

    width: int
    height: int
    components: int
    baseline: bool  # one scan, in order
    scan: int


def _jpeg_frame(encoded: bytes) -> _Frame | None:
    """Reads a JPEG's frame header (ITU T.81, B.2.2); None where there is none."""
    at, frame = 2, None
    while at + 9 < len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            at += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(encoded[at + k : at + k + 2], "big") for k in (5, 7))
            frame = _Frame(width, height, encoded[at + 9], marker <= 0xC1, at)
        if marker == 0xDA:
            break
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return frame and frame._replace(scan=at)


def _zeros_are_flat(encoded: bytes) -> bool:
    """Can zero bytes be a flat part of the picture? Yes, if the shortest code of every AC table
    means "end of block", as in tables that were made for this image. Otherwise each zero bit would
    be a coefficient of its own, in all places of many blocks (T.81, B.2.4.2)."""
    at = 2
    while at + 21 < len(encoded) and encoded[at] == 0xFF and encoded[at + 1] != 0xDA:
        length = int.from_bytes(encoded[at + 2 : at + 4], "big")
        if encoded[at + 1] == 0xC4:
            table, end = at + 4, at + 2 + length
            while table + 17 < end:
                counts = encoded[table + 1 : table + 17]
                if encoded[table] >> 4 and encoded[table + 17] != 0:
                    return False
                table += 17 + sum(counts)
        at += 2 + length
    return True


def _png_size(encoded: bytes) -> tuple[int, int]:
    if encoded[:8] != b"\x89PNG\r\n\x1a\n":
        return 0, 0  # OpenCV's own bound
    return int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")


def _refuse_large(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"{name}: has {size[0]:,} x {size[1]:,} pixels; at most {MOST_PIXELS:,} are decoded"
        )


def _decode_cmyk(encoded: bytes, name: str, exif_orientation: bool) -> np.ndarray:
    """Decodes with Pillow, the usual reference for colours: OpenCV's differ by up to 2."""
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
    if scale > 1 and height * width * scale**2 > MOST_PIXELS:
        image = _middle(image, 2 * side)
        height, width = image.shape[:2]
    if scale != 1:
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        image = cv2.resize(image, size, interpolation=_kernel(scale))
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def _middle(image: np.ndarray, most: int) -> np.ndarray:
    """Crops a strip at both ends to at most `most` long, or to a square if that is longer."""
    slices = []
    for length, other in zip(image.shape[:2], image.shape[1::-1], strict=True):
        cropped = min(length, max(most, other))
        cropped += (length - cropped) % 2  # or the middle would move by half a pixel
        first = (length - cropped) // 2
        slices.append(slice(first, first + cropped))
    return image[slices[0], slices[1]]


def _kernel(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
