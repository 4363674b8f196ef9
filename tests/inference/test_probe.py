"""Linear probes against a classifier that was fitted in another way."""

import json

import numpy as np
import pytest
import small
from commands import endings

from alexnet_jax import probe as command
from alexnet_jax.config import ConfigError
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import DataError
from alexnet_jax.inference import features, probe, trained


def reader_of(network, split):
    return network.reader(open_dataset(network.config).open(split))


def test_activations_are_those_of_single_layers(trained_run):
    network = trained.load(trained_run / "w")
    found = probe.collect(network, reader_of(network, "val"), ["pool5", "fc7"])
    image = np.empty((1, 71, 71, 3), np.uint8)
    reader_of(network, "val").read(np.array([13]), image)
    source = open_dataset(network.config).open("val")
    assert found.labels.tolist() == [source[i].label for i in range(14)]
    for layer, size in {"pool5": 16, "fc7": 256}.items():
        assert found.layers[layer].shape == (14, size)
        alone = np.asarray(features.activations(network, layer)(image))[0]
        np.testing.assert_allclose(found.layers[layer][13], alone, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="layer: pool4 is not known"):
        probe.collect(network, reader_of(network, "val"), ["pool4"])


def by_newton(x, labels, penalty, classes):
    """Logistic regression by Newton's method, float64, to the end."""
    n, d = x.shape
    x = np.concatenate([x, np.ones((n, 1))], axis=1)
    w = np.zeros((d + 1, classes))
    weight = np.full(d + 1, penalty)
    weight[d] = 1e-9  # biases have no penalty; the softmax leaves one direction free
    for _ in range(50):
        z = x @ w
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        target = np.eye(classes)[labels]
        grad = (x.T @ (p - target) / n + weight[:, None] * w).reshape(-1)
        hessian = np.zeros((d + 1, classes, d + 1, classes))
        for a in range(classes):
            for b in range(classes):
                block = p[:, a] * ((a == b) - p[:, b])
                hessian[:, a, :, b] = (x * block[:, None]).T @ x / n
            hessian[np.arange(d + 1), a, np.arange(d + 1), a] += weight
        size = (d + 1) * classes
        w -= np.linalg.solve(hessian.reshape(size, size), grad).reshape(d + 1, classes)
    return w[:d], w[d]


def test_it_is_the_minimum_that_newtons_method_finds():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    x = rng.normal(size=(200, 6))
    x[np.arange(200), labels] += 1
    kernel, bias = by_newton(x, labels, 0.01, 3)
    start = np.zeros((6, 3), np.float32), np.zeros(3, np.float32)
    as_it_is = np.zeros(6, np.float32), np.ones(6, np.float32)
    more, first = np.concatenate([x, 9 * x]).astype(np.float32), np.repeat([1.0, 0.0], 200)
    found = probe.fitted(more, np.tile(labels, 2), first, as_it_is, 0.01, start)
    np.testing.assert_allclose(found[0], kernel, atol=5e-3)
    own = np.asarray(found[1])
    np.testing.assert_allclose(own - own.mean(), bias - bias.mean(), atol=2e-3)


def test_errors_are_counted_and_dead_units_are_left_out():
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 6
    x = rng.normal(size=(120, 10)).astype(np.float32)
    x[np.arange(120), labels] += 8
    x[:, 9] = 0  # a unit that is never on
    train = probe.Activations({"fc6": x}, labels)
    wrong = labels.copy()
    wrong[:12] = (wrong[:12] + 1) % 6  # a tenth is said to be something else
    found = probe.probe("fc6", train, probe.Activations({"fc6": x}, wrong), 6)
    assert found.top1_error == pytest.approx(0.1, abs=0.02) and found.size == 10
    assert 0 <= found.top5_error < 0.05
    noise = probe.Activations({"fc6": rng.normal(size=(120, 10)).astype(np.float32)}, labels)
    assert probe.probe("fc6", noise, train, 6).top1_error > 0.5


def test_activations_that_are_no_numbers_are_no_perfect_answers():
    labels = np.arange(40) % 2
    values = np.full((40, 3), np.nan, np.float32)
    own = probe.Activations({"fc6": values}, labels)
    assert probe.probe("fc6", own, own, 2).top1_error == 1.0


def test_too_many_activations_are_refused(monkeypatch):
    monkeypatch.setattr(probe, "memory", lambda: 10**6)
    with pytest.raises(DataError, match=r"need 0.1 GiB, half .* is 0.0; .* such as train\[:1%\]"):
        probe._refuse_too_many({"fc7": np.zeros((1, 4096), np.float32)}, 3000)


def test_the_command(trained_run, tmp_path):
    out = tmp_path / "found" / "probe.json"
    own, other = f"--workdir={trained_run / 'w'}", tmp_path / "other"
    small.write_folder(other)
    for split in ("train", "val"):
        (other / split / "dark").rename(other / split / "night")
    said = endings(
        "probe",
        tmp_path,
        [own, "--layers=pool5,fc7", f"--out={out}"],
        [own, "--layers=fc9"],
        [own, "--split=train"],
        [own, f"--dataset={tmp_path}"],
        [own, "odd"],
        [own, "--layers=fc7", f"--dataset={other}", f"--out={tmp_path / 'other.json'}"],
    )
    assert said[0] == ""
    assert said[1].startswith("error: layer: fc9 is not known; did you mean fc")
    assert said[2].startswith("error: --split: the probe learns from train")
    assert said[3].startswith("error: ") and "unexpected argument odd" in said[4]
    about = json.loads(out.read_text())
    assert [row["layer"] for row in about["probes"]] == ["pool5", "fc7"]
    assert all(row["top1_error"] <= 0.5 for row in about["probes"])
    [row] = json.loads((tmp_path / "other.json").read_text())["probes"]
    assert row["top1_error"] <= 0.5  # of classes that the network does not know
    assert "L-BFGS" in command.__doc__
