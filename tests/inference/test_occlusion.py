"""Occlusion, with a network whose answer is known to depend on one corner."""

import types

import numpy as np
import pytest

from alexnet_jax.figures import occlusion as figure
from alexnet_jax.inference import occlusion


class OfACorner:
    """Scores class 1 by the brightness of the photograph's lower left corner."""

    config = types.SimpleNamespace(resize=40, image_size=32, exif_orientation=False)
    setup = types.SimpleNamespace(views=types.SimpleNamespace(mean=np.array([10.0, 20.0, 30.0])))

    def features(self, images: np.ndarray, layer: str) -> np.ndarray:
        assert layer == "fc8"
        seen = images[:, 4:36, 4:36].astype(np.float32)  # the centre crop
        light = seen[:, -8:, :8].mean(axis=(1, 2, 3)) / 255
        return np.stack([0 * light, 20 * light, 0 * light - 5], axis=1)

    def class_name(self, index: int) -> str:
        return f"class {index}"


def test_the_place_that_the_answer_needs_is_found():
    white = np.full((40, 40, 3), 255, np.uint8)
    found = occlusion.covered(OfACorner(), white, patch=8, places=4)
    assert (found.answer, found.patch, found.image.shape) == ("class 1", 8, (32, 32, 3))
    assert found.left.shape == (4, 4) and found.left.argmin() == 12
    elsewhere = np.delete(found.left.ravel(), 12)
    np.testing.assert_allclose(elsewhere, found.odds)
    assert found.left[3, 0] == pytest.approx(20 * 20 / 255 - np.log(1 + np.exp(-5)), abs=1e-6)


def test_odds_are_exact_where_the_probability_is_one():
    logits = np.array([[60.0, 1.0, 2.0], [0.0, 0.0, 0.0]], np.float32)
    expected = [60 - np.log(np.exp(1.0) + np.exp(2.0)), -np.log(2)]
    np.testing.assert_allclose(occlusion._odds(logits, 0), expected, rtol=1e-6)


def test_a_row_for_each_photograph():
    white = np.full((40, 40, 3), 255, np.uint8)
    found = [occlusion.covered(OfACorner(), white, patch=8, places=3)] * 2
    drawn = figure.draw(found)
    titles = [axis.get_title() for axis in drawn.axes]
    assert titles.count("class 1: over 99.9 %") == 2
    assert any(title.startswith("covered there, down to ") for title in titles)


def test_what_is_light_is_where_the_square_cost_most():
    white = np.full((40, 40, 3), 255, np.uint8)
    drawn = figure.draw([occlusion.covered(OfACorner(), white, patch=8, places=4)])
    photograph, dark = drawn.axes[2].images
    shade = dark.get_array()[:, :, 3]
    assert shade.shape == photograph.get_array().shape[:2] == (32, 32)
    assert (shade[28:, :4] < 0.01).all()  # about the square's middle, 4 pixels from both edges
    assert (shade[:20] > 0.8).all() and (shade[:, 12:] > 0.8).all()
    left, right, bottom, top = drawn.axes[1].images[0].get_extent()
    assert (left, right, bottom, top) == (0, 32, 32, 0)  # four squares of 8 fill it
    found = occlusion.covered(OfACorner(), white, patch=8, places=7)
    assert figure.draw([found]).axes[1].images[0].get_extent() == [2, 30, 30, 2]
