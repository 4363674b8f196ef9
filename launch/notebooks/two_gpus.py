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
# # Two GPUs, and eight
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/alexnet_jax/blob/main/launch/notebooks/two_gpus.ipynb)
#
# The paper split AlexNet over two GPUs because one had too little memory: a column of channels each,
# which meet in conv3 and in the fully connected layers. Here that split is a mesh axis. You see where
# each parameter lives, count what the devices send each other in the compiled program, and watch the
# same curve on four meshes. It runs on what there is: GPUs, TPU cores, or eight devices that a CPU
# simulates.

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

# Eight devices of a CPU; has no effect on GPUs and TPUs. JAX takes it only before its first use.
try:
    jax.config.update("jax_num_cpu_devices", 8)
except RuntimeError:
    print(f"JAX was started with {jax.device_count()} devices: restart the runtime to have eight")
jax.devices()

# %%
import tempfile

import numpy as np

from alexnet_jax import configs, train
from alexnet_jax.figures import split
from alexnet_jax.inference import pictures
from alexnet_jax.steps import communication
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import create_state

home = pathlib.Path(tempfile.mkdtemp(prefix="alexnet-"))
devices = jax.device_count()

# %% [markdown]
# ## Where each parameter lives
#
# On a mesh of 1 x 2 each device holds one column: half of the kernels of every convolution, half of
# the units of fc6 and fc7. `data` shares out the batch, `model` the channels.

# %%
small = configs.get("default")
small.data_dir = str(home / "data")
small.mesh.data, small.mesh.model = 1, min(2, devices)

state = create_state(Setup.of(small, 12))
print(f"{'':13}{'whole':>18}{'on a device':>18}  devices that hold a part of their own")
for layer, parts in state.params.items():
    for name, array in parts.items():
        shards = array.addressable_shards
        own = len({str(shard.index) for shard in shards})
        print(f"{layer:6}{name:7}{str(array.shape):>18}{str(shards[0].data.shape):>18}  {own}")

# %%
if importlib.util.find_spec("rich"):  # as Colab has it
    jax.debug.visualize_array_sharding(state.params["fc7"]["kernel"])

# %% [markdown]
# ## What they send each other
#
# The paper's figure 2 shows where the GPUs talk. Here are the collectives of the compiled update, read
# from the program, not from the theory: gathering activations forward, and summing their gradients back.

# %%
program = train.compile_train_step(small)
collectives = communication.compiled(program)
for found in collectives:
    way = "backward" if found.backward else "forward"
    print(f"{found.layer:8}{way:10}{found.kind:20}{found.moved / 1e3:10.1f} kB sent by each device")

# %% [markdown]
# The same as a picture. It should look familiar.

# %%
split.draw(small, 12, collectives)

# %% [markdown]
# ## One network, four meshes
#
# However it is split, it is the same network: the same seed gives the same curve, up to rounding.

# %%
meshes = {"1 x 1": (1, 1), "1 x 2": (1, 2), "2 x 2": (2, 2), "4 x 2": (4, 2)}
meshes = {name: shape for name, shape in meshes.items() if shape[0] * shape[1] <= devices}
last = {}
for name, (data, model) in meshes.items():
    config = configs.get("default")
    config.data_dir = str(home / "data")
    config.mesh.data, config.mesh.model = data, model
    config.num_steps, config.log_every_steps = 60, 5
    config.optimizer.schedule.kind = "constant"
    last[name] = train.train(config, home / name.replace(" ", ""))
pictures.curves([home / name.replace(" ", "") for name in meshes])

# %%
losses = {name: row["loss"] for name, row in last.items()}
for name, loss in losses.items():
    print(f"{name}: validation loss {loss:.6f}")
spread = max(losses.values()) - min(losses.values())
print(f"the largest difference is {spread:.2g}")

# %% [markdown]
# ## One weird trick
#
# Two years later Krizhevsky split the layers by what they cost: convolutions by images, since they have
# few parameters, and the fully connected layers by units, since they have many (`scheme="hybrid"`). For
# the paper's network, by what each scheme asks for:

# %%
for devices_used in (2, 8):
    for scheme in ("columns", "hybrid"):
        paper = configs.get("paper")
        paper.batch_size = 1024
        paper.mesh.data, paper.mesh.model, paper.mesh.scheme = 1, devices_used, scheme
        sent = sum(c.moved for c in communication.expected(paper, 1000, 1)) / 1e6
        print(f"{devices_used} devices, {scheme:8}{sent:7.0f} MB sent by each for 1,024 images")

# %% [markdown]
# ## A scheme of your own
#
# A layer's split is a few lines of JAX. Here fc7 is cut along its inputs instead of its units: each
# device multiplies what it has, and one all-reduce adds up the products.

# %%
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

grid = Mesh(np.array(jax.devices()[: min(2, devices)]), ("model",))
rng = np.random.default_rng(0)
x = rng.standard_normal((32, 1024), np.float32)
kernel = rng.standard_normal((1024, 1024), np.float32)


def by_inputs(x_part, kernel_part):
    """Adds up the products of the parts, (B, I / n) and (I / n, O) -> (B, O)."""
    return jax.lax.psum(x_part @ kernel_part, "model")


split_fc7 = jax.jit(
    jax.shard_map(by_inputs, mesh=grid, in_specs=(P(None, "model"), P("model")), out_specs=P())
)
print("as without a split:", np.allclose(split_fc7(x, kernel), x @ kernel, atol=1e-3))
for found in communication.compiled(split_fc7.lower(x, kernel).compile()):
    print(f"{found.kind}: {found.moved / 1e3:.0f} kB sent by each device")

# %%
# What was made here is in `home`; this removes it.
import shutil

shutil.rmtree(home)
