"""Colour statistics of a training split: mean image, channel means, covariance and its axes.

Sums are whole numbers, so that they are exact and the same in whatever order images are added.
"""

import dataclasses
import pathlib

import cv2
import numpy as np

from alexnet_jax.data.types import DataError
from alexnet_jax.host import files

FILE = "statistics.npz"
MOST_IMAGES = 2**24 // 255  # a pixel's float32 sum of this many is still exact


class PixelSums:
    """Running sums over images of (side, side, 3) uint8.

    Attributes:
      count: images added.
      products: sums over all pixels of channel times channel, (3, 3) int64.
    """

    def __init__(self, side: int) -> None:
        self.count = 0
        self.products = np.zeros((3, 3), np.int64)
        self._shape = (side, side, 3)
        # Total sums in int64, and sums of recent images in float32, which is faster to add to. Each
        # is made only when needed: a shard's sums go to another process in half the bytes.
        self._whole: np.ndarray | None = None
        self._recent: np.ndarray | None = None
        self._recent_count = 0

    @classmethod
    def of(cls, count: int, pixels: np.ndarray, products: np.ndarray) -> "PixelSums":
        """Returns sums that were kept, as copies."""
        sums = cls(pixels.shape[0])
        sums.count, sums._whole, sums.products = count, pixels.copy(), products.copy()
        return sums

    @property
    def pixels(self) -> np.ndarray:
        """Sum of each pixel and channel, (side, side, 3) int64; later images change it."""
        return self._folded()

    def add(self, image: np.ndarray) -> None:
        """Adds one image."""
        if self._recent_count == MOST_IMAGES:
            self._folded()
        if self._recent is None:
            self._recent = np.zeros(self._shape, np.float32)
        cv2.accumulate(image, self._recent)
        self._recent_count += 1
        self.count += 1
        # OpenCV sums squares of bytes in whole numbers, ten times faster than a product of floats:
        # 2 a b = a a + b b - (a - b) (a - b).
        planes = cv2.split(image)
        squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]
        for i in range(3):
            self.products[i, i] += squares[i]
            for j in range(i):
                apart = round(cv2.norm(planes[i], planes[j], cv2.NORM_L2SQR))
                product = (squares[i] + squares[j] - apart) // 2
                self.products[i, j] += product
                self.products[j, i] += product

    def merge(self, other: "PixelSums") -> None:
        """Adds what another has seen."""
        self.count += other.count
        self.products += other.products
        whole = self._folded()
        for pixels in (other._whole, other._recent):
            if pixels is not None:
                whole += pixels.astype(np.int64)

    def _folded(self) -> np.ndarray:
        """Adds the sums of recent images to the total sums, and returns the total."""
        if self._whole is None:
            self._whole = np.zeros(self._shape, np.int64)
        if self._recent is not None:
            self._whole += self._recent.astype(np.int64)
        self._recent, self._recent_count = None, 0
        return self._whole


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of all pixels of a training split, on 0..255, RGB.

    Attributes:
      mean_image: (side, side, 3) float32 (paper section 2).
      channel_mean: (3,) float64.
      covariance: (3, 3) float64, of the channels over all pixels of all images.
      stdevs: (3,) float64, along the axes, rising (`color_pca` of the authors' input_meta).
      axes: (3, 3) float64, the covariance's eigenvectors as columns.
    """

    mean_image: np.ndarray
    channel_mean: np.ndarray
    covariance: np.ndarray
    stdevs: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, sums: PixelSums) -> "Statistics":
        """Divides the sums."""
        area = sums.pixels.shape[0] * sums.pixels.shape[1]
        number = sums.count * area
        totals = [int(total) for total in sums.pixels.sum(axis=(0, 1))]
        # In whole numbers to the last division: n^2 cov = n sum(ab) - sum(a) sum(b).
        covariance = np.array(
            [
                [
                    (number * int(sums.products[i, j]) - totals[i] * totals[j]) / number**2
                    for j in range(3)
                ]
                for i in range(3)
            ]
        )
        variances, axes = np.linalg.eigh(covariance)
        largest = np.abs(axes).argmax(axis=0)
        axes = axes * np.sign(axes[largest, range(3)])  # an axis has no sign of its own
        return cls(
            mean_image=(sums.pixels / sums.count).astype(np.float32),
            channel_mean=np.array([total / number for total in totals]),
            covariance=covariance,
            stdevs=np.sqrt(np.maximum(variances, 0)),
            axes=axes,
        )

    def fault(self, side: int) -> str:
        """Says what is wrong with them for images of this side; "" if nothing is."""
        shapes = {
            "mean_image": (side, side, 3),
            "channel_mean": (3,),
            "covariance": (3, 3),
            "stdevs": (3,),
            "axes": (3, 3),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape or values.dtype.kind != "f":
                return f"{name} is {values.dtype} {values.shape}, not floating-point {shape}"
            if not np.isfinite(values).all():
                return f"{name} holds NaN or Inf"
        return ""

    def save(self, folder: pathlib.Path) -> None:
        """Writes statistics.npz, in one step."""
        temporary = folder / f".{FILE}"
        with temporary.open("wb") as file:
            np.savez(file, **dataclasses.asdict(self))
        temporary.replace(folder / FILE)

    @classmethod
    def load(cls, folder: pathlib.Path) -> "Statistics":
        """Reads statistics.npz.

        Raises:
          DataError: it is missing or damaged.
        """
        try:
            arrays = files.read_arrays(folder / FILE)
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})
        except files.DamagedFileError as error:
            raise DataError(f"{error}; restore it, or prepare the store again") from error
        except KeyError as error:
            raise DataError(f"{folder / FILE}: has no {error}; prepare the store again") from error
