"""What a run says of itself before it starts."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import alexnet_jax
from alexnet_jax import checkpoint
from alexnet_jax.config import Config
from alexnet_jax.model import AlexNet, abstract_parameters, count_parameters

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
        "devices": [str(device.device_kind) for device in jax.devices()],
        "backend": jax.default_backend(),
        "packages": {package: _version(package) for package in PACKAGES},
    }
    text = json.dumps(environment, indent=2) + "\n"
    checkpoint.replace_text(workdir / "environment.json", text)


def matrix_rate(side: int = 2048) -> float:
    """Measures one device's float32 matrix product, in FLOP/s."""
    matrix = jnp.ones((side, side), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def flops_per_image(config: Config, network: AlexNet) -> float:
    """Counts the multiply-adds of one training image, times two; three passes, conv1 two."""
    params = abstract_parameters(network, config.image_size)
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    _, kept = jax.eval_shape(
        lambda p, x: network.apply({"params": p}, x, mutable=["intermediates"]), params, image
    )
    total = 0.0
    for name, outputs in kept["intermediates"].items():
        layer = name.removesuffix("_output")
        positions = outputs[0].shape[1] * outputs[0].shape[2] if outputs[0].ndim == 4 else 1
        total += (2 if layer == "conv1" else 3) * 2 * positions * params[layer]["kernel"].size
    return total


def header(
    config: Config,
    network: AlexNet,
    mesh: Mesh,
    sizes: dict[str, int],
    step: int,
    last_step: int,
) -> str:
    """Describes a run in a few lines: devices, mesh, parameters, data, and the speed to expect."""
    devices = mesh.devices.ravel()
    parameters = count_parameters(abstract_parameters(network, config.image_size))
    flops = flops_per_image(config, network)
    # Measured on this code: a step runs at about half the rate of a large matrix product.
    expected = 0.5 * matrix_rate() * mesh.shape["data"] / flops
    data = ", ".join(f"{size:,} in {split}" for split, size in sizes.items())
    unused = len(jax.devices()) - devices.size
    return "\n".join(
        [
            f"devices   {devices.size} x {devices[0].device_kind}"
            + (f" ({unused} more are not used)" if unused else ""),
            "mesh      " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items()),
            f"network   {config.model.columns} columns, {parameters:,} parameters, "
            f"{config.precision}, {config.image_size}x{config.image_size} crops of "
            f"{config.resize}x{config.resize}",
            f"data      {config.dataset}: {data}; {network.num_classes} classes",
            f"run       steps {step:,} to {last_step:,} of {config.batch_size} images",
            f"expected  about {expected:,.0f} images/s ({flops / 1e9:.2f} GFLOP an image)",
        ]
    )
