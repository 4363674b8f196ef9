"""An evaluation's answer for each image: in the split's order, on every mesh, with every feed."""

import functools

import jax
import numpy as np
import pytest
import small

from alexnet_jax.config import MeshConfig
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.feed.host import HostFeed
from alexnet_jax.feed.protocol import Cut
from alexnet_jax.feed.resident import ResidentFeed
from alexnet_jax.steps import evaluation
from alexnet_jax.steps.answers import Answers, likeliest
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import create_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The last batch of 8 is not full, and one file is not an image."""
    root = tmp_path_factory.mktemp("set")
    small.write_folder(root, val=22)
    sorted((root / "val" / "light").iterdir())[3].write_bytes(b"no image")
    return root


@functools.cache
def answers_of(folder, mesh: tuple, kind: str) -> Answers:
    config = small.config(folder)
    config.mesh, config.eval_batch_size, config.on_bad_image = MeshConfig(*mesh), 8, "skip"
    setup = Setup.of(config, 7)
    reader = ImageReader(open_dataset(config).open("val"), 71, on_bad_image="skip")
    feed = (
        HostFeed(config, setup.mesh, reader, Cut(8))
        if kind == "host"
        else ResidentFeed(config, setup.mesh, reader, Cut(8), kind == "whole")
    )
    weights = create_state(setup).weights
    step = evaluation.compile_eval_step(setup, feed.feeding, weights, 1)
    found = evaluation.evaluate(step, weights, feed)
    wrong = found.answers.wrong(1)[found.answers.counted]
    assert found.figures["top1_error"] == pytest.approx(wrong.mean())
    assert found.figures["count"] == len(wrong)
    return found.answers


CASES = [
    ((1, 2), "host"),
    ((2, 2), "host"),
    ((2, 2), "whole"),
    ((2, 2, "hybrid"), "host"),
    ((2, 2, "hybrid"), "parts"),
    *(
        pytest.param(mesh, kind, marks=pytest.mark.exhaustive)
        for mesh in ((4, 1), (2, 2), (1, 4, "hybrid_in_turns"), (8, 1, "columns", True))
        for kind in ("host", "whole", "parts")
    ),
]


@pytest.mark.parametrize(("mesh", "kind"), CASES)
def test_every_mesh_says_the_same_of_each_image(folder, mesh, kind):
    one, other = answers_of(folder, (1, 1), "host"), answers_of(folder, mesh, kind)
    assert one.readable.sum() == 21 == len(one.labels) - 1
    np.testing.assert_array_equal(other.readable, one.readable)
    np.testing.assert_array_equal(other.labels[one.readable], one.labels[one.readable])
    np.testing.assert_array_equal(other.classes[one.readable], one.classes[one.readable])
    np.testing.assert_allclose(
        other.probabilities[one.readable], one.probabilities[one.readable], rtol=1e-5
    )


def test_of_few_classes_all_are_kept_and_of_equals_the_first():
    found = likeliest(np.array([[0.25, 0.5, 0.25]], np.float32))
    np.testing.assert_array_equal(found["classes"], [[1, 0, 2]])
    many = jax.eval_shape(likeliest, jax.ShapeDtypeStruct((4, 10), "float32"))
    assert many["classes"].shape == (4, 5)
