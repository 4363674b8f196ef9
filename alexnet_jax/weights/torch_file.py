"""PyTorch's checkpoints (.pth), read without PyTorch and without executing their pickles.

The formats are those of torch/serialization.py.
"""

import dataclasses
import errno
import functools
import io
import math
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from alexnet_jax.errors import printable
from alexnet_jax.weights import pickled
from alexnet_jax.weights.types import WeightsError

STORAGES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
}


# Bytes of a number of each of PyTorch's storages (torch/storage.py).
_WIDTHS = {
    **dict.fromkeys(("Byte", "Char", "Bool", "QInt8", "QUInt8"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}

# Errors of zipfile for archives that are damaged, encrypted (RuntimeError) or of an unsupported
# kind (NotImplementedError), and errors that malformed contents cause.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, KeyError, ValueError, TypeError),
    *(OverflowError, AttributeError),
)


# Packages whose objects, of a training script or a whole module, may appear beside the weights as
# `Opaque`. Any other call is refused by its name.
_PACKAGES = (
    *("torch.", "torchvision.", "argparse.", "collections.", "pathlib.", "numpy.", "datetime."),
    *("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "timm."),
)
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before the ZIP archive
_PROTOCOL = 1001
BESIDE = ("n_averaged", "num_batches_tracked")  # tensors that are counters, not weights

# Keys under which training scripts save the weights, beside an optimizer, epochs and arguments, in
# order of preference.
_STATES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"),
    *("weights", "params", "state", "ema", "model_ema", "ema_state_dict"),
)
_WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"}
FIRST = "features.0.weight"


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """What the pickle says of a tensor; read when its name is known."""

    about: Any
    offset: Any
    shape: Any
    strides: Any


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dictionary by name, without the prefixes of wrappers.

    The dictionary may be nested in another one, beside an optimizer and whatever else a script
    saves, or be a whole module. The file may be a ZIP archive of `torch.save`, or in the format
    before it.

    Raises:
      WeightsError: not such a file, damaged, or without the tensors of a network.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _Archive(archive).tensors(path)
        return _Legacy(path.read_bytes()).tensors(path)
    except DAMAGE as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path}: is not a state dictionary of tensors ({str(error)[:300]})"
        ) from error


def _states(
    content: Any, name: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a file's dictionaries of tensors, each with its name.

    It visits each object once: a few bytes can refer to one a million times.
    """
    seen = set() if seen is None else seen
    if id(content) in seen or depth > 4:
        return
    if isinstance(content, pickled.Opaque) and isinstance(content.state, dict):
        seen.add(id(content))
        if "_modules" in content.state:
            yield name, dict(_of_module(content, "", set()))
        return
    if not isinstance(content, dict) or depth > 3:
        return
    seen.add(id(content))
    if any(isinstance(value, _Tensor) for value in content.values()):
        yield name, content
    order = sorted(content, key=lambda key: _STATES.index(key) if key in _STATES else len(_STATES))
    for key in order:
        inner = f"{name}.{str(key)[:100]}" if name else str(key)[:100]
        yield from _states(content[key], inner, depth + 1, seen)


def _of_module(
    module: pickled.Opaque, prefix: str, seen: set[int]
) -> Iterator[tuple[str, _Tensor]]:
    """Yields the parameters of a pickled module, under the names of its state dictionary."""
    if id(module) in seen:
        return
    seen.add(id(module))
    for kind in ("_parameters", "_buffers"):
        for name, value in (module.state.get(kind) or {}).items():
            if isinstance(value, _Tensor):
                yield prefix + name, value
    for name, inner in (module.state.get("_modules") or {}).items():
        if isinstance(inner, pickled.Opaque) and isinstance(inner.state, dict):
            yield from _of_module(inner, f"{prefix}{name}.", seen)


def without_wrappers(state: dict[str, Any]) -> dict[str, Any]:
    """Strips the name parts that DataParallel, torch.compile and Lightning add.

    Raises:
      ValueError: a tensor is there both with and without a wrapper's name.
    """
    plain: dict[str, Any] = {}
    for name, value in state.items():
        short = ".".join(part for part in str(name).split(".") if part not in _WRAPPERS)
        if short in plain:
            raise ValueError(f"{short[:100]} is there twice, as {str(name)[:100]} too")
        plain[short] = value
    before = [name.removesuffix(FIRST) for name in plain if name.endswith(f".{FIRST}")]
    if FIRST in plain or not before:
        return plain
    # Of several networks the one that is trained, not an average of it or a teacher.
    chosen = min(
        before, key=lambda prefix: (prefix.rstrip(".") not in _STATES, before.index(prefix))
    )
    _say_which([prefix.rstrip(".") for prefix in before], chosen.rstrip("."))
    return {
        name.removeprefix(chosen): value for name, value in plain.items() if name.startswith(chosen)
    }


def _say_which(names: list[str], taken: str) -> None:
    """Says which of several networks in a file is read."""
    if len(names) > 1:
        note = f"note: there are several networks ({', '.join(names[:8])}); {taken} is read"
        print(printable(note[:500]), file=sys.stderr)


class _File:
    """One file: what its pickle says, and the numbers of its storages."""

    def _storage_of(self, key: str, kind: np.dtype) -> np.ndarray:
        raise NotImplementedError

    def _unpickled(self) -> Any:
        raise NotImplementedError

    def tensors(self, path: pathlib.Path) -> dict[str, np.ndarray]:
        """Returns the arrays of the file's dictionary, by name."""
        unpickled = self._unpickled()
        states = [(name, without_wrappers(state)) for name, state in _states(unpickled)]
        if not states:
            what = f"a {type(unpickled).__name__}"
            if isinstance(unpickled, dict):
                what = ", ".join(str(key)[:40] for key in list(unpickled)[:8]) or "nothing"
            raise ValueError(f"it holds {what}")
        networks = [name for name, candidate in states if FIRST in candidate]
        _say_which([name or "the file's own" for name in networks], (networks or [""])[0])
        state = next((candidate for _, candidate in states if FIRST in candidate), states[0][1])
        tensors = {}
        for name, value in state.items():
            known = isinstance(value, str | int | float | None) and not name.endswith(
                ("weight", "bias")
            )
            if known or name == "_metadata" or name.rpartition(".")[2] in BESIDE:
                continue  # an epoch, say, that a script put beside them
            if not isinstance(value, _Tensor):
                kind = type(value).__name__
                raise WeightsError(f"{path}: {name[:100]} is a {kind}, not a tensor")
            try:
                tensors[name] = self._tensor(value)
            except DAMAGE as error:
                reason = str(error)[:300]
                raise WeightsError(f"{path}: {name} cannot be read ({reason})") from error
        return tensors

    def _read(self, data: bytes | BinaryIO) -> Any:
        calls: pickled.Calls = {
            "collections.OrderedDict": pickled.of_pairs,
            "torch._utils._rebuild_tensor_v2": lambda *about: _Tensor(*about[:4]),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }
        return pickled.read(data, calls, self._kept, _may_stand)

    def _kept(self, about: Any) -> Any:
        """Returns what a persistent id stands for: a storage's description, or a module's class."""
        return about[1] if about[0] == "module" else about

    def _storage(self, about: Any) -> np.ndarray:
        kind, name, key, _, count = about[:5]
        if kind != "storage" or not isinstance(name, pickled.Name) or name.path not in STORAGES:
            what = name.path[:100] if isinstance(name, pickled.Name) else type(name).__name__
            raise ValueError(f"a storage {what} is not of numbers that weights have")
        values = self._storage_of(str(key)[:100], STORAGES[name.path])
        if len(values) != count:
            raise ValueError(f"storage {str(key)[:100]} has {len(values)} numbers, not {count}")
        return values

    def _tensor(self, value: _Tensor) -> np.ndarray:
        storage, offset = self._storage(value.about), value.offset
        shape, strides = value.shape, value.strides
        if len(shape) > 8:
            raise ValueError(f"a tensor of {len(shape)} dimensions")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        inside = 0 <= offset <= last < len(storage) and math.prod(shape) <= len(storage)
        if not inside or min(strides, default=0) < 0:
            raise ValueError(f"a tensor of shape {str(shape)[:100]} reaches outside its storage")
        steps = tuple(s * storage.itemsize for s in strides)
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _may_stand(name: str) -> bool:
    """May a call of this name become an `Opaque`? It is not made, nor its module imported."""
    sets = ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset")
    return name in (pickled.ANY_CLASS, *sets) or name.startswith(_PACKAGES)


class _Archive(_File):
    """A ZIP archive: `NAME/data.pkl`, and `NAME/data/KEY` with the bytes of a storage."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        [index] = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"] or [""]
        if not index:
            raise ValueError("no data.pkl in it")
        self._root, self._index = index.rpartition("/")[0], index
        order = f"{self._root}/byteorder"
        if order in archive.namelist() and self._stored(order) != b"little":
            raise ValueError("its bytes are in the other order")
        self._storages: dict[str, np.ndarray] = {}

    def _unpickled(self) -> Any:
        return self._read(self._stored(self._index))

    def _stored(self, name: str) -> bytes:
        info = self._archive.getinfo(name)
        # torch.save never compresses. A compressed entry may be a zip bomb: zipfile allocates
        # whatever size the entry claims.
        is_stored = info.compress_type == zipfile.ZIP_STORED
        if not is_stored or info.compress_size != info.file_size:
            raise ValueError(f"{name[:100]} is compressed")
        try:
            return self._archive.read(info)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ValueError(f"{name[:100]} begins where no file has a byte") from error

    def _storage_of(self, key: str, kind: np.dtype) -> np.ndarray:
        if key not in self._storages:  # tensors may share one
            content = self._stored(f"{self._root}/data/{key}")
            self._storages[key] = np.frombuffer(content, kind)
        return self._storages[key]


class _Legacy(_File):
    """The format before 1.6: three header pickles, one of the objects, one of the storages' keys,
    and then each storage: its count of numbers (int64), and the numbers."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._widths: dict[str, int] = {}
        if self._read(self._file) != _MAGIC or self._read(self._file) != _PROTOCOL:
            raise ValueError("it is neither a ZIP archive nor of PyTorch's format before that")
        about = self._read(self._file)
        if isinstance(about, dict) and about.get("little_endian") is False:
            raise ValueError("its bytes are in the other order")
        self._data = data

    def _unpickled(self) -> Any:
        value = self._read(self._file)
        keys = pickled.read(self._file)
        if not isinstance(keys, list):
            raise ValueError("the keys of its storages are missing")
        self._keys = [str(key)[:100] for key in keys]
        self._first = self._file.tell()
        return value

    def _kept(self, about: Any) -> Any:
        """Also notes a storage's bytes per number, to step over an optimizer's storages."""
        if about[0] == "storage" and isinstance(about[1], pickled.Name):
            kind = about[1].path.removeprefix("torch.").removesuffix("Storage")
            if kind in _WIDTHS:
                self._widths[str(about[2])[:100]] = _WIDTHS[kind]
        return super()._kept(about)

    def _storage_of(self, key: str, kind: np.dtype) -> np.ndarray:
        if key not in self._places:
            raise ValueError(f"storage {key} is missing, or one before it is cut short")
        at, count = self._places[key]
        return np.frombuffer(self._data, kind, count, at)

    @functools.cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Each storage's offset and count of numbers, up to the first storage that is cut short."""
        places, at = {}, self._first
        for key in self._keys:
            if key not in self._widths:
                raise ValueError(f"storage {key} is of a kind that is not known")
            count = int.from_bytes(self._data[at : at + 8], "little", signed=True)
            end = at + 8 + count * self._widths[key]
            if count < 0 or end > len(self._data):
                break
            places.setdefault(key, (at + 8, count))
            at = end
        return places
