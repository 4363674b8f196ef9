"""Figure 2: what its boxes and arrows say."""

import collections
import itertools
import re

import jax
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch
from on_mesh import small

from alexnet_jax import configs, train
from alexnet_jax.config import to_json
from alexnet_jax.figures import split
from alexnet_jax.inference import pictures
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
    """The bytes that a label shows."""
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
    # Each label's key: its place, its layer, its kind and its direction.
    layers = [box.layer for box in split.shares(config, 1000, data)]
    places = {at - 0.5: layer for at, layer in enumerate([*layers, split.LOSS])}
    found = {}
    for text in texts:
        if text.get_color() in (split.FORWARD, split.BACKWARD):
            head, _, moved = text.get_text().partition("\n")
            own, colon, rest = head.rpartition(": ")
            before = places[text.get_position()[0]]
            kind = rest.split(" \N{MULTIPLICATION SIGN} ")[-1].split(" over ")[0]
            key = before, own if colon else before, kind, text.get_color() == split.BACKWARD
            assert key not in found
            found[key] = number(moved)
    wanted = collections.Counter()
    for one in collectives:
        [e] = split.exchanges([one], layers)
        if e.before != "update":
            of = split.LOSS if e.of == "logits" else e.of
            wanted[e.before, of, e.kind.replace("collective-", ""), e.backward] += e.moved
    assert found.keys() == wanted.keys()
    for key, moved in wanted.items():
        assert found[key] == pytest.approx(moved, rel=0.006), key
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


@pytest.mark.parametrize(
    ("shape", "sets"),
    [
        ((8, 1), [range(8)]),  # sums of gradients over all devices
        ((2, 2), [(0, 2), (1, 3)]),  # of each column's
        ((1, 2), [(0, 1)]),  # figures and norms alone
    ],
)
def test_sums_have_arrows_among_the_devices_that_make_them(shape, sets):
    config = paper(*shape)
    found = communication.expected(config, 1000, shape[0])
    axes = split.draw(config, 1000, found, shape[0]).axes[0]
    drawn = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    pairs = {
        tuple(round(y) for _, y in (patch._posA_posB[0], patch._posA_posB[1]))
        for patch in drawn
        if patch.get_edgecolor() == to_rgba(split.UPDATE)
    }
    wanted = {pair for own in sets for pair in itertools.pairwise(own)}
    assert pairs >= wanted
    # All other arrows are sums over all devices, or over those of one shard.
    rows = shape[0] * shape[1]
    assert pairs - wanted <= set(itertools.pairwise(range(rows)))


def test_what_shards_of_the_images_tell_each_other_has_arrows_between_them():
    config = configs.get("alexnet_bn")
    config.mesh.data, config.mesh.model = 2, 1
    found = communication.expected(config, 1000, 2)
    axes = split.draw(config, 1000, found, 2).axes[0]
    told = [t.get_text() for t in axes.texts if "norm1" in t.get_text()]
    assert told and all("over 2 shards" in text for text in told)
    of_norms = [
        patch._posA_posB
        for patch in axes.patches
        if isinstance(patch, FancyArrowPatch) and patch.get_edgecolor() == to_rgba(split.FORWARD)
    ]
    assert len(of_norms) == 4  # of layers 1 to 4, from device 0 to 1
    assert all((round(a[1]), round(b[1])) == (0, 1) and a[0] == b[0] for a, b in of_norms)


def test_a_mesh_of_many_devices_shows_one_shard():
    config = paper(4, 4)
    picture = split.draw(config, 1000, [], 4)
    texts = [text.get_text() for text in picture.axes[0].texts]
    assert sum(text.startswith("device") for text in texts) == 4
    assert "one of 4 data shards" in texts[0]


def test_a_notebook_draws_the_devices_that_the_step_is_compiled_for():
    config = small((-1, 2))  # all that are here
    before = to_json(config)
    texts = [text.get_text() for text in pictures.split(config).axes[0].texts]
    data = len(jax.devices()) // 2
    assert f"data {data} \N{MULTIPLICATION SIGN} model 2" in texts[0]
    assert to_json(config) == before
