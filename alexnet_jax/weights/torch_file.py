"""PyTorch state dictionaries (.pth), read without PyTorch and without executing their pickle.

The format is a ZIP archive: `NAME/data.pkl` says where each tensor lies, `NAME/data/KEY` holds the
bytes of a storage (torch/serialization.py).
"""

import dataclasses
import math
import pathlib
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np

from alexnet_jax.weights import pickled
from alexnet_jax.weights.types import WeightsError

STORAGES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
}


# What zipfile raises for archives that are damaged, encrypted (RuntimeError) or of a kind that it
# does not know (NotImplementedError), and what contents that do not fit raise.
DAMAGE = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, KeyError, ValueError, TypeError)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """What the pickle says of a tensor; read when its name is known."""

    about: Any
    offset: Any
    shape: Any
    strides: Any


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dictionary by name.

    Raises:
      WeightsError: not such a file, damaged, or with something else than tensors in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _State(archive).tensors(path)
    except DAMAGE as error:
        if isinstance(error, WeightsError):
            raise
        hint = ""
        if isinstance(error, zipfile.BadZipFile) and not zipfile.is_zipfile(path):
            hint = "; it is not a ZIP archive: load it with PyTorch and torch.save it again"
        raise WeightsError(
            f"{path}: is not a state dictionary of tensors ({error}){hint}"
        ) from error


class _State:
    """One archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        [index] = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"] or [""]
        if not index:
            raise ValueError("no data.pkl in it")
        self._root = index.rpartition("/")[0]
        order = f"{self._root}/byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its bytes are in the other order")
        self._index = self._stored(index)
        self._storages: dict[str, np.ndarray] = {}

    def tensors(self, path: pathlib.Path) -> dict[str, np.ndarray]:
        """Returns the arrays of the file's dictionary, by name."""
        calls: pickled.Calls = {
            "collections.OrderedDict": dict,
            "torch._utils._rebuild_tensor_v2": lambda *about: _Tensor(*about[:4]),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }
        found = pickled.read(self._index, calls, lambda about: about)
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
            found = found["state_dict"]  # as training scripts save it
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        tensors = {}
        for name, value in found.items():
            if not isinstance(value, _Tensor):
                raise WeightsError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
            try:
                tensors[name] = self._tensor(value)
            except DAMAGE as error:
                raise WeightsError(f"{path}: {name} cannot be read ({error})") from error
        return tensors

    def _stored(self, name: str) -> bytes:
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:  # what torch.save never writes may be a bomb
            raise ValueError(f"{name} is compressed")
        return self._archive.read(info)

    def _storage(self, about: Any) -> np.ndarray:
        kind, name, key, _, count = about
        if kind != "storage" or not isinstance(name, pickled.Name) or name.path not in STORAGES:
            raise ValueError(f"a storage {name} is not of numbers that weights have")
        if key not in self._storages:  # tensors may share one
            content = self._stored(f"{self._root}/data/{key}")
            self._storages[key] = np.frombuffer(content, STORAGES[name.path])
        values = self._storages[key]
        if len(values) != count:
            raise ValueError(f"storage {key} has {len(values)} numbers, not {count}")
        return values

    def _tensor(self, value: _Tensor) -> np.ndarray:
        storage, offset = self._storage(value.about), value.offset
        shape, strides = value.shape, value.strides
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        inside = 0 <= offset <= last < len(storage) and math.prod(shape) <= len(storage)
        if not inside or min(strides, default=0) < 0:
            raise ValueError(f"a tensor of shape {shape} reaches outside its storage")
        steps = tuple(s * storage.itemsize for s in strides)
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
