"""python -m alexnet_jax.visualize: each picture from a run, and the numbers in them."""

import subprocess
import sys

import commands
import cv2
import numpy as np
import pytest

from alexnet_jax.figures import confusion, curves, kernels


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


def visualize(run, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "alexnet_jax.visualize", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=run)


ALL = """
from absl import flags
from alexnet_jax import visualize
visualize.define_flags()
flags.FLAGS(["visualize", "--workdir=w", "--workdir=w", "--images=3", "--neighbours=4"])
for name, draw in visualize.KINDS.items():
    if name != "split":  # of a config, not of a run
        print(draw())
for name, draw in visualize.OF_PHOTOGRAPHS.items():
    print(draw([]))
"""


@pytest.mark.slow
def test_every_picture_is_drawn(run):
    """All in one process, which starts slowly."""
    done = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, cwd=run)
    assert done.returncode == 0, done.stderr
    photographs = ("activations", "activations_3", "occlusion", "augment_2")
    for what in ("kernels", "answers", "neighbours", "confusion", "curves", *photographs):
        picture = cv2.imread(str(run / "w" / "plots" / f"{what}.png"))
        assert picture.shape[1] > 400
        assert picture.std() > 5
    assert (run / "w" / "plots" / "kernels_specialisation.png").exists()


def test_features_are_written_with_their_images(run):
    done = visualize(run, "features", "--workdir=w", "--layer=fc6", "--split=train[:6]")
    assert done.returncode == 0, done.stderr
    with np.load(run / "w" / "plots" / "fc6.npz", allow_pickle=False) as arrays:
        assert arrays["features"].shape == (6, 256)
        assert set(arrays["image"]) <= {
            f"{p.parent.name}/{p.name}" for p in (run / "set" / "train").glob("*/*")
        }
        assert arrays["readable"].all()


def test_a_split_is_drawn_from_the_compiled_step(run, tmp_path):
    path = tmp_path / "pictures" / "ours.svg"
    fields = ["num_classes=12", "model.width=0.0625", "batch_size=8", "mesh.data=2", "mesh.model=2"]
    flags = [f"--config.{field}" for field in fields]
    done = visualize(run, "split", "--config=default", f"--out={path}", *flags)
    assert done.returncode == 0, done.stderr
    assert "compiling a step for 4 simulated devices" in done.stdout
    assert path.read_text().startswith("<?xml") and "device 3" in path.read_text()
    assert cv2.imread(str(path.with_suffix(".png"))).shape[1] > 1000


def test_mistakes_are_one_line(run):
    wrong = {
        "--config: kernels reads a run": ["kernels", "--workdir=w", "--config=paper"],
        "kernel is not known; did you mean kernels": ["kernel", "--workdir=w"],
        "--workdir: name the folder of a run": ["kernels"],
        "nowhere has no metrics.jsonl": ["curves", "--workdir=nowhere"],
        "a.jpg: kernels takes no photographs": ["kernels", "a.jpg", "--workdir=w"],
        "split and augment take it": ["occlusion", "--workdir=w", "--config=paper"],
        "nowhere.jpg": ["occlusion", "nowhere.jpg", "--workdir=w"],
        "fc9 is not known": ["features", "--workdir=w", "--layer=fc9"],
    }
    said = commands.endings("visualize", run, *wrong.values())
    for message, line in zip(wrong, said, strict=True):
        assert message in line


def test_colour_selectivity_of_grey_and_of_colour():
    grey = np.repeat(np.arange(9.0).reshape(3, 3, 1, 1), 3, axis=2)
    opponent = np.zeros((3, 3, 3, 1))
    opponent[..., 0, 0], opponent[..., 1, 0] = 1, -1
    both = np.concatenate([grey, opponent, grey + np.linalg.norm(grey) * opponent], axis=-1)
    found = kernels.colour_selectivity(both)
    np.testing.assert_allclose(found[:2], [0, 1], atol=1e-12)
    assert 0.5 < found[2] < 1
    np.testing.assert_allclose(kernels.colour_selectivity(both * 7), found)


def test_specialisation_compares_columns():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.standard_normal((5, 5, 1, 8)), 3, axis=2)
    colour = rng.standard_normal((5, 5, 3, 8))
    colour -= colour.mean(axis=2, keepdims=True)
    assert kernels.specialisation(np.concatenate([grey, colour], axis=-1)) == pytest.approx(1)
    mixed = np.concatenate([grey[..., :4], colour[..., :4]] * 2, axis=-1)
    assert kernels.specialisation(mixed) == pytest.approx(0)


def test_a_confusion_matrix_counts_pairs():
    counts = confusion.matrix(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0]), 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [1, 0, 1]])


def test_curves_are_smoothed_over_what_came_before():
    assert curves._smooth([4.0, 2.0, 0.0], share=0.67) == [4.0, 3.0, 1.0]
