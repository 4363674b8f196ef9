"""Training figures between rows, and the peak rates that makers name for their devices."""

import json
import math
import random
import types

import pytest

from alexnet_jax.ops import peaks
from alexnet_jax.training.means import Means


def update(loss: float, count: int, norm: float = 1.0) -> dict:
    def of(total):
        return types.SimpleNamespace(total=total, count=count)

    return {
        "sums": {"loss": of(loss * count), "top1_error": of(count / 2), "top5_error": of(0.0)},
        "gradient_norm": norm,
    }


def test_means_are_over_images_and_norms_over_updates():
    means = Means()
    means.add(update(1.0, 30, norm=2.0))
    means.add(update(4.0, 10, norm=4.0))
    found = means.take()
    assert found["loss"] == pytest.approx((30 * 1.0 + 10 * 4.0) / 40)
    assert (found["top1_error"], found["top5_error"]) == (0.5, 0.0)
    assert (found["gradient_norm"], found["images"], found["updates"]) == (3.0, 40, 2)
    means.add(update(7.0, 1))
    assert means.take()["loss"] == 7.0  # nothing of before


def test_of_none_they_are_no_numbers():
    means = Means()
    means.add(update(0.0, 0))
    found = means.take()
    assert math.isnan(found["loss"]) and found["images"] == 0


def test_they_go_on_to_the_last_bit_through_a_file():
    draws = random.Random(3)
    updates = [update(draws.random() * 7, draws.randint(1, 128), draws.random()) for _ in range(40)]
    whole, cut = Means(), Means()
    for at, one in enumerate(updates):
        whole.add(one)
        cut.add(one)
        if at % 7 == 3:
            cut = Means(json.loads(json.dumps(cut.state())))
    assert whole.take() == cut.take()


@pytest.mark.parametrize(
    ("kind", "numbers", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 PCIe", "TF32", 378),
        ("TPU v5 lite", "bfloat16", 197),
        ("Tesla T4", "float32", 8.1),
        ("TPU v4", "float32", None),
        ("NVIDIA L40S", "bfloat16", None),
        ("NVIDIA H200 MIG 1g.18gb", "bfloat16", None),
        ("cpu", "float32", None),
        ("TPU v9", "bfloat16", None),
    ],
)
def test_peaks(kind, numbers, tera):
    found = peaks.flops(kind, numbers)
    assert found == (tera and tera * 1e12)
