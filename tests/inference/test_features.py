import dataclasses

import numpy as np
import pytest

from alexnet_jax.config import ConfigError
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.inference import features, trained


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


def test_fc8_of_a_split_is_the_logits_and_fc7_what_they_are_made_of(run):
    network = trained.load(run / "w")
    reader = ImageReader(open_dataset(network.config).open("val"), 71)

    def whole(layer: str) -> tuple[np.ndarray, np.ndarray]:
        parts = list(features.of_split(network, reader, [layer]))
        return np.concatenate([p[0][layer] for p in parts]), np.concatenate([p[1] for p in parts])

    logits, labels = whole("fc8")
    assert (logits.shape, labels.shape) == ((14, 2), (14,))
    fc7, _ = whole("fc7")
    assert fc7.shape == (14, 256)
    assert fc7.min() == 0
    fc8 = network.params["fc8"]
    again = fc7 @ np.asarray(fc8["kernel"]) + np.asarray(fc8["bias"])
    np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-5)
    image = np.empty((1, 71, 71, 3), np.uint8)
    for i in (0, 13):
        reader.read(np.array([i]), image)
        alone = np.asarray(features.activations(network, "fc7")(image))[0]
        np.testing.assert_allclose(alone, fc7[i], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="layer: fc9 is not known; did you mean fc"):
        features.activations(network, "fc9")
    less = {layer: parts for layer, parts in network.params.items() if layer != "fc7"}
    with pytest.raises(ConfigError, match="layer: fc7 is not known; did you mean fc"):
        features.activations(dataclasses.replace(network, params=less), "fc7")


@pytest.mark.parametrize("in_common", [0.0, 1000.0])
def test_nearest_is_a_search_over_all(rng, in_common):
    """Also for vectors close to each other and far from 0, as after biases of 1."""
    queries = in_common + rng.standard_normal((5, 12), np.float32)
    candidates = in_common + rng.standard_normal((300, 12), np.float32)
    queries, candidates = queries.astype(np.float32), candidates.astype(np.float32)
    index, distance = (np.asarray(part) for part in features.nearest(queries, candidates, 6))
    for q, own, far in zip(queries, index, distance, strict=True):
        apart = np.linalg.norm(candidates.astype(np.float64) - q, axis=1)
        np.testing.assert_array_equal(own, np.argsort(apart, kind="stable")[:6])
        np.testing.assert_allclose(far, np.sort(apart)[:6], rtol=1e-5)


def test_nearest_of_a_split_is_nearest_of_all_its_batches(rng, monkeypatch):
    """Small whole numbers: many are equally far, and of those the first counts."""
    values = rng.integers(0, 3, (23, 4)).astype(np.float32)
    readable = rng.random(23) > 0.3
    readable[10:15] = False  # a whole batch
    parts = [({"fc7": values[i : i + 5]}, None, readable[i : i + 5]) for i in range(0, 23, 5)]
    monkeypatch.setattr(features, "of_split", lambda *_: iter(parts))
    queries, told = rng.integers(0, 3, (3, 4)).astype(np.float32), []
    found, compared = features.nearest_of_split(None, None, "fc7", queries, 6, told.append)
    assert (compared, sum(told)) == (readable.sum(), 23)
    there = np.flatnonzero(readable)
    for query, own in zip(queries, found, strict=True):
        apart = ((values[there] - query) ** 2).sum(axis=1)
        np.testing.assert_array_equal(own, there[np.argsort(apart, kind="stable")[:6]])
    fewer, _ = features.nearest_of_split(None, None, "fc7", queries, 99)
    assert fewer.shape == (3, len(there))
