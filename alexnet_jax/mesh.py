"""Devices as a mesh: the only file that names its axes or builds a sharding."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import ConfigError, MeshConfig

DATA, MODEL = "data", "model"


def build(config: MeshConfig) -> Mesh:
    """Returns a (data, model) mesh over the first devices.

    Raises:
      ConfigError: more devices are asked for than there are, or they do not divide.
    """
    devices = jax.devices()
    data = config.data
    if data == -1:
        if len(devices) % config.model:
            raise ConfigError(
                f"mesh.model: {config.model} does not divide {len(devices)} devices; "
                "set mesh.data too to use some of them"
            )
        data = len(devices) // config.model
    if data * config.model > len(devices):
        raise ConfigError(
            f"mesh: {data} x {config.model} devices are asked for, there are {len(devices)}; "
            f"mesh.data can be at most {len(devices) // config.model}"
        )
    # Explicit axes, which jax.make_mesh gives by default, do not work with linen.
    grid = np.array(devices[: data * config.model]).reshape(data, config.model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def check_batch(field: str, batch_size: int, parts: int, mesh: Mesh) -> None:
    """Refuses a batch that does not divide over the mesh.

    Args:
      field: the config field to name.
      batch_size: global images.
      parts: further equal parts of each device's share.
      mesh: from `build`.

    Raises:
      ConfigError: names the nearest sizes that divide.
    """
    shares = mesh.shape[DATA] * parts
    if batch_size % shares:
        lower = batch_size // shares * shares
        near = f"{lower} or {lower + shares}" if lower else f"{shares}"
        raise ConfigError(
            f"{field}: {batch_size} does not divide over {mesh.shape[DATA]} data shards"
            + (f" of {parts} parts" if parts > 1 else "")
            + f"; use {near}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters and other state."""
    return NamedSharding(mesh, P())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the global batch."""
    return NamedSharding(mesh, P(DATA))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Starts copying a host batch to the devices."""
    return jax.device_put(batch, split_batch(mesh))


def per_device(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Maps `function(state, batch)`, written for one device, over the mesh.

    Inside, the batch is the device's share; what is returned must be equal on all devices.
    """
    return jax.shard_map(
        function, mesh=mesh, in_specs=(P(), P(DATA)), out_specs=P(), check_vma=False
    )


def sum_over_data(tree: Any) -> Any:
    """Sums over the devices that share the batch; inside `per_device`."""
    return jax.lax.psum(tree, DATA)


def global_positions(local: int) -> jax.Array:
    """Returns where a device's images stand in the global batch, (local,); inside `per_device`."""
    return jax.lax.axis_index(DATA) * local + jax.numpy.arange(local)
