"""Figure 2: what its boxes and arrows say."""

from alexnet_jax import configs
from alexnet_jax.figures import split
from alexnet_jax.steps.communication import Collective


def test_the_papers_two_devices():
    config = configs.get("paper")
    config.mesh.model = 2
    exchanged = [
        Collective("all-gather", "conv3", False, 2, 4_000_000),
        Collective("all-gather", "fc6", False, 2, 1_000_000),
        Collective("all-gather", "fc6", False, 2, 3_000_000),
        Collective("reduce-scatter", "fc7", True, 2, 8_000_000),
        Collective("all-reduce", "update", False, 2, 8_000_000),
    ]
    layers = split.forward(config, 1000, exchanged)
    assert {layer.name: layer.shape for layer in layers} == {
        "conv1": "27 x 27 x 48",
        "conv2": "13 x 13 x 128",
        "conv3": "13 x 13 x 192",
        "conv4": "13 x 13 x 192",
        "conv5": "6 x 6 x 128",
        "fc6": "2048",
        "fc7": "2048",
        "fc8": "500",
    }
    sent = {layer.name: layer.exchanged for layer in layers if layer.exchanged}
    assert sent == {"conv3": 2e6, "fc6": 2e6}
    texts = [text.get_text() for text in split.draw(2, layers, "title").axes[0].texts]
    assert texts.count("conv3") == 2 and texts.count("2 MB") == 2


def test_a_sixth_convolution_and_a_linear_layer_have_boxes():
    for recipe, classes, last in (("paper_conv6", 1000, "500"), ("fall2011", 21_843, "10922")):
        config = configs.get(recipe)
        config.mesh.model = 2
        layers = {layer.name: layer.shape for layer in split.forward(config, classes, [])}
        assert layers["conv6"] == "6 x 6 x 128" and layers["fc8"] == last
        assert ("fc7_linear" in layers) == (recipe == "fall2011")
