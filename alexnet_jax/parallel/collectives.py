"""Collectives over the mesh axes, for use inside `mesh.per_device`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import MeshConfig
from alexnet_jax.parallel.mesh import Specs
from alexnet_jax.parallel.schemes import DATA, MODEL, scheme_of


def sum_over_data(tree: Any) -> Any:
    """Sums over the devices that share the batch."""
    return _sum(tree, (DATA,))


def mean_over_images(x: jax.Array, config: MeshConfig) -> jax.Array:
    """Averages over the devices that share the images."""
    axes = scheme_of(config).images
    return _sum(x, axes) / math.prod(lax.axis_size(axis) for axis in axes)


def _sum(tree: Any, axes: tuple[str, ...]) -> Any:
    """Sums over axes; skips an axis of one device, for which XLA would make a copy."""
    several = tuple(axis for axis in axes if lax.axis_size(axis) > 1)
    return lax.psum(tree, several) if several else tree


def any_device(flags: Any) -> Any:
    """Returns which of a tree of 0-d bools are true on any device."""
    return jax.tree.map(lambda flag: lax.pmax(flag.astype(jnp.int32), (DATA, MODEL)) > 0, flags)


def of_every_device(x: jax.Array) -> jax.Array:
    """Gathers every device's array on all devices, (data, model, ...)."""
    return lax.all_gather(lax.all_gather(x, MODEL), DATA)


def model_index() -> jax.Array:
    """Returns which share of the channels this device has, 0-d."""
    return lax.axis_index(MODEL)


def data_index() -> jax.Array:
    """Returns which data shard this device has, 0-d."""
    return lax.axis_index(DATA)


def image_index_in_shard(config: MeshConfig) -> jax.Array | int:
    """Returns this device's index among those that share a data shard's images, 0-d."""
    return lax.axis_index(MODEL) if MODEL in scheme_of(config).images else 0


def scatter_rows(x: jax.Array) -> jax.Array:
    """Sums rows, (D * b, ...), over `data`; each data shard keeps its own b of them."""
    return lax.psum_scatter(x, DATA, scatter_dimension=0, tiled=True)


def gather_channels(x: jax.Array, together: int) -> jax.Array:
    """Gathers the last axis over groups of `together` neighbours along `model`."""
    return lax.all_gather(x, MODEL, axis=-1, tiled=True, axis_index_groups=_groups(together))


def gather_images(x: jax.Array) -> jax.Array:
    """Gathers the first axis over the devices of `model`."""
    return lax.all_gather(x, MODEL, axis=0, tiled=True)


def broadcast_from(x: jax.Array, device: int) -> jax.Array:
    """Broadcasts x from one device of `model` to all of them."""
    return lax.psum(jnp.where(lax.axis_index(MODEL) == device, x, jnp.zeros_like(x)), MODEL)


def units_to_inputs(x: jax.Array, units: int) -> jax.Array:
    """Reshards a kernel: from a share of its units to a share of its inputs with all units, without
    padding. Gathers a bias whole."""
    if x.ndim == 1:
        return gather_channels(x, lax.axis_size(MODEL))[:units]
    return lax.all_to_all(x, MODEL, split_axis=0, concat_axis=1, tiled=True)[:, :units]


def inputs_to_units(x: jax.Array) -> jax.Array:
    """Undoes `units_to_inputs`; zeros pad the units to equal shares."""
    devices = lax.axis_size(MODEL)
    share = -(-x.shape[-1] // devices)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, share * devices - x.shape[-1])])
    if x.ndim == 1:
        return lax.dynamic_slice_in_dim(x, model_index() * share, share)
    return lax.all_to_all(x, MODEL, split_axis=1, concat_axis=0, tiled=True)


def _groups(together: int) -> list[list[int]] | None:
    devices = lax.axis_size(MODEL)
    if together == devices:
        return None
    return [list(range(i, i + together)) for i in range(0, devices, together)]


def exchange_edges(
    x: jax.Array, count: int, devices: int, together: int
) -> tuple[jax.Array, jax.Array]:
    """Fetches the previous device's last `count` channels and the next device's first ones.

    Groups of `together` devices exchange among themselves; past a group's ends there are zeros.
    """
    pairs = [(i, i + 1) for i in range(devices - 1) if (i + 1) % together]
    before = lax.ppermute(x[..., -count:], MODEL, pairs)
    after = lax.ppermute(x[..., :count], MODEL, [(b, a) for a, b in pairs])
    return before, after


def whole_over_data(params: Any, specs: Specs) -> Any:
    """Gathers parameters that are sharded over `data` (ZeRO), for as long as a step needs them."""

    def whole(leaf: jax.Array, spec: P) -> jax.Array:
        if DATA not in spec:
            return leaf
        return lax.all_gather(leaf, DATA, axis=tuple(spec).index(DATA), tiled=True)

    return jax.tree.map(whole, params, specs)


def sum_gradients(grads: Any, specs: Specs) -> Any:
    """Sums the gradients over the devices; each keeps the part for the parameters it holds.

    Args:
      grads: of this device's loss, not sharded over `data`.
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
    norms = jax.tree.map(lambda leaf: jnp.vdot(leaf, leaf), tree)
    return _sum_each(norms, specs, lambda spec, axis: axis in spec)


def _sum_each(tree: Any, specs: Specs, over: Callable[[P, str], bool]) -> Any:
    """Sums each leaf over the axes that `over` says, with one collective for each set of axes."""
    leaves, structure = jax.tree.flatten(tree)
    axes = [
        tuple(axis for axis in (DATA, MODEL) if over(spec, axis))
        for spec in structure.flatten_up_to(specs)
    ]
    for group in {group for group in axes if group}:
        members = [i for i, group_of_leaf in enumerate(axes) if group_of_leaf == group]
        for i, total in zip(members, _sum([leaves[i] for i in members], group), strict=True):
            leaves[i] = total
    return structure.unflatten(leaves)
