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
# # Your photographs
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/alexnet_jax/blob/main/launch/notebooks/your_photos.ipynb)
#
# A network that was trained before learns your classes from a few photographs of each. You need a
# folder `train/CLASS/photograph` and `val/CLASS/photograph`, and weights: torchvision's `alexnet.pth`, a
# `.caffemodel`, ONNX, safetensors, or a workdir. As it stands the notebook paints its photographs and
# trains its weights, so that it runs anywhere in minutes.

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
import tempfile

import numpy as np
import PIL.Image

from alexnet_jax import configs, inference, train
from alexnet_jax.inference import pictures
from alexnet_jax.inference.live import moving_curves

home = pathlib.Path(tempfile.mkdtemp(prefix="alexnet-"))
photographs = ""  # your folder; empty: painted ones
weights = ""  # your file or workdir; empty: trained here

# %% [markdown]
# ## The photographs
#
# Three kinds of scenes, 40 of each to learn from and 20 to test. With a folder of yours nothing is
# painted.


# %%
def painted(kind, rng, side=128):
    """Paints a scene, (side, side, 3) uint8."""
    y, x = np.mgrid[0:side, 0:side] / side
    horizon = rng.uniform(0.45, 0.65)
    sky = np.stack([0.5 + 0.3 * y, 0.65 + 0.2 * y, 0.95 + 0 * y], -1)
    ground = np.ones((side, side, 3)) * rng.uniform(0.2, 0.5, 3)
    picture = np.where((y > horizon)[..., None], ground, sky)
    for _ in range(rng.integers(2, 5)):
        cx, width = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.12)
        if kind == "houses":
            there = (abs(x - cx) < width) & (y > horizon - width) & (y < horizon + 0.5 * width)
            colour = rng.uniform(0.5, 0.9, 3) * (1.0, 0.6, 0.5)
        elif kind == "trees":
            there = (x - cx) ** 2 + (y - horizon + width) ** 2 < width**2
            colour = (0.15, rng.uniform(0.35, 0.6), 0.15)
        else:
            there = abs(y - horizon + 0.15 * np.sin(9 * (x + cx))) < width / 3
            colour = rng.uniform(0.6, 0.95, 3)
        picture[there] = colour
    noisy = picture + rng.normal(0, 0.03, picture.shape)
    return (255 * np.clip(noisy, 0, 1)).astype(np.uint8)


if not photographs:
    photographs = str(home / "photographs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 20)):
        for kind in ("houses", "trees", "waves"):
            folder = pathlib.Path(photographs, split, kind)
            folder.mkdir(parents=True)
            for number in range(count):
                PIL.Image.fromarray(painted(kind, rng)).save(folder / f"{number}.jpg", quality=90)

# %% [markdown]
# ## The weights
#
# Weights from elsewhere are better the more photographs they have seen. Here two epochs of drawn
# patterns stand for ImageNet.

# %%
if not weights:
    config = configs.get("default")
    config.data_dir, config.num_epochs = str(home / "data"), 2
    with moving_curves(home / "before"):
        train.train(config, home / "before")
    weights = str(home / "before")

# %% [markdown]
# ## Fine-tune
#
# The recipe `fine_tune` has a tenth of the usual rate, and ten times as much for layers that begin anew.
# Network, crops and colours come with the weights; the header says of each layer whether it was taken.

# %%
config = configs.get("fine_tune")
config.dataset, config.init.weights = photographs, weights
config.batch_size, config.num_epochs, config.log_every_steps = 16, 10, 5
with moving_curves(home / "tuned"):
    summary = train.train(config, home / "tuned")
print(f"{100 * summary['top1_error']:.1f} % of {summary['count']} are taken for another class")

# %% [markdown]
# ## Which classes are hard
#
# Errors by class, and which class is taken for which other.

# %%
network = inference.load(home / "tuned")
pictures.errors_by_class(network, views=1)

# %%
pictures.confusion(network, views=1)

# %% [markdown]
# ## What it has learned
#
# fc7's activations describe a photograph; those that are near each other look alike to the network. The
# first of each row asks, the others are the nearest of the training split.

# %%
pictures.neighbours(network)

# %%
six = sorted(pathlib.Path(photographs, "val").rglob("*.jpg"))[:6]
features = network.features(six, "fc7")
print("activations of six photographs:", features.shape)

# %%
# What was made here is in `home`; this removes it. Your photographs and weights stay.
import shutil

shutil.rmtree(home)
