"""Batch normalisation against PyTorch's, and its running statistics beside the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from alexnet_jax import train
from alexnet_jax.inference import trained
from alexnet_jax.layers.batch_norm import BatchNorm, alone


def test_training_and_its_gradient_are_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x = (3 + 2 * rng.standard_normal((6, 5, 5, 4))).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)

    def normalised(x):
        return BatchNorm(alone).apply({}, x, mutable=["batch_stats"])[0]

    y, back = jax.vjp(normalised, jnp.asarray(x))
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    want = torch.nn.functional.batch_norm(theirs, None, None, training=True, eps=1e-5)
    want.backward(torch.from_numpy(dy.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(y, want.detach().permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(back(jnp.asarray(dy))[0], theirs.grad.permute(0, 2, 3, 1), atol=1e-5)


def test_statistics_follow_the_batch_by_a_tenth(rng):
    x = jnp.asarray(5 + 3 * rng.standard_normal((8, 4, 4, 2)), jnp.float32)
    statistics = BatchNorm().init(jax.random.key(0), x)
    assert set(statistics) == {"batch_stats"}  # nothing to learn
    want = {"mean": np.zeros(2), "variance": np.ones(2)}
    for n in range(1, 3):
        images = x * n
        _, statistics = BatchNorm(alone).apply(statistics, images, mutable=["batch_stats"])
        batch = {"mean": images.mean((0, 1, 2)), "variance": images.var((0, 1, 2))}
        want = {k: v + 0.1 * (np.asarray(batch[k]) - v) for k, v in want.items()}
    for name, values in want.items():
        np.testing.assert_allclose(statistics["batch_stats"][name], values, rtol=1e-4)
    y = BatchNorm().apply(statistics, x)  # evaluating changes nothing and uses them
    scale = np.sqrt(np.asarray(statistics["batch_stats"]["variance"]) + 1e-5)
    np.testing.assert_allclose(
        y, (np.asarray(x) - np.asarray(statistics["batch_stats"]["mean"])) / scale, rtol=1e-4
    )


def test_a_run_learns_its_statistics_and_evaluates_with_them(tmp_path):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps, config.model.normalisation = 6, "batch"
    config.model.layer3 = "relu norm"
    summary = train.train(config, tmp_path / "w")
    assert np.isfinite(summary["loss"])
    run = trained.load(tmp_path / "w")
    assert set(run.config.model.layers()) | {"norm1", "norm2", "norm3"} == set(run.params)
    assert float(jnp.abs(run.params["norm1"]["mean"]).max()) > 0
    velocity = [name for name in small.final_state(tmp_path / "w", 6) if "opt_state" in name]
    assert velocity and not any("norm" in name for name in velocity)
