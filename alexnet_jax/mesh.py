"""Devices as a mesh: the only file that names its axes, builds a sharding or moves data over it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import ConfigError, MeshConfig

DATA, MODEL = "data", "model"
Specs = Any  # a tree of PartitionSpec


def build(config: MeshConfig) -> Mesh:
    """Returns a (data, model) mesh over the first devices, or over all of several processes.

    Raises:
      ConfigError: more devices are asked for than there are, they do not divide, or some of
        several processes would have none.
    """
    # Those of a process together, so that the rows it reads are too.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
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
    grid = np.array(devices[: data * config.model]).reshape(data, config.model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def check_batch(field: str, batch_size: int, parts: int, mesh: Mesh, config: MeshConfig) -> None:
    """Refuses a batch that does not divide over the mesh.

    Args:
      field: the config field to name.
      batch_size: global images.
      parts: further equal parts of each device's share.
      mesh: from `build`.
      config: that it was built from.

    Raises:
      ConfigError: names the nearest sizes that divide.
    """
    devices = image_devices(mesh, config)
    shares = devices * parts
    if batch_size % shares:
        lower = batch_size // shares * shares
        near = f"{lower} or {lower + shares}" if lower else f"{shares}"
        raise ConfigError(
            f"{field}: {batch_size} does not divide over {devices} data shards"
            + (f" of {parts} parts" if parts > 1 else "")
            + f"; use {near}"
        )


# Where things live.


def model_devices(mesh: Mesh) -> int:
    """Returns how many devices share the channels."""
    return mesh.shape[MODEL]


def specs(state: Any, mesh: Mesh | AbstractMesh, config: MeshConfig) -> Specs:
    """Returns where each leaf of a tree with the standard parameter tree in it lives.

    Kernels, biases and running statistics are cut along their last axis, the outputs, over `model`,
    in a hybrid those of the fully connected layers alone; what does not divide (fc8 of an odd
    number of classes) and what is no parameter is on every device. With `zero` kernels are also cut
    over `data`, along their longest other axis that divides.
    """

    def spec(path: tuple[Any, ...], leaf: Any) -> P:
        if getattr(path[-1], "key", None) not in ("kernel", "bias", "mean", "variance"):
            return P()
        axes: list[str | None] = [None] * leaf.ndim
        whole = config.scheme != "columns" and path[-2].key.startswith(("conv", "norm"))
        if not whole and leaf.shape[-1] % mesh.shape[MODEL] == 0:
            axes[-1] = MODEL
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
    """Returns where something lives whose first axis is cut over `data` alone."""
    return P(DATA)


def batch_spec(config: MeshConfig) -> P:
    """Returns where something lives whose first axis is the global batch."""
    return P(DATA) if config.scheme == "columns" else P((DATA, MODEL))


def split_batch(mesh: Mesh, config: MeshConfig) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the global batch."""
    return NamedSharding(mesh, batch_spec(config))


def image_devices(mesh: Mesh, config: MeshConfig) -> int:
    """Returns over how many devices the images of a batch are shared out."""
    return mesh.shape[DATA] * (1 if config.scheme == "columns" else mesh.shape[MODEL])


def data_devices(mesh: Mesh) -> int:
    """Returns how many data shards there are."""
    return mesh.shape[DATA]


def row_order(mesh: Mesh, config: MeshConfig, batch_size: int, passes: int) -> np.ndarray:
    """Returns which position of the global batch each row of its arrays holds, (B,)."""
    return order_of_rows(config, mesh.shape[DATA], image_devices(mesh, config), batch_size, passes)


def order_of_rows(
    config: MeshConfig, data: int, devices: int, batch_size: int, passes: int
) -> np.ndarray:
    """Returns `row_order` for so many data shards, and devices that share the images.

    The k-th of `passes` equal parts of the batch goes k-th through the fully connected layers,
    whatever the mesh: each device has a share of every part, but in turns each has one part's.
    """
    in_turns = config.scheme == "hybrid_in_turns" and passes > 1
    shares = data if in_turns else devices
    return np.arange(batch_size).reshape(passes, shares, -1).transpose(1, 0, 2).reshape(-1)


def local_rows(mesh: Mesh, config: MeshConfig, batch_size: int) -> slice:
    """Returns which rows of a global batch the devices of this process need."""
    spans = split_batch(mesh, config).addressable_devices_indices_map((batch_size,)).values()
    bounds = [span[0].indices(batch_size) for span in spans if span is not None]
    return slice(min(low for low, _, _ in bounds), max(high for _, high, _ in bounds))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, config: MeshConfig) -> dict[str, jax.Array]:
    """Starts copying this process's rows of a batch to its devices; returns the global batch."""
    sharding = split_batch(mesh, config)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)  # all arrays in one call
    # As explicit as device_put, but with several processes jax does not count it so.
    with jax.transfer_guard("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }


def put_everywhere(value: Any, mesh: Mesh) -> Any:
    """Puts what every process knows alike on every device: an array, or several in a tree."""
    with jax.transfer_guard("allow"):  # several processes also compare it
        return jax.device_put(value, replicated(mesh))


def per_device(
    function: Callable[..., Any],
    mesh: Mesh,
    state: Specs,
    fed: Specs,
    out: Specs | None = None,
) -> Callable[..., Any]:
    """Maps `function(state, fed)`, written for one device, over the mesh.

    Args:
      function: of the device's parts.
      mesh: from `build`.
      state: where the leaves of the state live.
      fed: where those of what a step is fed with live.
      out: where those of the result live; by default each is equal on all devices.
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


# What devices say to each other, inside `per_device`.


def sum_over_data(tree: Any) -> Any:
    """Sums over the devices that share the batch."""
    return _sum(tree, (DATA,))


def mean_over_images(x: jax.Array, config: MeshConfig) -> jax.Array:
    """Averages over the devices that share the images."""
    axes = (DATA,) if config.scheme == "columns" else (DATA, MODEL)
    return _sum(x, axes) / math.prod(lax.axis_size(axis) for axis in axes)


def _sum(tree: Any, axes: tuple[str, ...]) -> Any:
    """Sums over axes; one of a single device is left out, where XLA would copy."""
    several = tuple(axis for axis in axes if lax.axis_size(axis) > 1)
    return lax.psum(tree, several) if several else tree


def any_device(flags: Any) -> Any:
    """Returns which of a tree of 0-d bools are true on any device."""
    return jax.tree.map(lambda flag: lax.pmax(flag.astype(jnp.int32), (DATA, MODEL)) > 0, flags)


def model_index() -> jax.Array:
    """Returns which share of the channels this device has, 0-d."""
    return lax.axis_index(MODEL)


def data_index() -> jax.Array:
    """Returns which data shard this device has, 0-d."""
    return lax.axis_index(DATA)


def image_index_in_shard(config: MeshConfig) -> jax.Array | int:
    """Returns which of the devices that share a data shard's images this is, 0-d."""
    return 0 if config.scheme == "columns" else lax.axis_index(MODEL)


def scatter_rows(x: jax.Array) -> jax.Array:
    """Adds up rows over `data`, (D * b, ...), and leaves each data shard its own b."""
    return lax.psum_scatter(x, DATA, scatter_dimension=0, tiled=True)


def gather_channels(x: jax.Array, together: int) -> jax.Array:
    """Gathers the last axis over neighbours along `model`, `together` devices a group."""
    return lax.all_gather(x, MODEL, axis=-1, tiled=True, axis_index_groups=_groups(together))


def gather_images(x: jax.Array) -> jax.Array:
    """Gathers the first axis over the devices of `model`."""
    return lax.all_gather(x, MODEL, axis=0, tiled=True)


def broadcast_from(x: jax.Array, device: int) -> jax.Array:
    """Returns what one device of `model` holds, on all of them."""
    return lax.psum(jnp.where(lax.axis_index(MODEL) == device, x, jnp.zeros_like(x)), MODEL)


def _groups(together: int) -> list[list[int]] | None:
    devices = lax.axis_size(MODEL)
    if together == devices:
        return None
    return [list(range(i, i + together)) for i in range(0, devices, together)]


def exchange_edges(
    x: jax.Array, count: int, devices: int, together: int
) -> tuple[jax.Array, jax.Array]:
    """Fetches the last `count` channels of the device before and the first of the one after.

    Groups of `together` devices exchange among themselves; at their ends there are zeros.
    """
    pairs = [(i, i + 1) for i in range(devices - 1) if (i + 1) % together]
    before = lax.ppermute(x[..., -count:], MODEL, pairs)
    after = lax.ppermute(x[..., :count], MODEL, [(b, a) for a, b in pairs])
    return before, after


def whole_over_data(params: Any, specs: Specs) -> Any:
    """Gathers what is cut over `data` (ZeRO), for as long as a step needs it."""

    def whole(leaf: jax.Array, spec: P) -> jax.Array:
        if DATA not in spec:
            return leaf
        return lax.all_gather(leaf, DATA, axis=tuple(spec).index(DATA), tiled=True)

    return jax.tree.map(whole, params, specs)


def sum_gradients(grads: Any, specs: Specs) -> Any:
    """Adds up what each device knows of the gradients; each keeps the part that it holds.

    Args:
      grads: of this device's loss, whole over `data`.
      specs: of the parameters.
    """

    def cut(leaf: jax.Array, spec: P) -> jax.Array:
        if DATA not in spec:
            return leaf
        dimension = tuple(spec).index(DATA)
        return lax.psum_scatter(leaf, DATA, scatter_dimension=dimension, tiled=True)

    return _sum_each(jax.tree.map(cut, grads, specs), specs, lambda spec, axis: axis not in spec)


def squared_norms(tree: Any, specs: Specs) -> Any:
    """Returns the squared norm of each whole leaf, 0-d, from the parts that devices hold."""
    own = jax.tree.map(lambda leaf: jnp.vdot(leaf, leaf), tree)
    return _sum_each(own, specs, lambda spec, axis: axis in spec)


def _sum_each(tree: Any, specs: Specs, over: Callable[[P, str], bool]) -> Any:
    """Sums each leaf over the axes that `over` says, with one collective for each set of axes."""
    leaves, structure = jax.tree.flatten(tree)
    axes = [
        tuple(axis for axis in (DATA, MODEL) if over(spec, axis))
        for spec in structure.flatten_up_to(specs)
    ]
    for group in {group for group in axes if group}:
        members = [i for i, own in enumerate(axes) if own == group]
        for i, total in zip(members, _sum([leaves[i] for i in members], group), strict=True):
            leaves[i] = total
    return structure.unflatten(leaves)
