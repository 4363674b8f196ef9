import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.steps import metrics


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12), ties=st.booleans())
def test_errors_equal_a_sort(seed, classes, ties):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(9, classes))
    scores = np.round(scores) if ties else scores
    label = rng.integers(0, classes, 9)
    order = np.argsort(-scores, axis=1, kind="stable")  # lower class first among equals
    rank = [int(np.flatnonzero(order[i] == label[i])[0]) for i in range(9)]
    assert metrics.rank_of_label(jnp.asarray(scores), jnp.asarray(label)).tolist() == rank


def test_masked_images_do_not_count():
    scores = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(0).normal(size=(6, 8))))
    label, mask = jnp.arange(6) % 8, jnp.asarray([1.0, 1, 0, 1, 0, 1])
    kept = np.flatnonzero(mask)
    whole = metrics.compute(metrics.classification(scores, label, mask))
    alone = metrics.compute(metrics.classification(scores[kept], label[kept], jnp.ones(4)))
    assert whole["count"] == 4
    for name in whole:
        np.testing.assert_allclose(whole[name], alone[name], rtol=1e-6)
    spoiled = scores.at[2].set(jnp.nan)
    assert metrics.compute(metrics.classification(spoiled, label, mask)) == whole


def test_nan_of_the_right_class_is_an_error():
    scores, label = jnp.full((1, 4), jnp.nan), jnp.zeros(1, jnp.int32)
    sums = metrics.classification(scores, label, jnp.ones(1))
    assert float(sums["top1_error"].total) == 1


def test_merging_equals_the_whole():
    rng = np.random.default_rng(1)
    scores, label = jnp.asarray(rng.normal(size=(10, 7))), jnp.asarray(rng.integers(0, 7, 10))
    parts = [
        metrics.classification(scores[i:j], label[i:j], jnp.ones(j - i))
        for i, j in ((0, 3), (3, 10))
    ]
    whole = metrics.compute(metrics.classification(scores, label, jnp.ones(10)))
    merged = metrics.compute(metrics.merge(*parts))
    np.testing.assert_allclose(list(merged.values()), list(whole.values()), rtol=1e-6)
