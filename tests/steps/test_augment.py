import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import configs
from alexnet_jax.config import AugmentConfig, Config
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.steps import augment


def batch(count=64, side=24, epoch=0):
    # Each pixel says where it is: red its row, green its column.
    image = np.zeros((count, side, side, 3), np.uint8)
    image[..., 0], image[..., 1] = np.mgrid[:side, :side]
    numbers = np.arange(count, dtype=np.int32)
    return {
        "image": jnp.asarray(image),
        "index": jnp.asarray(numbers),
        "position": jnp.asarray(numbers),
        "epoch": jnp.full(count, epoch, jnp.int32),
    }


def plain(**changes) -> AugmentConfig:
    return AugmentConfig(**({"lighting": "none", "mean": (0.0, 0.0, 0.0)} | changes))


def seen(config, size=20, statistics=None) -> augment.Views:
    return augment.Views.of(Config(image_size=size, augment=config), statistics)


def draw(values, config, size=20, seed=0):
    return np.asarray(seen(config, size).training(values, jax.random.key(seed)))


def corners(view):
    """Row, column of the top left pixel, and whether the view is mirrored."""
    mirrored = view[:, 0, 0, 1] > view[:, 0, -1, 1]
    return np.stack([view[:, 0, 0, 0], view[:, 0, :, 1].min(axis=1), mirrored], axis=1).astype(int)


@pytest.mark.parametrize("recipe", ["original_code", "paper"])
def test_every_crop_and_flip_occurs_and_no_other(recipe):
    """33 x 33 x 2 in the code's preset, 30 x 30 x 2 with 227: the border decides."""
    config = configs.get(recipe)
    border = config.resize - config.image_size
    values, found = batch(8192, 4 + border), set()
    for epoch in range(5):
        values["epoch"] = jnp.full(8192, epoch, jnp.int32)
        found |= {tuple(row) for row in corners(draw(values, plain(), 4))}
    assert len(found) == {"original_code": 33 * 33 * 2, "paper": 30 * 30 * 2}[recipe]
    places = range(border + 1)
    assert found == {(y, x, f) for y in places for x in places for f in (0, 1)}


def test_draws_belong_to_the_example_and_epoch():
    whole, values = draw(batch(), AugmentConfig()), batch()
    shuffled = jax.tree.map(lambda a: a[::-1][:10], values)
    np.testing.assert_array_equal(draw(shuffled, AugmentConfig()), whole[::-1][:10])
    assert (draw(batch(epoch=1), plain()) != draw(values, plain())).any()
    assert (draw(values, plain(), seed=1) != draw(values, plain())).any()


def test_a_chunk_shares_its_crop_and_flip_but_not_its_lighting():
    rows = corners(draw(batch(96), plain(chunk=32)))
    for chunk in rows.reshape(3, 32, 3):
        assert (chunk == chunk[0]).all()
    assert len({tuple(row) for row in rows}) > 1
    lit = draw(batch(32), plain(chunk=32, lighting="stddev"))
    assert len(np.unique(lit[:, 0, 0, 2])) == 32


def test_centre_without_random_crops():
    rows = corners(draw(batch(), plain(random_crop=False, flip=False)))
    assert {tuple(row) for row in rows} == {(2, 2, 0)}


@pytest.mark.parametrize("name", ["stddev", "eigenvalue_unit_range"])
def test_lighting_has_the_colour_covariance(name):
    config = plain(lighting=name)
    keys = jax.random.split(jax.random.key(0), 1_000_000)
    drawn = np.asarray(jax.vmap(seen(config).lighting)(keys), np.float64)
    scales, axes = augment.LIGHTING[name]
    along = drawn @ axes  # the axes are orthonormal to four digits
    np.testing.assert_allclose(along.var(axis=0), (0.1 * scales) ** 2, rtol=0.01)
    np.testing.assert_allclose(np.corrcoef(along.T), np.eye(3), atol=0.01)


def test_lighting_constants_are_the_authors(shared_data):
    oracle = np.load(shared_data / "oracles" / "cuda_convnet2_input_meta.npz")
    np.testing.assert_allclose(augment.STDDEV_SCALES, oracle["stdevs"], rtol=1e-8)
    np.testing.assert_allclose(augment.STDDEV_AXES, oracle["vecs"], rtol=1e-7)
    mean = oracle["data_mean"].reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(AugmentConfig().mean, mean, atol=1e-3)


def test_lighting_ends_at_its_epoch_and_so_does_the_division_for_it():
    """In the authors' convdata_jpeg.py one condition covers both: that there is noise."""
    config = plain(lighting="stddev", lighting_off_epoch=3, lighting_rescale=1.1, pixel_std=(2.0,))
    clean = draw(batch(epoch=3), plain())
    np.testing.assert_allclose(draw(batch(epoch=3), config), clean / 2, rtol=1e-6)
    lit = dataclasses.replace(config, lighting_rescale=1.0)
    noisy = draw(batch(epoch=2), lit)
    assert np.abs(noisy[..., 2]).max() > 0
    np.testing.assert_allclose(draw(batch(epoch=2), config), noisy / 1.1, rtol=1e-6)
    unlit = plain(lighting="none", lighting_rescale=1.1)
    np.testing.assert_array_equal(draw(batch(epoch=2), unlit), draw(batch(epoch=2), plain()))


def test_mean_and_scale():
    config = plain(mean=(1.0, 2.0, 3.0), pixel_std=(2.0,), random_crop=False, flip=False)
    view = draw(batch(), config)
    np.testing.assert_allclose(view[0, 0, 0], [(2 - 1) / 2, (2 - 2) / 2, (0 - 3) / 2])


def test_ten_views_are_corners_and_centre_and_mirrors():
    views = seen(plain()).evaluation(batch(2)["image"], 10)
    rows = [tuple(corners(np.asarray(view))[0]) for view in views]
    places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    assert rows == [(*p, 0) for p in places] + [(*p, 1) for p in places]
    (centre,) = seen(plain()).evaluation(batch(2)["image"], 1)
    np.testing.assert_array_equal(centre, views[4])


def statistics(side=24) -> Statistics:
    # The mean says where it belongs: red its row, green its column, blue 7.
    mean = np.zeros((side, side, 3), np.float32)
    mean[..., 0], mean[..., 1] = np.mgrid[:side, :side]
    mean[..., 2] = 7
    stdevs, axes = np.array([1.0, 2.0, 30.0]), np.eye(3)[::-1]
    return Statistics(mean, mean.mean(axis=(0, 1)), np.eye(3), stdevs, axes)


def test_a_moving_mean_image_is_subtracted_where_each_pixel_lies():
    """The images of `batch` equal the mean image except in blue: only -7 of blue is left."""
    views = seen(plain(mean_image="moving"), statistics=statistics())
    drawn = np.asarray(views.training(batch(), jax.random.key(0)))
    np.testing.assert_array_equal(drawn, np.broadcast_to([0.0, 0.0, -7.0], drawn.shape))
    for view in views.evaluation(batch(2)["image"], 10):
        np.testing.assert_array_equal(view, np.broadcast_to([0.0, 0.0, -7.0], view.shape))


def test_a_centre_mean_image_stays_where_it_is():
    values = batch()
    views = seen(plain(mean_image="centre"), statistics=statistics())
    drawn = np.asarray(views.training(values, jax.random.key(0)))
    rows, columns = np.mgrid[2:22, 2:22]
    whole = draw(values, plain())
    np.testing.assert_array_equal(drawn[..., 0], whole[..., 0] - rows)
    np.testing.assert_array_equal(drawn[..., 1], whole[..., 1] - columns)


def test_constants_come_from_a_store_unless_pinned():
    config = plain(lighting="stddev", lighting_std=0.1)
    views = seen(config, statistics=statistics())
    np.testing.assert_allclose(views.mean, [11.5, 11.5, 7])
    np.testing.assert_allclose(views.colour, np.eye(3)[::-1] * [0.1, 0.2, 3.0], rtol=1e-6)
    unit = plain(lighting="eigenvalue_unit_range", lighting_std=0.1)
    expected = np.eye(3)[::-1] * [0.1 / 255, 0.4 / 255, 90 / 255]
    np.testing.assert_allclose(seen(unit, statistics=statistics()).colour, expected, rtol=1e-6)
    pinned = seen(plain(lighting="stddev", statistics="imagenet"), statistics=statistics())
    np.testing.assert_allclose(pinned.colour, augment.STDDEV_AXES * augment.STDDEV_SCALES * 0.1)
    np.testing.assert_array_equal(pinned.mean, [0, 0, 0])
