"""The embedded data set: drawn images whose class is a colour together with a pattern.

Twelve classes, four patterns in three colours: neither alone identifies a class. The images vary in
shape, place, size, angle, line width, shade, light and background, and have distractors in other
colours, so that a network must look for both.
"""

import concurrent.futures

import cv2
import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.host import machine
from alexnet_jax.host.progress import Progress

SIDE = 256
PATTERNS = ("stripes", "checks", "dots", "rings")
COLOURS = {"red": 0, "green": 60, "blue": 115}  # hue, in OpenCV's half degrees
CLASSES = [f"{colour}_{pattern}" for colour in COLOURS for pattern in PATTERNS]
SIZES = {"train": 6000, "validation": 1200}
_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float32)


def _grid(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in pixels about a random origin, turned by a random angle."""
    left, top = rng.uniform(80, 176, 2)
    angle = rng.uniform(0, np.pi)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    x, y = _X - float(left), _Y - float(top)
    return x * cosine + y * sine, y * cosine - x * sine


def _pattern(name: str, rng: np.random.Generator) -> np.ndarray:
    """A pattern as light and dark, (SIDE, SIDE) float32 in [0, 1]."""
    x, y = _grid(rng)
    frequency = float(2 * np.pi / rng.uniform(26, 40))
    waves = {
        "stripes": lambda: np.sin(frequency * x),
        "checks": lambda: np.sin(frequency * x) * np.sin(frequency * y) * 3,
        "dots": lambda: (np.cos(frequency * x) + np.cos(frequency * y)) * 2 - 1.6,
        "rings": lambda: np.sin(frequency * np.sqrt(x * x + y * y)),
    }
    return np.clip(0.5 + 1.5 * waves[name](), 0, 1)


def _shape(rng: np.random.Generator) -> np.ndarray:
    """Where the pattern is drawn: an ellipse or a polygon, (SIDE, SIDE) float32 in [0, 1]."""
    centre, radius = rng.uniform(108, 148, 2), rng.uniform(90, 120)
    corners = int(rng.integers(3, 9))
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    if corners > 6:
        angles = np.linspace(0, 2 * np.pi, 60)
    stretch = rng.uniform(0.8, 1.2, 2)
    points = centre + radius * stretch * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
    return mask.astype(np.float32) / 255


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    pixel = np.array([[[hue % 180, saturation, value]]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Cloudy grey-brown, (SIDE, SIDE, 3) float32."""
    coarse = rng.random((int(rng.integers(3, 10)),) * 2, np.float32)
    clouds = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)[..., None]
    ends = [_rgb(rng.uniform(0, 180), rng.uniform(0, 70), rng.uniform(40, 220)) for _ in range(2)]
    return ends[0] + clouds * (ends[1] - ends[0])


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
    """Draws one image of class `label`, (SIDE, SIDE, 3) uint8 RGB."""
    colour, pattern = CLASSES[label].split("_")
    image = _background(rng)
    for _ in range(int(rng.integers(0, 4))):  # small plain discs of any colour, to mislead
        place = tuple(int(v) for v in rng.integers(0, SIDE, 2))
        disc = _rgb(rng.uniform(0, 180), 200, rng.uniform(60, 255)).tolist()
        cv2.circle(image, place, int(rng.integers(8, 26)), disc, -1, cv2.LINE_AA)
    hue = COLOURS[colour] + rng.normal(0, 5)
    light = _rgb(hue, rng.uniform(150, 255), rng.uniform(150, 255))
    dark = light * float(rng.uniform(0.1, 0.4))
    waves = _pattern(pattern, rng)[..., None]
    mask = _shape(rng)[..., None]
    image += mask * (dark + waves * (light - dark) - image)
    image *= float(rng.uniform(0.8, 1.1))
    grain = rng.standard_normal((SIDE // 2, SIDE // 2), np.float32) * 8
    image += cv2.resize(grain, (SIDE, SIDE))[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def example(stream: int, i: int) -> dict[str, object]:
    """Draws image `i` of split number `stream`: a function of the two alone."""
    rng = np.random.Generator(np.random.Philox(key=np.array([stream, i], np.uint64)))
    label = i % len(CLASSES)
    bgr = cv2.cvtColor(draw(label, rng), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    return {"image": encoded.tobytes(), "label": label}


class DrawnPatterns(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of the drawn images."""

    name = "drawn_patterns"
    VERSION = tfds.core.Version("1.1.0")
    # TFDS would look for a package with metadata files; everything is said in `_info`.
    pkg_dir_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Shapes filled with a pattern in a colour; the class is both together.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):  # noqa: ANN001, ANN202 - TFDS's signature
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split: str):  # noqa: ANN202
        stream, count = list(SIZES).index(split), SIZES[split]
        with (
            concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool,
            Progress(f"draw {split}", 0, count, "image") as bar,
        ):
            for i, drawn in enumerate(pool.map(lambda i: example(stream, i), range(count))):
                yield i, drawn
                bar.advance()
