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
# # On a TPU
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/alexnet_jax/blob/main/launch/notebooks/tpu.ipynb)
#
# What changes on a TPU: the mesh goes over its cores, matrices are multiplied in bfloat16, and the images
# are far away. The same cells run on a CPU, which simulates eight cores; there the answers are the same
# and the times mean little. In Colab choose a TPU under *Runtime*; on a TPU VM open this notebook there.

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

# Eight devices of a CPU; has no effect on TPUs. JAX takes it only before its first use.
try:
    jax.config.update("jax_num_cpu_devices", 8)
except RuntimeError:
    print(f"JAX was started with {jax.device_count()} devices: restart the runtime to have eight")
kind = jax.devices()[0].device_kind
print(f"{jax.device_count()} x {kind}, {jax.local_device_count()} of them this process's own")

# %%
import tempfile

import numpy as np

from alexnet_jax import configs, train
from alexnet_jax.inference import pictures
from alexnet_jax.ops.compilation import Numerics
from alexnet_jax.steps import communication
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import abstract_state

home = pathlib.Path(tempfile.mkdtemp(prefix="alexnet-"))
devices = jax.device_count()

# %% [markdown]
# ## A mesh over the cores
#
# With all cores on `data` each has the whole network and its part of the batch. `hybrid` is Krizhevsky's
# layout of 2014, and a TPU's network is made for what it sends: images are shared out for the
# convolutions, units for the fully connected layers, so that a core holds its part of their 58.6 million
# parameters. In a pod the cores are in the order of their network, so that neighbours talk to neighbours.

# %%
schemes = {
    "data": {"mesh.model": 1},
    "columns": {"mesh.model": min(2, devices)},
    "hybrid": {"mesh.model": devices, "mesh.scheme": "hybrid"},
}
for name, fields in schemes.items():
    paper = configs.get("paper")
    paper.batch_size = 128 * devices
    for field, value in fields.items():
        setattr(paper.mesh, field.removeprefix("mesh."), value)
    setup = Setup.of(paper, 1000)
    parameters = jax.tree.leaves(abstract_state(setup).params)
    held = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in parameters)
    data = setup.mesh.shape["data"]
    sent = sum(c.moved for c in communication.expected(paper, 1000, data))
    print(
        f"{name:8} {held / 1e6:5.1f} million parameters on a core, {sent / 1e6:5.0f} MB sent a step"
    )

# %% [markdown]
# ## bfloat16, and what float32 means
#
# A TPU's matrix unit takes bfloat16, which has 8 of the 24 bits of a float32. So there are three ways:
#
# - `precision="bfloat16"`: activations are bfloat16 too, and take half the memory; parameters stay
#   float32.
# - `matmul_precision="default"`: activations are float32, and a product rounds them to bfloat16 first.
# - `matmul_precision="highest"`: products are those of float32, in several passes. The recipe `paper` and
#   its kin ask for it, since the paper's GPUs had nothing else.
#
# An NVIDIA GPU's `default` is TF32, with 11 bits. A CPU's float32 is float32: there the last two lines
# are one program.


# %%
def product(numerics, dtype):
    """Returns a matrix product's largest error, as a share of the largest number in it."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((512, 512)).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    with numerics.apply():
        found = np.asarray(jax.jit(jax.numpy.matmul)(a.astype(dtype), b.astype(dtype)))
    return np.abs(found.astype(np.float64) - exact).max() / np.abs(exact).max()


ways = {
    "bfloat16": ("bfloat16", "default"),
    "float32, default": ("float32", "default"),
    "float32, highest": ("float32", "highest"),
}
for name, (dtype, matmul) in ways.items():
    error = product(Numerics(matmul_precision=matmul), jax.numpy.dtype(dtype))
    print(f"{name:17} a product is off by {error:.1e}")

# %% [markdown]
# And the price of each, on a small net and drawn patterns. The header of a run says what its float32
# is multiplied in, where that is something coarser.

# %%
speeds = {}
for name, (precision, matmul) in ways.items():
    config = configs.get("default")
    config.data_dir = str(home / "data")
    config.precision, config.matmul_precision = precision, matmul
    config.num_steps, config.log_every_steps, config.eval_every_epochs = 60, 10, 90
    workdir = home / name.replace(", ", "_")
    train.train(config, workdir)
    rows = [row for row in pictures.read_rows(workdir / "metrics.jsonl") if row["split"] == "train"]
    speeds[name] = float(np.median([row["images_per_second"] for row in rows[2:]]))

# %%
for name, speed in speeds.items():
    print(
        f"{name:17} {speed:7,.0f} images/s, {speed / speeds['float32, highest']:.2f} times highest"
    )

# %% [markdown]
# The curves lie on each other, or nearly: training forgives bfloat16.

# %%
pictures.curves([home / name.replace(", ", "_") for name in ways])

# %% [markdown]
# ## Data from far away
#
# A TPU VM's disk is small and goes away with it. Images come prepared once (`python -m
# alexnet_jax.prepare`), then either copied to the VM, or from a bucket that is mounted as a folder:
#
# ```bash
# gcsfuse --implicit-dirs BUCKET /mnt/bucket
# python -m alexnet_jax.main --workdir=/mnt/bucket/runs/first --config=paper \\
#     --config.dataset=/mnt/bucket/imagenet_256 --config.precision=bfloat16
# ```
#
# What fits is read once and stays on the cores (`feed="resident"`), as here: the bucket is then only
# asked at the start. `launch/tpu_vm.sh` makes a VM, starts the run on all its hosts and removes it.

# %%
config = configs.get("default")
config.data_dir, config.feed = str(home / "data"), "resident"
config.num_steps = 20
summary = train.train(config, home / "resident")
print(
    f"{summary['time']['input']:.2f} s of {summary['time']['seconds']:.0f} s were waiting for images"
)

# %%
# What was made here is in `home`; this removes it.
import shutil

shutil.rmtree(home)
