"""Loss and errors as masked sums, divided once at the end."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from clu.metrics import Average

Sums = dict[str, Average]


def cross_entropy(log_probabilities: jax.Array, label: jax.Array) -> jax.Array:
    """Returns -log p of the right class, (B,) nats, from (B, K) and (B,)."""
    return -jnp.take_along_axis(log_probabilities, label[:, None], axis=1)[:, 0]


def rank_of_label(scores: jax.Array, label: jax.Array) -> jax.Array:
    """Returns how many classes come before the right one, (B,) int32.

    Among equal scores the lower class number comes first, as in argmax and top_k. A NaN score
    of the right class ranks it last.
    """
    of_label = jnp.take_along_axis(scores, label[:, None], axis=1)
    earlier = jnp.arange(scores.shape[1]) < label[:, None]
    ahead = ~(scores < of_label) & ((scores != of_label) | earlier)
    ahead = ahead & (jnp.arange(scores.shape[1]) != label[:, None])
    return ahead.sum(axis=1, dtype=jnp.int32)


def classification(log_probabilities: jax.Array, label: jax.Array, mask: jax.Array) -> Sums:
    """Returns masked sums of `loss`, `top1_error` and `top5_error` with their counts.

    Args:
      log_probabilities: (B, K) float32.
      label: (B,) int32.
      mask: (B,) float32, 0 for what must not count.
    """
    rank = rank_of_label(log_probabilities, label)
    loss = jnp.where(mask > 0, cross_entropy(log_probabilities, label), 0)
    values = {"loss": loss, "top1_error": mask * (rank >= 1), "top5_error": mask * (rank >= 5)}
    return {name: average(v.sum(), mask.sum()) for name, v in values.items()}


def average(total: jax.Array, count: jax.Array) -> Average:
    """Returns a sum that is divided by `count` at the end."""
    return Average(total=total, count=count)  # pyright: ignore[reportCallIssue]


def merge(a: Sums, b: Sums) -> Sums:
    """Adds two sets of sums."""
    return {name: a[name].merge(b[name]) for name in a}


def compute(sums: Sums) -> dict[str, float]:
    """Divides fetched sums by their counts, and adds the images' `count`; means of none are NaN."""
    means = {
        name: float(value.total) / float(value.count) if value.count else math.nan
        for name, value in sums.items()
    }
    return means | {"count": int(sums["loss"].count)}


def series_of(row: dict[str, Any]) -> str:
    """Returns the series that a row of metrics belongs to: errors of one and of ten views do not
    compare.

    >>> series_of({"split": "val", "views": 10}), series_of({"split": "val", "views": 1})
    ('val, 10 views', 'val')
    """
    views = row.get("views", 1)
    return row["split"] if views == 1 else f"{row['split']}, {views} views"
