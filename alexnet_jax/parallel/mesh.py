"""Devices as a mesh: the only file that builds one or a sharding, or moves data over it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.parallel import topology
from alexnet_jax.parallel.schemes import DATA, MODEL, scheme_of

Specs = Any  # a tree of PartitionSpec


def build(config: MeshConfig) -> Mesh:
    """Returns a (data, model) mesh over the first devices, or with several processes over all.

    Raises:
      ConfigError: there are fewer devices than asked for, they do not divide, several processes
        would leave a device unused, or JAX_DISABLE_JIT is set.
    """
    if jax.config.values["jax_disable_jit"]:
        raise ConfigError("JAX_DISABLE_JIT: is set, and every step here is compiled; unset it")
    devices = jax.devices()
    data, local = config.data, jax.local_device_count()
    if config.model > len(devices):
        raise ConfigError(
            f"mesh.model: {config.model} devices are asked for, there are {len(devices)}; it can "
            f"be at most {len(devices)}"
        )
    if jax.process_count() > 1 and local % config.model and config.model % local:
        raise ConfigError(
            f"mesh.model: {config.model} devices do not fit the {local} of each process; one must "
            "divide the other"
        )
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
    if data * config.model < len(devices) and jax.process_count() > 1:
        raise ConfigError(
            f"mesh: {data} x {config.model} devices leave some of the {len(devices)} in "
            f"{jax.process_count()} processes without work; set mesh.data to -1"
        )
    # Explicit axes, which jax.make_mesh gives by default, do not work with linen.
    grid = topology.grid(devices, data, config.model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def check_batch(field: str, batch_size: int, parts: int, mesh: Mesh, config: MeshConfig) -> None:
    """Refuses a batch that does not divide over the mesh.

    Args:
      field: the config field to name.
      batch_size: global images.
      parts: equal parts into which each device's share must divide further.
      mesh: from `build`.
      config: the config that the mesh was built from.

    Raises:
      ConfigError: names the nearest sizes that divide.
    """
    devices = image_devices(mesh, config)
    shares = devices * parts
    if batch_size % shares:
        lower = batch_size // shares * shares
        near = f"{lower} or {lower + shares}" if lower else f"{shares}"
        raise ConfigError(
            f"{field}: {batch_size} does not divide over {devices} devices that share the images"
            + (f" in {parts} parts" if parts > 1 else "")
            + f"; use {near}"
        )


def model_devices(mesh: Mesh) -> int:
    """Returns how many devices the axis `model` has."""
    return mesh.shape[MODEL]


def specs(state: Any, mesh: Mesh | AbstractMesh, config: MeshConfig) -> Specs:
    """Returns where each leaf of a tree with the standard parameter tree in it lives.

    Kernels, biases and running statistics are sharded along their last axis, the outputs, over the
    mesh axes that the scheme gives to channels or units. Leaves that do not divide, or are not
    parameters, are on every device. With `zero`, kernels are also sharded over `data`, along their
    longest other axis that divides.
    """
    scheme = scheme_of(config)

    def spec(path: tuple[Any, ...], leaf: Any) -> P:
        if getattr(path[-1], "key", None) not in ("kernel", "bias", "mean", "variance"):
            return P()
        axes: list[str | None] = [None] * leaf.ndim
        of_convolutions = path[-2].key.startswith(("conv", "norm"))
        for axis in scheme.channels if of_convolutions else scheme.units:
            if leaf.shape[-1] % mesh.shape[axis] == 0:
                axes[-1] = axis
        divisible = [i for i in range(leaf.ndim - 1) if leaf.shape[i] % mesh.shape[DATA] == 0]
        if config.zero and divisible:
            axes[max(divisible, key=lambda i: leaf.shape[i])] = DATA
        return P(*axes)

    return jax.tree_util.tree_map_with_path(spec, state)


def placed(tree: Any, mesh: Mesh, specs: Specs) -> Any:
    """Returns a tree of arrays as shapes with their shardings."""
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
        ),
        tree,
        specs,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds."""
    return NamedSharding(mesh, P())


def data_spec() -> P:
    """Returns the spec of arrays whose first axis is sharded over `data` alone."""
    return P(DATA)


def batch_spec(config: MeshConfig) -> P:
    """Returns the spec of arrays whose first axis is the global batch."""
    return P(scheme_of(config).images)


def batch_sharding(mesh: Mesh, config: MeshConfig) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the global batch."""
    return NamedSharding(mesh, batch_spec(config))


def image_devices(mesh: Mesh, config: MeshConfig) -> int:
    """Returns over how many devices the images of a batch are shared out."""
    return math.prod(mesh.shape[axis] for axis in scheme_of(config).images)


def data_devices(mesh: Mesh) -> int:
    """Returns how many data shards there are."""
    return mesh.shape[DATA]


def row_order(mesh: Mesh, config: MeshConfig, batch_size: int, passes: int) -> np.ndarray:
    """Returns, for each row of a batch's arrays, its place in the global batch, (B,)."""
    return order_of_rows(config, mesh.shape[DATA], image_devices(mesh, config), batch_size, passes)


def order_of_rows(
    config: MeshConfig, data: int, devices: int, batch_size: int, passes: int
) -> np.ndarray:
    """Returns `row_order` for given numbers of data shards and of devices that share the images.

    On any mesh, the k-th of `passes` equal parts of the batch goes k-th through the fully connected
    layers: each device has a share of every part, but in turns each has a share of only one.
    """
    in_turns = scheme_of(config).in_turns and passes > 1
    shares = data if in_turns else devices
    return np.arange(batch_size).reshape(passes, shares, -1).transpose(1, 0, 2).reshape(-1)


def local_rows(mesh: Mesh, config: MeshConfig, batch_size: int) -> slice:
    """Returns which rows of a global batch the devices of this process need."""
    spans = batch_sharding(mesh, config).addressable_devices_indices_map((batch_size,)).values()
    bounds = [span[0].indices(batch_size) for span in spans if span is not None]
    return slice(min(low for low, _, _ in bounds), max(high for _, high, _ in bounds))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, config: MeshConfig) -> dict[str, jax.Array]:
    """Starts copying this process's rows of a batch to its devices; returns the global batch."""
    sharding = batch_sharding(mesh, config)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)  # all arrays in one call
    # As explicit as device_put, but with several processes jax does not count it so.
    with jax.transfer_guard("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }


def axes_of(spec: P) -> set[str]:
    """Returns the axes of the mesh that an array is cut over."""
    groups = (axes if isinstance(axes, tuple) else (axes,) for axes in spec)
    return {axis for group in groups for axis in group if axis is not None}


def cut_by_inputs(spec: P) -> P:
    """Returns the new spec of a kernel or bias whose units were sharded over `model`: now the
    kernel's inputs are, and the bias is on every device."""
    first, *rest = spec
    if not rest:
        return P()
    return P(tuple(axis for axis in (first, MODEL) if axis is not None), None)


def placed_as(leaf: Any, mesh: Mesh, spec: P) -> jax.ShapeDtypeStruct:
    """Returns an array's shape with the sharding of a spec."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))


def put_everywhere(value: Any, mesh: Mesh) -> Any:
    """Puts an array or a tree of arrays, equal in all processes, on every device."""
    with jax.transfer_guard("allow"):  # several processes also compare it
        return jax.device_put(value, replicated(mesh))


def zeros(abstract: Any) -> Any:
    """Returns arrays of zeros with the shapes and shardings of abstract ones."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    make = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract),
        out_shardings=shardings,
    )
    return make()


def per_device(
    function: Callable[..., Any],
    mesh: Mesh,
    state: Specs,
    fed: Specs,
    out: Specs | None = None,
) -> Callable[..., Any]:
    """Maps `function(state, fed)`, written for one device, over the mesh.

    Args:
      function: computes with the device's parts.
      mesh: from `build`.
      state: specs of the state's leaves.
      fed: specs of the arrays that feed a step.
      out: specs of the result's leaves; by default each is equal on all devices.
    """
    out_specs = P() if out is None else out
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(state, fed),
        out_specs=out_specs,
        check_vma=False,
    )


EVERYWHERE: Specs = P()
