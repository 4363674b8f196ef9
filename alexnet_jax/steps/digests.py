"""Digests of arrays, independent of their placement: of a state on any mesh, or on the host.

A digest is two sums, modulo 2^32, of hashes of every 32-bit word with its place in the whole array.
The order of a sum does not matter, so each device sums its own part. The hash of a word is a
bijection of its bits, so one flipped bit always shows; other changes show with probability
1 - 2^-64.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from alexnet_jax.errors import UserError
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes

Digests = dict[str, str]  # of each leaf, by its path: conv1.kernel, in hexadecimal

_CHUNK = 1 << 18  # words at a time on the host: they stay in a core's cache


class ReplicaError(UserError, RuntimeError):
    """Devices that should hold the same bits do not; the message names the leaf and the devices."""


@contextlib.contextmanager
def at_step(step: int) -> Iterator[None]:
    """Adds the step to the message of a ReplicaError that is raised inside.

    Raises:
      ReplicaError: in place of the original one.
    """
    try:
        yield
    except ReplicaError as error:
        raise ReplicaError(f"step {step}: {error}") from error


def _mixed(words: Any, index: Any) -> tuple[Any, Any]:
    """Hashes words (uint32) at places (uint32), twice; NumPy's arrays or JAX's.

    Multiplications by odd numbers and shifted exclusive-ors, each a bijection of 32 bits, as in
    the finaliser of MurmurHash3 (A. Appleby, public domain).
    """
    first = (words ^ (index * np.uint32(0x9E3779B1))) * np.uint32(0x85EBCA6B)
    first = (first ^ (first >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    first = first ^ (first >> np.uint32(16))
    second = (first + index) * np.uint32(0x27D4EB2F)
    return first, second ^ (second >> np.uint32(15))


def name_of(path: tuple[Any, ...]) -> str:
    """Returns the name of a leaf: the same in a state and in the file that it is read from."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _text(sums: Any) -> str:
    return f"{int(sums[0]):08x}{int(sums[1]):08x}"


def of_array(array: np.ndarray) -> str:
    """Returns the digest of an array on the host.

    >>> of_array(np.float32([1, 2])) == of_array(np.float32([2, 1]))
    False
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.itemsize in (4, 8):
        words = flat.view(np.uint32)
    else:  # each a word of its own
        words = flat.view({1: np.uint8, 2: np.uint16}[flat.dtype.itemsize])
    sums = np.zeros(2, np.uint32)
    with np.errstate(over="ignore"):  # modulo 2^32 is what is meant
        for start in range(0, len(words), _CHUNK):
            part = words[start : start + _CHUNK].astype(np.uint32)
            index = np.arange(start, start + len(part), dtype=np.uint32)
            for i, mixed in enumerate(_mixed(part, index)):
                sums[i] += mixed.sum(dtype=np.uint32)
    return _text(sums)


def of_tree(tree: Any) -> Digests:
    """Returns the digests of a tree of arrays on the host."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name_of(path): of_array(np.asarray(leaf)) for path, leaf in leaves}


def _words(leaf: jax.Array) -> jax.Array:
    """Returns a leaf's words; a 64-bit number's two lie along a new last axis."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)


def of_part(leaf: jax.Array, spec: Any = ()) -> jax.Array:
    """Returns the two sums of the part of an array that a device holds, (2,) uint32.

    Args:
      leaf: the part, inside `mesh.per_device`.
      spec: over which axes the array is cut; without it, the part counts as an array of its own.
    """
    words = _words(leaf)
    axes = tuple(spec) + (None,) * (words.ndim - len(tuple(spec)))
    index, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        here, size = words.shape[axis], words.shape[axis]
        place = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        if axes[axis] is not None:
            place += jnp.uint32(here) * lax.axis_index(axes[axis]).astype(jnp.uint32)
            size *= lax.axis_size(axes[axis])
        index = index + place * np.uint32(stride % 2**32)
        stride *= size
    # Both sums in one pass, over all axes but the first: XLA's CPU compiler makes one loop of it,
    # which takes a fourteenth of the time of a sum over all axes at once (jaxlib 0.10.2).
    rows = lax.reduce(
        _mixed(words, index), (np.uint32(0),) * 2, _added, tuple(range(1, words.ndim))
    )
    return jnp.stack([row.sum(dtype=jnp.uint32) for row in rows])


def _added(one: tuple[jax.Array, ...], other: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


class StateDigests:
    """The digests of a state on a mesh; each device adds up what it holds.

    Replicas are compared on the way: copies on several devices must be equal to the bit.
    """

    def __init__(self, tree: Any) -> None:
        """Compiles for the leaves of a tree, abstract or not, that lie on one mesh."""
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        self._names = [name_of(path) for path, _ in leaves]
        self._specs = [leaf.sharding.spec for _, leaf in leaves]
        self._mesh = leaves[0][1].sharding.mesh
        self._shardings = [leaf.sharding for _, leaf in leaves]
        specs = list(self._specs)

        def of_device(state: list[jax.Array], _: Any) -> jax.Array:
            sums = [of_part(leaf, spec) for leaf, spec in zip(state, specs, strict=True)]
            return collectives.of_every_device(jnp.stack(sums))

        mapped = meshes.per_device(of_device, self._mesh, specs, meshes.EVERYWHERE)
        abstract = [
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for _, leaf in leaves
        ]
        self._sums = jax.jit(lambda state: mapped(state, ())).lower(abstract).compile()

    @staticmethod
    def suits(tree: Any) -> bool:
        """Does a tree lie on a mesh?"""
        return all(
            isinstance(getattr(leaf, "sharding", None), NamedSharding)
            for leaf in jax.tree.leaves(tree)
        )

    def fits(self, tree: Any) -> bool:
        """Does a tree have the shardings that this was compiled for?"""
        return [leaf.sharding for leaf in jax.tree.leaves(tree)] == self._shardings

    def start(self, tree: Any) -> jax.Array:
        """Starts computing; the arrays may be donated afterwards.

        Returns:
          What `finished` takes: (data, model, leaves, 2) uint32, the same on every device.
        """
        return self._sums(jax.tree.leaves(tree))

    def finished(self, sums: jax.Array) -> Digests:
        """Returns the digests.

        Raises:
          ReplicaError: devices that should hold the same do not.
        """
        rows = np.asarray(jax.device_get(sums))
        digests = {}
        for leaf, (name, spec) in enumerate(zip(self._names, self._specs, strict=True)):
            part = rows[:, :, leaf]
            for axis, axis_name in enumerate(self._mesh.axis_names):
                if axis_name in meshes.axes_of(spec):
                    continue
                self._compare(name, part, axis)
                part = part.take([0], axis=axis)
            digests[name] = _text(part.sum(axis=(0, 1), dtype=np.uint32))
        return digests

    def _compare(self, name: str, part: np.ndarray, axis: int) -> None:
        """Compares the copies along an axis of the mesh.

        Raises:
          ReplicaError: names the devices that differ from the majority, or all if there is none.
        """
        copies = np.moveaxis(part, axis, 0).tolist()
        devices = np.moveaxis(self._mesh.devices, axis, 0)
        for place in range(part.shape[1 - axis]):
            sums = [tuple(copy[place]) for copy in copies]
            usual = max(set(sums), key=sums.count)
            if sums.count(usual) == len(sums):
                continue
            if sums.count(usual) * 2 > len(sums):
                odd = [str(devices[i, place]) for i, copy in enumerate(sums) if copy != usual]
                raise ReplicaError(f"{name} on {', '.join(odd)} is not what other devices hold")
            raise ReplicaError(f"{name} differs between {', '.join(map(str, devices[:, place]))}")
