import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import configs
from alexnet_jax import model as models
from alexnet_jax.layers import standard_tree
from alexnet_jax.layers.stage import SPATIAL_NORM2
from alexnet_jax.ops import convolution, platform, pooling
from alexnet_jax.ops.lrn import lrn, spatial_response_norm
from alexnet_jax.ops.lrn_formula import Lrn


@pytest.mark.parametrize("recipe", ["paper", "original_code", "caffenet", "bvlc_alexnet"])
def test_parameters_of_the_paper(recipe):
    config = configs.get(recipe)
    network = models.build(config.model, 1000, config.precision)
    params = standard_tree.abstract_parameters(network, config.image_size)
    assert tuple(params) == config.model.layers()
    assert standard_tree.count_parameters(params) == 60_965_224
    shapes = {name: params[name]["kernel"].shape for name in params}
    assert shapes == {
        "conv1": (11, 11, 3, 96),
        "conv2": (5, 5, 48, 256),
        "conv3": (3, 3, 256, 384),
        "conv4": (3, 3, 192, 384),
        "conv5": (3, 3, 192, 256),
        "fc6": (9216, 4096),
        "fc7": (4096, 4096),
        "fc8": (4096, 1000),
    }


@pytest.mark.parametrize(
    ("recipe", "classes", "parameters"),
    [
        ("paper_conv6", 1000, 61_555_304),
        ("original_code_conv6", 1000, 61_555_304),
        # 57,458,304 in front of the classes.
        ("fall2009", 10_184, 57_458_304 + 4097 * 10_184),
        ("fall2011", 21_843, 57_458_304 + 4097 * 2048 + 2049 * 21_843),
    ],
)
def test_parameters_of_pre_training(recipe, classes, parameters):
    """Figures of run #146: conv6 is 3 x 3 x 256 x 256 and 256 biases."""
    config = configs.get(recipe)
    network = models.build(config.model, classes, config.precision)
    params = standard_tree.abstract_parameters(network, config.image_size)
    assert params["conv6"]["kernel"].shape == (3, 3, 256, 256)
    assert standard_tree.count_parameters(params) == parameters
    assert tuple(params) == config.model.layers()


def test_initial_scales_of_the_original_code():
    config = configs.get("original_code").model
    config.width = 0.25
    network = models.build(config, 10, "float32")
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 68, 68, 3)))["params"]
    for name, std in [("conv1", 0.01), ("conv3", 0.03), ("conv5", 0.03), ("fc7", 0.01)]:
        assert float(params[name]["kernel"].std()) == pytest.approx(std, rel=0.05)
    biases = {name: float(params[name]["bias"].mean()) for name in params}
    ones = {name for name, value in biases.items() if value == 1}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert all(biases[name] == 0 for name in ("conv1", "conv3", "fc8"))


def test_dropout_scaling():
    config = configs.get("default").model
    config.width, config.dropout_rate = 1 / 16, 0.5
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 67, 67, 3)), jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    params = jax.jit(models.build(config, 3, "float32").init)(jax.random.key(0), x)["params"]

    @functools.partial(jax.jit, static_argnums=0)
    def both(scaling):
        network = models.build(dataclasses.replace(config, dropout_scaling=scaling), 3, "float32")
        return [standard_tree.logits(network, params, x, k) for k in (None, keys)]

    results = {scaling: both(scaling) for scaling in ("test", "train")}
    # Two dropout layers at 0.5, and no later bias except fc8's zeros: a factor of about four.
    np.testing.assert_allclose(results["train"][0], results["test"][0] * 4, rtol=1e-4)
    np.testing.assert_allclose(results["train"][1], results["test"][1] * 4, rtol=1e-4)


def test_the_spatial_norm_comes_between_norm_and_pool():
    """layers-145.cfg: conv2, rnorm2, cnorm2, pool2."""
    network = models.build(configs.get("original_code").model, 3, "float32")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 9, 8)) * 40, jnp.float32)
    got = network.apply({}, x, method=lambda m, v: m.stage2(v))
    normed = lrn(jax.nn.relu(x), Lrn.named("original_code", 5, 1e-4, 0.75), 2)
    want = pooling.overlapping_max_pool(spatial_response_norm(normed, SPATIAL_NORM2))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    late = spatial_response_norm(pooling.overlapping_max_pool(normed), SPATIAL_NORM2)
    assert float(jnp.abs(late - want).max()) > 0.1


def test_bfloat16_computes_near_float32_with_float32_parameters():
    config = configs.get("default").model
    config.width = 1 / 16
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 67, 67, 3)), jnp.float32)
    network = models.build(config, 3, "bfloat16")
    params = jax.jit(network.init)(jax.random.key(0), x)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    exact, half = (
        jax.jit(functools.partial(standard_tree.logits, n))(params, x)
        for n in (models.build(config, 3, "float32"), network)
    )
    assert half.dtype == jnp.float32
    assert float(jnp.abs(half - exact).max()) < 0.03 * float(jnp.abs(exact).max())
    assert float(jnp.abs(half - exact).max()) > 0


@pytest.mark.parametrize(
    ("recipe", "precision", "other"),
    [
        ("paper", "float32", {}),
        ("paper", "bfloat16", {}),
        ("paper", "float32", {"columns_meet": False}),
        ("paper", "float32", {"without": ("conv2", "conv4")}),
        ("original_code", "float32", {}),
        ("caffenet", "float32", {}),
        ("alexnet_bn", "float32", {}),
    ],
)
def test_a_gpu_s_ways_give_the_same_network(recipe, precision, other):
    """A GPU's normalisation, pooling, biases and arrays of columns: same logits and gradients."""
    config = dataclasses.replace(configs.get(recipe).model, **other)
    config.init, config.width = "he", 1 / 16
    network = models.build(config, 7, precision)
    x = 30 * jax.random.normal(jax.random.key(0), (2, 99, 99, 3))
    made, statistics = standard_tree.initial_variables(network, jax.random.key(1), 99)
    params = made | statistics

    def logits_and_gradient():
        def loss(params):
            logits = standard_tree.logits(network, params, x)
            return (logits * jnp.arange(7)).sum(), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return jax.tree.leaves((logits, gradient))

    here = logits_and_gradient()
    with platform.using("auto", "cuda"):
        there = logits_and_gradient()
    near = 1e-5 if precision == "float32" else 0.1  # ties of rounded maxima go other ways
    for one, other in zip(here, there, strict=True):
        assert relative_error(one, np.asarray(other) + 1e-30) < near


def test_caffe_layer_vectors(shared_data):
    """LRN, pooling, conv1 and conv2 against Caffe's own activations."""
    oracle = np.load(shared_data / "oracles" / "caffenet_layer_vectors.npz")

    def maps(name):  # CHW -> 1HWC
        return jnp.asarray(oracle[name].transpose(1, 2, 0)[None])

    def kernel(name):  # OIHW -> HWIO
        return jnp.asarray(oracle[name].transpose(2, 3, 1, 0))

    norm = Lrn.named("caffe", 5, 1e-4, 0.75)
    conv1 = convolution.conv(maps("image"), kernel("conv1_w"), 4) + oracle["conv1_b"]
    conv2 = convolution.conv(maps("norm1"), kernel("conv2_w"), 1, 2, 2) + oracle["conv2_b"]
    computed = {
        "conv1": jax.nn.relu(conv1),
        "pool1": pooling.overlapping_max_pool(maps("conv1")),
        "norm1": lrn(maps("pool1"), norm),
        "conv2": jax.nn.relu(conv2),
        "pool2": pooling.overlapping_max_pool(maps("conv2")),
        "norm2": lrn(maps("pool2"), norm),
        "pool5": pooling.overlapping_max_pool(maps("conv5")),
    }
    for name, got in computed.items():
        want = maps(name)
        error = jnp.abs(got - want).max(axis=(0, 1, 2))
        largest = jnp.abs(want).max()
        assert float(error.max()) <= 1e-5 * float(largest), name


# The presets' sources, written again for PyTorch, whose LRN divides alpha by the window: padding of
# an image, columns, layers 1 and 2, (alpha, k), windows across columns, and the factor on the
# outputs of fc6 and fc7 at test time.
PRESETS = {
    "paper": ((0, 0), 2, "relu norm pool", "relu norm pool", (5e-4, 2.0), False, 0.5),
    "paper_conv6": ((0, 0), 2, "relu norm pool", "relu norm pool", (5e-4, 2.0), False, 0.5),
    "original_code": ((0, 3), 2, "norm pool relu", "relu norm map pool", (1e-4, 2.0), False, 0.5),
    "fall2011": ((0, 3), 2, "norm pool relu", "relu norm map pool", (1e-4, 2.0), False, 0.5),
    "caffenet": ((0, 0), 2, "relu pool norm", "relu pool norm", (1e-4, 1.0), True, 1.0),
    "bvlc_alexnet": ((0, 0), 2, "relu norm pool", "relu norm pool", (1e-4, 1.0), True, 1.0),
    "one_weird_trick": ((0, 3), 1, "norm pool relu", "relu norm pool", (1e-4, 2.0), True, 0.5),
    "torchvision": ((2, 2), 1, "relu pool", "relu pool", (0.0, 1.0), True, 1.0),
    "alexnet_bn": ((0, 0), 2, "relu pool norm", "relu pool norm", None, True, 1.0),
}


def torch_forward(torch, params, x, preset, activation):
    """A network written independently, in PyTorch's own grouped layers."""
    f = torch.nn.functional
    act = {"relu": f.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[activation]
    padding, columns, layer1, layer2, constants, across, scale = PRESETS[preset]

    def w(name):
        kernel = params[name]["kernel"]
        return kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T

    def batch_norm(v, layer):
        mean, variance = (params[f"norm{layer}"][n][:, None, None] for n in ("mean", "variance"))
        return (v - mean) / (variance + 1e-5).sqrt()

    def norm(v, layer):
        if constants is None:
            return batch_norm(v, layer)
        parts = [v] if across else v.chunk(2, dim=1)  # each column by itself
        alpha, k = constants
        return torch.cat([f.local_response_norm(p, 5, alpha, 0.75, k) for p in parts], dim=1)

    steps = {
        "relu": act,
        "norm": lambda v: norm(v, 1 if len(v[0]) == len(params["conv1"]["bias"]) else 2),
        "map": lambda v: v / (1 + 0.001 * f.avg_pool2d(v * v, 5, 1, 2)) ** 0.75,
        "pool": lambda v: f.max_pool2d(v, 3, 2),
    }
    b = {name: params[name]["bias"] for name in params if "bias" in params[name]}
    v = f.conv2d(f.pad(x, 2 * padding), w("conv1"), b["conv1"], stride=4)
    for step in layer1.split():
        v = steps[step](v)
    v = f.conv2d(v, w("conv2"), b["conv2"], padding=2, groups=columns)
    for step in layer2.split():
        v = steps[step](v)
    after = (lambda v, _: v) if constants else batch_norm
    v = after(act(f.conv2d(v, w("conv3"), b["conv3"], padding=1)), 3)
    v = after(act(f.conv2d(v, w("conv4"), b["conv4"], padding=1, groups=columns)), 4)
    v = act(f.conv2d(v, w("conv5"), b["conv5"], padding=1, groups=columns))
    v = f.max_pool2d(v, 3, 2)
    if "conv6" in params:  # reads both columns; nothing is pooled after it
        v = act(f.conv2d(v, w("conv6"), b["conv6"], padding=1))
    v = v.permute(0, 2, 3, 1).flatten(1)
    v = scale * act(f.linear(v, w("fc6"), b["fc6"]))
    v = scale * act(f.linear(v, w("fc7"), b["fc7"]))
    if "fc7_linear" in params:
        v = f.linear(v, w("fc7_linear"), b["fc7_linear"])
    return f.linear(v, w("fc8"), b["fc8"])


def relative_error(got, want):
    return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


# caffenet is bvlc_alexnet with layers in another order, which original_code covers too.
@pytest.mark.parametrize(
    ("preset", "activation"),
    [
        *((name, "relu") for name in PRESETS if name != "caffenet"),
        pytest.param("caffenet", "relu", marks=pytest.mark.exhaustive),
        ("bvlc_alexnet", "tanh"),
        ("original_code", "sigmoid"),
        ("paper_conv6", "tanh"),
    ],
)
def test_whole_network_against_torch(preset, activation):
    """Logits and the gradient of every parameter, float32; the paper's at its full width.

    In about one image of four, a ReLU or a pooling window has a near-tie that rounding resolves
    differently in PyTorch, which moves the gradients below it by more than the tolerance; the other
    images agree to 2e-6. So the test draws images until every gradient of two is right, six at
    most; the logits must be right for all.
    """
    torch = pytest.importorskip("torch")
    recipe = configs.get(preset)
    side, config = recipe.image_size, recipe.model
    config.activation = activation
    config.init = "he"  # activations of a trained network's size, so that LRN matters
    config.width = 1.0 if preset == "paper" else 0.25
    network = models.build(config, 1000, "float32")
    made, norms = standard_tree.initial_variables(network, jax.random.key(1), side)
    params = made | norms
    for statistics in norms.values():
        statistics["mean"] = 10.0 + jnp.arange(len(statistics["mean"])) % 7
        statistics["variance"] = 100.0 + jnp.arange(len(statistics["variance"])) % 5
    # A copy: torch must not see the memory of a jax array.
    theirs = jax.tree.map(lambda p: torch.from_numpy(np.array(p)).requires_grad_(), params)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(p, x, weights):
        logits = standard_tree.logits(network, p, x)
        return (logits * weights).sum(), logits

    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        spread = 60 if activation == "relu" else 1  # saturated units would tie in every pooling
        x = rng.normal(0, spread, (1, side, side, 3)).astype(np.float32)
        weights = rng.normal(size=(1, 1000)).astype(np.float32)
        for leaf in jax.tree.leaves(theirs):
            leaf.grad = None
        image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        want = torch_forward(torch, theirs, image, preset, activation)
        (want * torch.from_numpy(weights)).sum().backward()
        grads, got = gradient(params, x, weights)
        assert relative_error(got, want.detach().numpy()) <= 1e-4
        compared = jax.tree.map(lambda g, w: relative_error(g, w.grad.numpy()), grads, theirs)
        errors.append(max(jax.tree.leaves(compared)))
        if sum(error <= 1e-4 for error in errors) == 2:
            return
    pytest.fail(f"the worst gradients differ by {errors}")
