import json
import pickle
from fractions import Fraction

import numpy as np
import pytest

from alexnet_jax.data import statistics
from alexnet_jax.data.statistics import PixelSums, Statistics
from alexnet_jax.data.types import DataError


def summed(images: np.ndarray) -> PixelSums:
    sums = PixelSums(images.shape[1])
    for image in images:
        sums.add(image)
    return sums


@pytest.fixture
def images(rng) -> np.ndarray:
    # Correlated channels, each with its own spread.
    base = rng.normal(120, 50, (30, 16, 16, 1))
    own = rng.normal(0, (5, 20, 60), (30, 16, 16, 3))
    return np.clip(base + own, 0, 255).astype(np.uint8)


def test_a_known_covariance_is_exact(images):
    """Against fractions, which do not round."""
    found = Statistics.of(summed(images))
    pixels = images.reshape(-1, 3)
    number = len(pixels)
    columns = [[int(v) for v in pixels[:, i]] for i in range(3)]
    for i in range(3):
        mean = Fraction(sum(columns[i]), number)
        assert found.channel_mean[i] == pytest.approx(float(mean), rel=1e-15)
        for j in range(3):
            product = Fraction(sum(a * b for a, b in zip(columns[i], columns[j], strict=True)))
            exact = product / number - mean * Fraction(sum(columns[j]), number)
            assert found.covariance[i, j] == pytest.approx(float(exact), rel=1e-9)
    np.testing.assert_allclose(found.mean_image, images.mean(axis=0), rtol=1e-6)
    rebuilt = found.axes * found.stdevs**2 @ found.axes.T
    np.testing.assert_allclose(rebuilt, found.covariance, rtol=1e-9)
    assert list(found.stdevs) == sorted(found.stdevs)


def test_two_colours_have_the_covariance_of_two_points():
    """Half the pixels (0, 0, 0), half (200, 100, 50): a line, with its variance along it."""
    images = np.zeros((4, 8, 8, 3), np.uint8)
    images[:, ::2] = (200, 100, 50)
    found = Statistics.of(summed(images))
    direction = np.array([200.0, 100.0, 50.0])
    np.testing.assert_allclose(found.covariance, np.outer(direction, direction) / 4, rtol=1e-12)
    np.testing.assert_allclose(found.stdevs, [0, 0, np.linalg.norm(direction) / 2], atol=1e-6)
    np.testing.assert_allclose(np.abs(found.axes[:, 2]), direction / np.linalg.norm(direction))


def test_sums_do_not_depend_on_the_order(images, monkeypatch):
    monkeypatch.setattr(statistics, "MOST_IMAGES", 7)  # sums of floats are emptied often
    parts = [summed(images[20:]), summed(images[:11]), summed(images[11:20])]
    together = parts[0]
    for part in parts[1:]:
        together.merge(part)
    whole = summed(images[::-1])
    np.testing.assert_array_equal(together.pixels, whole.pixels)
    np.testing.assert_array_equal(together.products, whole.products)
    assert together.count == whole.count == 30


def test_sums_that_were_kept_go_on(images):
    """As in a preparation that resumes after a stop."""
    begun, whole = summed(images[:12]), summed(images)
    pixels, products = begun.pixels, begun.products
    kept = PixelSums.of(12, pixels, products)
    kept.add(images[12])
    kept.merge(pickle.loads(pickle.dumps(summed(images[13:]))))
    np.testing.assert_array_equal(kept.pixels, whole.pixels)
    np.testing.assert_array_equal(kept.products, whole.products)
    assert kept.count == whole.count
    np.testing.assert_array_equal(pixels, images[:12].sum(axis=0))  # is nobody's to change
    np.testing.assert_array_equal(products, summed(images[:12]).products)


def test_white_images_do_not_overflow():
    image = np.full((4, 4, 3), 255, np.uint8)
    sums = PixelSums(4)
    for _ in range(300):
        sums.add(image)
    found = Statistics.of(sums)
    np.testing.assert_array_equal(found.channel_mean, 255)
    np.testing.assert_array_equal(found.covariance, 0)


def test_statistics_are_kept_and_damage_is_named(images, tmp_path):
    found = Statistics.of(summed(images))
    found.save(tmp_path)
    again = Statistics.load(tmp_path)
    for name in ("mean_image", "covariance", "stdevs", "axes", "channel_mean"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    path = tmp_path / statistics.FILE
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"statistics.npz: cannot be read"):
        Statistics.load(tmp_path)
    path.write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"statistics.npz: cannot be read"):
        Statistics.load(tmp_path)
