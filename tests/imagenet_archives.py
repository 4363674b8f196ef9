"""Small archives with the names and the structure of ImageNet's."""

import io
import pathlib
import tarfile

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# Photographs for which TFDS needs TensorFlow (its dataset builder lists them).
PNG = "n02105855_2933"
CMYK = """n01739381_1309 n02077923_14822 n02447366_23489 n02492035_15739 n02747177_10752
n03018349_4028 n03062245_4620 n03347037_9675 n03467068_12171 n03529860_11437 n03544143_17228
n03633091_5218 n03710637_5125 n03961711_5286 n04033995_2932 n04258138_17003 n04264628_27969
n04336792_7448 n04371774_5854 n04596742_4225 n07583066_647 n13037406_4650""".split()
LABELS = tfds.core.tfds_path("datasets/imagenet2012")


def photograph(seed: int, kind: str = "RGB") -> bytes:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = cv2.resize(small, (90 + seed % 7, 80), interpolation=cv2.INTER_CUBIC)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert(kind)
    image.save(buffer, "PNG" if kind == "P" else "JPEG", quality=90)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    archive.addfile(about, io.BytesIO(data))


def write_archives(folder: pathlib.Path, each: int = 1, truncated: int = 0) -> dict[str, int]:
    """Writes the three archives; returns how many images are in each.

    Every class has an archive of its own; the 23 odd files have their own names and kinds; the
    images of the first `truncated` classes are cut short.
    """
    folder.mkdir(parents=True)
    classes = (LABELS / "labels.txt").read_text().split()
    counts = {"train": 0, "validation": 30, "test": 20}
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for i, wnid in enumerate(classes):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for k in range(each):
                    data = photograph(i * each + k)
                    add(
                        inner, f"{wnid}_{k}.JPEG", data[: len(data) // 3] if i < truncated else data
                    )
                    counts["train"] += 1
                for odd, kind in [(PNG, "P"), *((name, "CMYK") for name in CMYK)]:
                    if odd.startswith(wnid):
                        add(inner, f"{odd}.JPEG", photograph(i, kind))
                        counts["train"] += 1
            add(outer, f"{wnid}.tar", buffer.getvalue())
    for split, file in (("validation", "val"), ("test", "test")):
        with tarfile.open(folder / f"ILSVRC2012_img_{file}.tar", "w") as archive:
            for i in reversed(range(1, counts[split] + 1)):  # in no order of their own
                add(archive, f"ILSVRC2012_{file}_{i:08}.JPEG", photograph(i))
    return counts
