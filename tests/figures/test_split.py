"""Figure 2: what its boxes and arrows say."""

import collections
import re

import jax
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba

from alexnet_jax import configs, train
from alexnet_jax.figures import split
from alexnet_jax.steps import communication
from alexnet_jax.steps.communication import Collective


def paper(data=1, model=2, scheme="columns", zero=False):
    config = configs.get("paper")
    config.mesh.data, config.mesh.model = data, model
    config.mesh.scheme, config.mesh.zero = scheme, zero
    return config


def shapes(config, classes=1000, data=1):
    return {share.layer: share.shape for share in split.shares(config, classes, data)}


def test_the_papers_two_devices():
    """Every number that figure 2 has for one of its halves."""
    assert shapes(paper()) == {
        "images": "227×227×3",
        "conv1": "55×55×48",
        "conv2": "27×27×128",
        "conv3": "13×13×192",
        "conv4": "13×13×192",
        "conv5": "13×13×128",
        "fc6": "2,048",
        "fc7": "2,048",
        "fc8": "500",
    }


def test_a_hybrids_convolutions_have_images_and_its_matrices_units():
    found = split.shares(paper(2, 4, "hybrid"), 1000, 2)
    images = {share.layer: share.images for share in found}
    assert (images["conv5"], images["fc6"]) == (16, 64)
    assert shapes(paper(2, 4, "hybrid"), data=2)["conv1"] == "55×55×96"
    assert shapes(paper(2, 4, "hybrid"), data=2)["fc6"] == "1,024"


def test_a_sixth_convolution_and_a_linear_layer_have_boxes():
    for recipe, classes, last in (("paper_conv6", 1000, "500"), ("fall2011", 21_843, "10,922")):
        config = configs.get(recipe)
        config.mesh.model = 2
        found = shapes(config, classes)
        assert found["conv6"] == "6×6×128" and found["fc8"] == last
        assert ("fc7_linear" in found) == (recipe == "fall2011")


def test_exchanges_are_where_they_belong():
    found = split.exchanges(
        [
            Collective("all-gather", "conv3", False, 2, 4_000_000),
            Collective("collective-permute", "norm1", False, 2, 10),
            Collective("collective-permute", "norm1", False, 2, 10),
            Collective("reduce-scatter", "logits", True, 2, 8),
            Collective("all-reduce", "update", False, 2, 6),
        ],
        ["images", "conv1", "conv2", "conv3", "fc8"],
    )
    told = [(e.before, e.of, e.count, e.moved, e.backward) for e in found]
    assert told == [
        ("conv2", "norm1", 2, 20.0, False),
        ("conv3", "conv3", 1, 2e6, False),
        ("loss", "logits", 1, 4.0, True),
        ("update", "update", 1, 6.0, False),
    ]


MESHES = {
    "two columns": (1, 2, "columns", False),
    "twice": (2, 2, "columns", False),
    "a column over two": (1, 4, "columns", False),
    "a column over four": (1, 8, "columns", False),
    "hybrid": (1, 4, "hybrid", False),
    "in parts": (2, 2, "columns", True),
}


def number(text):
    """The bytes that a label shows, and to how many digits."""
    shown, unit = re.search(r"([\d.]+(?:e[+-]\d+)?) (MB|kB)", text).groups()
    return float(shown) * {"MB": 1e6, "kB": 1e3}[unit]


@pytest.mark.parametrize("name", MESHES)
def test_the_numbers_are_those_of_the_compiled_step(name):
    data, model, *rest = MESHES[name]
    if len(jax.devices()) < data * model:
        pytest.skip("needs eight devices")
    config = paper(data, model, *rest)
    config.model.width, config.batch_size = 1 / 4, 16
    collectives = communication.compiled(train.compile_train_step(config))
    picture = split.draw(config, 1000, collectives, data)
    texts = [text for text in picture.axes[0].texts if "B" in text.get_text()[-4:]]
    found = collections.Counter()
    for text in texts:
        if text.get_color() in (split.FORWARD, split.BACKWARD):
            found[text.get_color() == split.BACKWARD] += number(text.get_text())
    for backward in (False, True):
        wanted = sum(c.moved for c in collectives if c.backward == backward and c.layer != "update")
        assert found[backward] == pytest.approx(wanted, rel=0.01)
    [summed] = [t for t in picture.axes[0].texts if t.get_color() == split.UPDATE]
    parts = summed.get_text().split("each sends ")[1].split("; ")
    wanted = sum(c.moved for c in collectives if c.layer == "update")
    assert sum(map(number, parts)) == pytest.approx(wanted, rel=0.01)


def test_texts_do_not_lie_on_each_other():
    for data, model, *rest in MESHES.values():
        config = paper(data, model, *rest)
        picture = split.draw(config, 1000, communication.expected(config, 1000, data), data)
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        renderer = canvas.get_renderer()
        boxes = [t.get_window_extent(renderer) for t in picture.axes[0].texts]
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                assert not one.overlaps(other), (data, model, rest)


def test_what_shards_of_the_images_tell_each_other_is_told_without_arrows():
    config = configs.get("alexnet_bn")
    config.mesh.data, config.mesh.model = 2, 1
    found = communication.expected(config, 1000, 2)
    axes = split.draw(config, 1000, found, 2).axes[0]
    told = [t.get_text() for t in axes.texts if "norm1" in t.get_text()]
    assert told and all("over 2 shards" in text for text in told)
    colours = {patch.get_edgecolor() for patch in axes.patches}
    assert to_rgba(split.FORWARD) not in colours


def test_a_mesh_of_many_devices_shows_one_shard():
    config = paper(4, 4)
    picture = split.draw(config, 1000, [], 4)
    texts = [text.get_text() for text in picture.axes[0].texts]
    assert sum(text.startswith("device") for text in texts) == 4
    assert "one of 4 data shards" in texts[0]
