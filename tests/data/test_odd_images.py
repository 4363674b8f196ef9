"""Odd images as found on users' disks: decoded as Pillow does, or refused by name."""

import io
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.decode import MOST_PIXELS, centre_square, decode
from alexnet_jax.data.types import DataError

SIDE = 64


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC))


def encoded(image: Image.Image, form: str, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


KINDS = {
    "jpeg": lambda p: encoded(p, "JPEG", quality=90),
    "progressive": lambda p: encoded(p, "JPEG", progressive=True),
    "4:4:4": lambda p: encoded(p, "JPEG", subsampling=0),
    "4:2:2": lambda p: encoded(p, "JPEG", subsampling=1),
    "own tables": lambda p: encoded(p, "JPEG", optimize=True),
    "restart markers": lambda p: encoded(p, "JPEG", restart_marker_blocks=2),
    "grey jpeg": lambda p: encoded(p.convert("L"), "JPEG"),
    "cmyk": lambda p: encoded(p.convert("CMYK"), "JPEG"),
    "png": lambda p: encoded(p, "PNG"),
    "grey png": lambda p: encoded(p.convert("L"), "PNG"),
    "palette": lambda p: encoded(p.convert("P"), "PNG"),
    "bilevel": lambda p: encoded(p.convert("1"), "PNG"),
    "bmp": lambda p: encoded(p, "BMP"),
    "tiff": lambda p: encoded(p, "TIFF", compression="tiff_lzw"),
    "webp": lambda p: encoded(p, "WEBP", lossless=True),
    "ppm": lambda p: encoded(p, "PPM"),
    "icc": lambda p: encoded(p, "JPEG", icc_profile=b"x" * 300),
    "comment": lambda p: encoded(p, "JPEG", comment=b"\xff" * 500),
    "bytes after the end": lambda p: encoded(p, "JPEG") + b"\0" * 500 + b"trailer",
    "flat": lambda p: encoded(Image.new("RGB", (2000, 2000), (9, 200, 30)), "JPEG", optimize=True),
    "flat, common tables": lambda p: encoded(Image.new("RGB", (2000, 2000), "white"), "JPEG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_pillow_s_pixels(photograph, kind):
    data = KINDS[kind](photograph)
    with Image.open(io.BytesIO(data)) as opened:
        wanted = centre_square(np.asarray(opened.convert("RGB")), SIDE)
    np.testing.assert_array_equal(decode(data, "x", SIDE), wanted)


def test_simplejpeg_and_opencv_have_the_same_pixels(photograph):
    for kind in ("jpeg", "progressive", "4:4:4", "4:2:2", "own tables", "grey jpeg"):
        data = KINDS[kind](photograph)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(decode(data, "x", SIDE), centre_square(image, SIDE))


def test_extraneous_bytes_are_skipped(photograph):
    data = encoded(photograph, "JPEG")
    odd = data[:-2] + b"\x12" * 40 + data[-2:]
    np.testing.assert_array_equal(decode(odd, "x", SIDE), decode(data, "x", SIDE))


def damaged(data: bytes, kind: str) -> bytes:
    middle = len(data) // 2
    if kind == "hole":
        return data[:middle] + bytes(600) + data[middle + 600 :]
    if kind == "cut":
        return data[:middle]
    return data[: data.index(b"\xff\xda") + 20]


@pytest.mark.parametrize("kind", ["hole", "cut", "no scan"])
def test_a_jpeg_whose_decoder_had_to_make_pixels_up_is_bad(photograph, kind):
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    data = damaged(encoded(Image.fromarray(noise), "JPEG", quality=90), kind)
    with pytest.raises(DataError, match="holiday.jpg: is not a readable image") as raised:
        decode(data, "holiday.jpg", SIDE)
    assert "\n" not in str(raised.value)


def header(width: int, height: int) -> bytes:
    """The first bytes of a PNG of any size; no pixels follow."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")


def test_an_image_is_refused_by_its_header():
    jpeg = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    for data in (header(30_000, 30_000), header(2**31 - 1, 2**31 - 1), bytes(jpeg)):
        with pytest.raises(DataError, match=f"at most {MOST_PIXELS:,} are decoded"):
            decode(data, "x", SIDE)


STRIP = """
import io, resource, sys
import numpy as np
from PIL import Image
from alexnet_jax.data.decode import decode
size = tuple(map(int, sys.argv[1:3]))
file = io.BytesIO()
Image.fromarray(np.zeros(size[::-1], np.uint8)).save(file, "PNG")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(decode(file.getvalue(), "x", 256).shape)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 65_000), (3, 60_000)])
def test_a_strip_takes_no_more_than_any_image(size):
    done = subprocess.run(
        [sys.executable, "-c", STRIP, *map(str, size)], capture_output=True, text=True, check=True
    )
    shape, mib = done.stdout.splitlines()
    assert shape == "(256, 256, 3)" and int(mib) < 300


def test_a_strip_s_middle_stays_its_middle():
    strip = np.zeros((1, 20_001, 3), np.uint8)
    strip[:, 10_000] = 255
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "PNG")
    columns = decode(file.getvalue(), "x", 256).mean(axis=(0, 2))
    assert columns[128] == columns.max() == 255
    np.testing.assert_allclose(columns, columns[::-1], atol=2)


def test_mutated_images_are_decoded_or_refused(photograph):
    rng = random.Random(1)
    for kind in ("jpeg", "progressive", "png", "webp", "tiff", "bmp", "cmyk"):
        data = KINDS[kind](photograph)
        for _ in range(25):
            changed = bytearray(data)
            for _ in range(rng.choice([1, 4, 40])):
                changed[rng.randrange(len(data))] = rng.randrange(256)
            try:
                assert decode(bytes(changed), "x.jpg", SIDE).shape == (SIDE, SIDE, 3)
            except DataError as error:
                assert str(error).startswith("x.jpg: ")
