"""Batch normalisation against PyTorch's, and its running statistics as parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from alexnet_jax import model, train
from alexnet_jax.inference import trained
from alexnet_jax.layers.batch_norm import BatchNorm, alone
from alexnet_jax.steps import optimizer


def test_training_and_its_gradient_are_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x = (3 + 2 * rng.standard_normal((6, 5, 5, 4))).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    params = BatchNorm().init(jax.random.key(0), jnp.asarray(x), None)
    y, back = jax.vjp(lambda x: BatchNorm().apply(params, x, alone), jnp.asarray(x))
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    want = torch.nn.functional.batch_norm(theirs, None, None, training=True, eps=1e-5)
    want.backward(torch.from_numpy(dy.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(y, want.detach().permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(back(jnp.asarray(dy))[0], theirs.grad.permute(0, 2, 3, 1), atol=1e-5)


def test_statistics_follow_the_batch_by_a_tenth(rng):
    """Two updates of the whole chain: no momentum, no decay, whatever the kernels have."""
    config = small.config("none").optimizer
    config.weight_decay, config.decay_biases = 0.1, True
    x = jnp.asarray(5 + 3 * rng.standard_normal((8, 4, 4, 2)), jnp.float32)
    params = {"norm1": BatchNorm().init(jax.random.key(0), x, None)["params"]}
    tx = optimizer.build(config)
    state, want = tx.init(params), {"mean": np.zeros(2), "variance": np.ones(2)}
    for n in range(1, 3):
        images = x * n

        def loss(p, images=images):
            return BatchNorm().apply({"params": p["norm1"]}, images, alone).sum()

        grads = jax.tree.map(lambda g: g / len(x), jax.grad(loss)(params))
        rates = optimizer.rate_tree({"kernel": jnp.float32(9), "bias": jnp.float32(9)}, params)
        moved, state = tx.update(grads, state, params, rates=rates)
        params = jax.tree.map(jnp.add, params, moved)
        batch = {"mean": images.mean((0, 1, 2)), "variance": images.var((0, 1, 2))}
        want = {k: v + 0.1 * (np.asarray(batch[k]) - v) for k, v in want.items()}
    for name, values in want.items():
        np.testing.assert_allclose(params["norm1"][name], values, rtol=1e-4)


def test_a_run_learns_its_statistics_and_evaluates_with_them(tmp_path):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps, config.model.normalisation = 6, "batch"
    config.model.layer3 = "relu norm"
    summary = train.train(config, tmp_path / "w")
    assert np.isfinite(summary["loss"])
    run = trained.load(tmp_path / "w")
    assert set(model.LAYERS) | {"norm1", "norm2", "norm3"} == set(run.params)
    assert float(jnp.abs(run.params["norm1"]["mean"]).max()) > 0
