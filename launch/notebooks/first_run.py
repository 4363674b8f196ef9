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
# # A first run
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/alexnet_jax/blob/main/launch/notebooks/first_run.ipynb)
#
# AlexNet at a quarter of its width learns to tell twelve kinds of drawn patterns, in a few minutes on
# two cores and in one on a GPU. You see the curves move, ask the network about a picture, look at the
# kernels of its two columns, stop a run in the middle and go on with it.

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
import io
import tempfile

import PIL.Image

from alexnet_jax import configs, inference, train
from alexnet_jax.inference import pictures
from alexnet_jax.inference.live import moving_curves

# Where the run is kept. On Colab a folder of your Drive outlives the machine:
#   from google.colab import drive; drive.mount("/content/drive")
#   home = pathlib.Path("/content/drive/MyDrive/alexnet")
home = pathlib.Path(tempfile.mkdtemp(prefix="alexnet-"))
workdir = home / "first"

# %% [markdown]
# ## Train
#
# A config is a recipe and what you change of it. `configs.get` takes the names that
# `python -m alexnet_jax.main --list_recipes` lists. Two epochs are enough to see it learn.

# %%
config = configs.get("default")
config.data_dir = str(home / "data")
config.num_epochs = 2
config.log_every_steps = 20

with moving_curves(workdir):
    summary = train.train(config, workdir)

# %% [markdown]
# ## What it answers
#
# `inference.load` reads the best checkpoint of a workdir. A network takes paths, PIL's images and
# arrays of pixels.

# %%
network = inference.load(workdir)
pictures.answers(network, images=8)

# %%
source, split = network.source("")  # the evaluation split
example = source[5]
[answer] = network.predict(PIL.Image.open(io.BytesIO(example.image)))
print(f"{split} image 5 is of class {source.class_names[example.label]}")
print(answer)

# %% [markdown]
# ## What the two columns look for
#
# The paper's two GPUs held a column each. Their first kernels specialise: one column in form, the
# other in colour. After two epochs it is a hint; [longer runs](../../experiments/ablations) measure it.

# %%
pictures.kernels(network)

# %% [markdown]
# ## Stop, and go on
#
# Press the stop button while a cell trains: the state is saved, and the cell ends with one line. The
# same call goes on from there. Here a longer run of the same workdir goes on after the first.

# %%
config.num_epochs = 3
with moving_curves(workdir):
    summary = train.train(config, workdir)
print(f"{100 * summary['top1_error']:.1f} % after {summary['step']:,} updates")

# %% [markdown]
# The command line does the same, in a cell too; its flags come after `--`:

# %%
# %run -m alexnet_jax.evaluate -- --workdir={workdir} --views=10

# %%
# What was made here is in `home`; this removes it.
import shutil

shutil.rmtree(home)
