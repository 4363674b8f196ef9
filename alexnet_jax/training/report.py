"""The header of a run: versions, devices, data, length, expected rate."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import jax

import alexnet_jax
from alexnet_jax.errors import printable
from alexnet_jax.host import files, machine
from alexnet_jax.layers.standard_tree import abstract_parameters, count_parameters
from alexnet_jax.ops.compilation import Numerics
from alexnet_jax.parallel.mesh import zeros
from alexnet_jax.steps.setup import Setup

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "clu",
    "numpy",
    "opencv-python-headless",
)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns the commit of the checkout that the package is in, or None outside of one."""
    folder = pathlib.Path(alexnet_jax.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def write_environment(workdir: pathlib.Path) -> None:
    """Writes environment.json: versions, devices, commit."""
    environment = {
        "alexnet_jax": alexnet_jax.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": machine.processor(),
        "cores": machine.cores(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "backend": jax.default_backend(),
        "packages": {package: _version(package) for package in PACKAGES},
    }
    text = json.dumps(environment, indent=2) + "\n"
    files.replace_text(workdir / "environment.json", text)


def expected_rate(update: jax.stages.Compiled, state: Any, fed: Any, batch_size: int) -> float:
    """Measures the images per second of a compiled step, on two updates of parameters of zero.

    Args:
      update: from `steps.training.compile_train_step`.
      state: the abstract state, with shardings.
      fed: what a step is fed with.
      batch_size: global images.
    """
    blank = zeros(state)
    blank, _ = jax.block_until_ready(update(blank, fed))  # touches its memory for the first time
    start = time.perf_counter()
    jax.block_until_ready(update(blank, fed))
    return batch_size / (time.perf_counter() - start)


def header(
    setup: Setup,
    sizes: dict[str, int],
    step: int,
    last_step: int,
    notes: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> str:
    """Describes a run in a few lines: devices, mesh, parameters, data and length.

    Args:
      setup: of the run.
      sizes: images of each split; empty if the data set is not prepared.
      step: the first update.
      last_step: the last.
      notes: the data set's notes.
      weights: lines on the initial weights.
    """
    config, network, mesh = setup.config, setup.network, setup.mesh
    devices = mesh.devices.ravel()
    parameters = count_parameters(abstract_parameters(network, config.image_size))
    data = ", ".join(f"{size:,} in {split}" for split, size in sizes.items()) or (
        "not prepared yet; training does that first, here ImageNet's images are counted"
    )
    count = jax.process_count()
    shared = f" in {count} processes" if count > 1 else ""
    coarser = Numerics.of(config).multiplied_in(config.precision)
    precision = config.precision + (
        f" multiplied in {coarser} (matmul_precision=highest does not)" if coarser else ""
    )
    lines = [
        f"devices   {devices.size} x {devices[0].device_kind}{shared}",
        "mesh      " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        f"network   {config.model.columns} columns, {parameters:,} parameters, "
        f"{precision}, {config.image_size}x{config.image_size} crops of "
        f"{config.resize}x{config.resize}",
        f"data      {config.dataset}: {data}; {network.num_classes} classes",
        *(f"note      {note}" for note in notes),
        *weights,
        *([f"frozen    {', '.join(config.optimizer.frozen)}"] if config.optimizer.frozen else []),
        *(f"rate      {rule}" for rule in config.optimizer.schedule.layer_rates),
        f"run       steps {step:,} to {last_step:,} of {config.batch_size} images",
    ]
    return "\n".join(map(printable, lines))
