# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The paper, section by section
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/alexnet_jax/blob/main/launch/notebooks/the_paper.ipynb)
#
# A. Krizhevsky, I. Sutskever, G. Hinton, *ImageNet Classification with Deep Convolutional Neural
# Networks*, NIPS 2012. Each section below says what the paper claims, and runs it: with this package's
# own code beside the arithmetic done by hand. Nothing is downloaded; every picture is made here.

# %%
# Adds this package to an environment that has JAX (Colab, Kaggle, yours); changes nothing there.
import importlib.util
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/alexnet_jax"
here = pathlib.Path.cwd()
checkouts = [p for p in (here, *here.parents) if (p / "alexnet_jax" / "main.py").is_file()]
sys.path += map(str, checkouts[:1])
if importlib.util.find_spec("alexnet_jax") is None:
    pip = [sys.executable, "-m", "pip", "install", "-q", f"git+{REPOSITORY}"]
    subprocess.run(pip, check=True)

# %%
import jax

try:
    jax.config.update("jax_num_cpu_devices", 2)  # has no effect on GPUs and TPUs
except RuntimeError:
    print(f"JAX was started with {jax.device_count()} devices")

import tempfile

import jax.numpy as jnp
import numpy as np

from alexnet_jax import configs, inference, model, train
from alexnet_jax.figures.picture import Picture
from alexnet_jax.inference import pictures
from alexnet_jax.layers import standard_tree

home = pathlib.Path(tempfile.mkdtemp(prefix="alexnet-"))


def small(**fields):
    """Returns the default recipe for drawn patterns: AlexNet at a quarter of its width."""
    config = configs.get("default")
    config.data_dir, config.mesh.data = str(home / "data"), 1
    config.num_epochs, config.log_every_steps = 3, 10
    for name, value in fields.items():
        setattr(config, name, value)
    return config


# %% [markdown]
# ## 3.1 ReLU
#
# *Claim: a network with ReLUs reaches 25 % training error on CIFAR-10 six times faster than the same
# network with tanh.* The gradient of tanh and of the sigmoid vanishes where they saturate; that of
# max(x, 0) is one wherever a unit is on.

# %%
x = np.linspace(-6, 6, 241, dtype=np.float32)
figure = Picture(figsize=(10, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
for name, f in (("ReLU", jax.nn.relu), ("tanh", jnp.tanh), ("sigmoid", jax.nn.sigmoid)):
    left.plot(x, f(x), label=name)
    right.plot(x, jax.vmap(jax.grad(f))(x), label=name)
left.set(title="activation", ylim=(-1.2, 3), xlabel="x")
right.set(title="its gradient: where it is small, nothing is learned", xlabel="x")
left.legend()
figure

# %% [markdown]
# The same network three times, with one field changed.

# %%
for activation in ("relu", "tanh", "sigmoid"):
    config = small()
    config.model.activation = activation
    train.train(config, home / activation)
pictures.curves([home / name for name in ("relu", "tanh", "sigmoid")])

# %% [markdown]
# The sigmoid learns nothing in this time. tanh keeps up, or leads: kernels start here as He et al.
# start them (2015), so that no unit saturates. With the start of the authors' own files, on CIFAR-10,
# tanh needs 3.3 times as many epochs as ReLU at each one's best rate, and 6.6 times at the same rate;
# with a start scaled by its inputs, 0.6 times ([experiments/cifar](../../experiments/cifar/README.md)).
# The claim is true of networks as they were started in 2012.
#
# ## 3.2 Two GPUs
#
# *Claim: two GPUs of 3 GB hold what one cannot: half of the kernels each; they talk in certain layers
# only. It also lowers the errors by 1.7 and 1.2 points against one column of half the width.*
#
# Figure 2, read from the compiled program of a step that is split over two devices:

# %%
from alexnet_jax.configs.sizes import feature_sizes
from alexnet_jax.figures import split
from alexnet_jax.steps import communication

devices = min(2, jax.device_count())
config = small(num_classes=12)
config.mesh.model = devices
collectives = communication.compiled(train.compile_train_step(config))
split.draw(config, 12, collectives)

# %% [markdown]
# conv2, conv4 and conv5 read the maps of their own device; conv3 and the fully connected layers read
# both. [two_gpus](two_gpus.ipynb) goes on from here: memory, gradients, eight devices.
#
# ## 3.3 Local response normalisation
#
# *Claim: it lowers the errors by 1.4 and 1.2 points.* A unit is divided by what its neighbours do:
#
# $$b^i = a^i \Big/ \Big(k + \alpha \sum_{j = i - n/2}^{i + n/2} (a^j)^2\Big)^\beta, \qquad k = 2,\ n = 5,\ \alpha = 10^{-4},\ \beta = 0.75$$
#
# By hand for one channel of one pixel, and by the package:

# %%
from alexnet_jax.ops.lrn import lrn, spatial_response_norm
from alexnet_jax.ops.lrn_formula import CONVENTIONS, Lrn

rng = np.random.default_rng(0)
pixel = rng.uniform(0, 200, 8).astype(np.float32)  # eight channels
i = 3
by_hand = pixel[i] / (2 + 1e-4 * (pixel[i - 2 : i + 3] ** 2).sum()) ** 0.75
print(f"by hand {by_hand:.6f}, by the package {lrn(pixel)[i]:.6f}")
assert np.isclose(by_hand, lrn(pixel)[i], rtol=1e-5)

# %% [markdown]
# Four frameworks print the same constants and mean three different things: some divide alpha by the
# window, some have k = 1. This is why weights from elsewhere are off by a little, or by a lot:

# %%
for name, (divided, k) in CONVENTIONS.items():
    value = lrn(pixel, Lrn.named(name))[i]
    rule = f"alpha {'/ 5' if divided else '   '}, k = {k:g}"
    print(f"{name:14} {rule:22} {value:9.4f}")

# %% [markdown]
# The name comes from lateral inhibition: a neuron that fires quietens those beside it. On the retina
# that gives the Hermann grid, whose crossings look darker than the streets, for they have more light
# around them. The spatial form of the formula (which the authors' net #145 has after its second
# normalisation) does the same to a picture of the grid:

# %%
grid = np.zeros((96, 96), np.float32)
for street in range(12, 96, 24):
    grid[street : street + 6] = grid[:, street : street + 6] = 1
inhibition = Lrn(size=13, scale=0.05, beta=0.75, k=1.0)
answer = np.asarray(spatial_response_norm(grid[None, :, :, None], inhibition))[0, :, :, 0]
crossing, street = answer[39, 39], answer[39, 27]
figure = Picture(figsize=(9, 4), layout="constrained")
for axes, picture, title in zip(
    figure.subplots(1, 2), (grid, answer), ("the grid", "what is left of it"), strict=True
):
    axes.imshow(picture, cmap="gray")
    axes.set(title=title, xticks=[], yticks=[])
print(f"in a street {street:.2f}, at a crossing {crossing:.2f}")
figure

# %% [markdown]
# ## 3.4 Overlapping pooling
#
# *Claim: windows of 3 that move by 2 lower the errors by 0.4 and 0.3 points against windows of 2.*

# %%
from alexnet_jax.ops.pooling import MAX_POOLS

row = np.array([1, 0, 4, 0, 2, 0, 3], np.float32)
plane = np.tile(row, (7, 1))[None, :, :, None]
for size, pool in MAX_POOLS.items():
    print(f"windows of {size}: {np.asarray(pool(plane))[0, 0, :, 0].tolist()} of {row.tolist()}")

# %% [markdown]
# ## 3.5 Every shape, by hand and by the code; and 224 or 227
#
# A convolution of size f, stride s and padding p makes (S + 2p - f) / s + 1 of S pixels. The paper's
# text says 224, its figure 2 says 55 x 55 after conv1. Which image gives 55?

# %%
for side, padding in ((224, 0), (227, 0), (224, 3)):
    outcome = (side + padding - 11) / 4 + 1
    print(f"{side} pixels and {padding} of padding in all: {outcome:g}")

# %% [markdown]
# 224 alone does not: 54.25. Either crops are 227, as `paper` and Caffe have it, or 224 with three zeros
# at one side, as the authors' code has it (`original_code`). The rest follows:


# %%
def after(side, size, stride=1, padding=0):
    """Returns the side of a map."""
    return (side + 2 * padding - size) // stride + 1


conv1 = after(227, 11, 4)
pool1 = after(conv1, 3, 2)
conv2 = after(pool1, 5, padding=2)
pool2 = after(conv2, 3, 2)
conv3 = conv4 = conv5 = after(pool2, 3, padding=1)
pool5 = after(conv5, 3, 2)
paper = configs.get("paper")
assert (conv1, pool1, conv2, pool2, conv5, pool5) == tuple(feature_sizes(paper))

network = model.build(paper.model, 1000, "float32")
shapes = standard_tree.abstract_parameters(network, paper.image_size)
fan_in = {  # two columns: conv2, conv4 and conv5 see half of the maps before them
    "conv1": 11 * 11 * 3,
    "conv2": 5 * 5 * 96 // 2,
    "conv3": 3 * 3 * 256,
    "conv4": 3 * 3 * 384 // 2,
    "conv5": 3 * 3 * 384 // 2,
    "fc6": pool5 * pool5 * 256,
    "fc7": 4096,
    "fc8": 4096,
}
units = dict(zip(fan_in, (96, 256, 384, 384, 256, 4096, 4096, 1000), strict=True))
total = 0
for layer, inputs in fan_in.items():
    hand = inputs * units[layer] + units[layer]
    code = sum(int(np.prod(leaf.shape)) for leaf in shapes[layer].values())
    assert hand == code
    total += hand
    print(f"{layer}: ({inputs:5} + 1) x {units[layer]:4} = {hand:11,}")
print(f"in all {total:,}: the paper's 60 million; fc6 alone has {9216 * 4096 / total:.0%}")

# %% [markdown]
# ## 4.1 Augmentation
#
# *Claim: crops of 224 out of 256, and their mirror images, make the training set 2,048 times as large.*
# (256 - 224)^2 corners and two mirror images are 2,048; with the last row and column of corners it is
# 33^2 x 2 = 2,178.
#
# *Claim: adding multiples of the colour axes of ImageNet lowers the top-1 error by over 1 point.* The
# paper does not say whether its "eigenvalues" are of pixels on 0 to 255 or 0 to 1, or their roots. The
# authors' code has standard deviations; what most frameworks copied is half as strong on the first axis
# and hardly there on the others. Both, on a picture painted here (`photograph` may be one of yours,
# 256 x 256 x 3 of uint8):

# %%
from alexnet_jax.steps.augment import LIGHTING, Views


def painted(side=256):
    """Paints a landscape, (side, side, 3) uint8."""
    y, x = np.mgrid[0:side, 0:side] / side
    sky = np.stack([0.45 + 0.4 * y, 0.62 + 0.25 * y, 0.95 - 0.1 * y], -1)
    hill = 0.62 + 0.09 * np.sin(5 * x) + 0.04 * np.sin(17 * x)
    grass = np.stack([0.25 + 0.2 * x, 0.5 - 0.2 * y, 0.18 + 0 * x], -1)
    picture = np.where((y > hill)[..., None], grass, sky)
    sun = (x - 0.75) ** 2 + (y - 0.2) ** 2 < 0.006
    picture[sun] = (1.0, 0.93, 0.6)
    house = (abs(x - 0.3) < 0.09) & (abs(y - 0.68) < 0.08)
    picture[house] = (0.75, 0.3, 0.22)
    noise = np.random.default_rng(0).normal(0, 0.02, picture.shape)
    return (255 * np.clip(picture + noise, 0, 1)).astype(np.uint8)


photograph = painted()


def views_of(lighting, count, **fields):
    """Draws training views of the photograph, (count, 224, 224, 3) uint8."""
    config = configs.get("original_code")
    config.augment.lighting, config.augment.chunk = lighting, 1
    for name, value in fields.items():
        setattr(config.augment, name, value)
    drawn = Views.of(config)
    numbers = np.arange(count, dtype=np.int32)
    batch = {"image": np.tile(photograph, (count, 1, 1, 1)), "index": numbers}
    batch |= {"epoch": numbers, "position": numbers}
    pixels = np.asarray(drawn.training(jax.tree.map(jnp.asarray, batch), jax.random.key(1)))
    return np.clip(pixels + np.asarray(config.augment.mean), 0, 255).astype(np.uint8)


rows = {
    "crops and flips": views_of("none", 6),
    "standard deviations\n(authors' code)": views_of("stddev", 6, random_crop=False, flip=False),
    "eigenvalues of [0, 1]\n(common copies)": views_of(
        "eigenvalue_unit_range", 6, random_crop=False, flip=False
    ),
}
figure = Picture(figsize=(12, 6), layout="constrained")
axes = figure.subplots(len(rows), 6)
for line, (name, shown) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name)
    for axis, view in zip(line, shown, strict=True):
        axis.imshow(view)
        axis.set(xticks=[], yticks=[])
figure

# %%
for name in ("stddev", "eigenvalue_unit_range"):
    scales, _ = LIGHTING[name]
    moved = ", ".join(f"{0.1 * scale:.2f}" for scale in sorted(scales, reverse=True))
    print(f"{name:22} one standard deviation moves the three axes by {moved} of 255")

# %% [markdown]
# ## 4.2 Dropout
#
# *Claim: without it the network overfits substantially; it takes twice as many updates.* While it
# trains, half of the units of fc6 and fc7 are zero; when it answers, all are there and count half. The
# mean over many masks is what the whole layer gives:

# %%
from alexnet_jax.ops.elementwise import dropout, keep_mask

activations = jnp.asarray(rng.uniform(0, 1, 8).astype(np.float32))
masks = keep_mask(jax.random.split(jax.random.key(0), 20_000), 8, 0.5)
dropped = jax.vmap(lambda keep: dropout(activations, keep))(masks)
print("mean over 20,000 masks", np.round(dropped.mean(0), 2))
print("half of each unit     ", np.round(activations / 2, 2))

# %% [markdown]
# ## 5 The update
#
# $$v \leftarrow 0.9\,v - 0.0005\,\epsilon\,w - \epsilon\,g, \qquad w \leftarrow w + v$$
#
# The rate is inside the velocity: most frameworks have it outside, which differs when the rate falls.
# Two updates by hand, with a rate that falls tenfold in between, beside the package's:

# %%
from alexnet_jax.steps import optimizer

settings = configs.get("paper").optimizer
w, v = 1.0, 0.0
params = {"fc8": {"kernel": jnp.float32(w)}}
update = optimizer.build(settings)
state = update.init(params)
for gradient, rate in ((2.0, 0.01), (1.5, 0.001)):
    v = 0.9 * v - 0.0005 * rate * w - rate * gradient
    w = w + v
    step, state = update.update(
        {"fc8": {"kernel": jnp.float32(gradient)}},
        state,
        params,
        rates={"fc8": {"kernel": jnp.float32(rate)}},
        finite=jnp.bool_(True),
    )
    params = jax.tree.map(jnp.add, params, step)
    print(f"by hand {w:.8f}, by the package {params['fc8']['kernel']:.8f}")
assert np.isclose(w, params["fc8"]["kernel"], rtol=1e-6)

# %% [markdown]
# ## 6.1 What the columns look like
#
# *Claim: the kernels of one GPU are colour-agnostic, those of the other colour-specific, in every run.*
# Three epochs of drawn patterns only hint at kernels; see
# [experiments/ablations](../../experiments/ablations/README.md) for what longer runs of ours show: the
# halves did not specialise on ten classes of photographs.

# %%
trained = inference.load(home / "relu")
pictures.kernels(trained)

# %% [markdown]
# ## 6 Results
#
# | | the paper, top-1 / top-5 | here |
# |---|---|---|
# | ILSVRC-2010, test | 37.5 / 17.0 % | not measured: ImageNet was not at hand |
# | ILSVRC-2012, validation | 40.7 / 18.2 % | not measured |
# | parameters | 60 million | 60,965,224 |
# | a photograph through Caffe's network | - | each map within 1e-5 of Caffe's own |
# | ReLU against tanh, CIFAR-10 (figure 1) | 6 times | 3.3 times at each one's best rate |
# | one column of half the width | +1.7 points | +2.9 ± 1.9 (ten classes, five seeds) |
# | normalisation, CIFAR-10 | 2 points | 1.2 ± 0.3 after four epochs, level later |
# | ten views against one | -1.5 points | -1.7 (ten classes, five seeds) |
# | five networks averaged | -2.6 points | -1.7 (ten classes) |
# | the columns' colours | in every run | not in ours |
#
# Every row has its command and its spread in [experiments](../../experiments).

# %%
# What was made here is in `home`; this removes it.
import shutil

shutil.rmtree(home)
