"""Atomic writes, digests, and folders that one process at a time holds."""

import contextlib
import errno
import fcntl
import hashlib
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from alexnet_jax.errors import UserError

# NFS without its lock service, Lustre mounted without flock, and others.
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FolderInUseError(UserError, RuntimeError):
    """Another process holds a folder."""


class DamagedFileError(ValueError):
    """A file that is not what it should be; the message names it."""


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a small file in one step: it holds either the old text or the new."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with named(path):
        temporary.write_text(text)
        temporary.replace(path)


def replace_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file in one step, as `replace_text` does."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with named(path):
        temporary.write_bytes(data)
        temporary.replace(path)


def sha256(path: pathlib.Path) -> str:
    """Returns the digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file, none of them pickled.

    Raises:
      DamagedFileError: it is missing or not whole.
    """
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("one array, not several")
            with arrays:
                return {name: arrays[name] for name in arrays.files}
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,  # of zipfile: NotImplementedError too
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedFileError(f"{path}: cannot be read ({reason})") from error


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Lets an error of the disk say which file it is about: writing and flushing do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def only_process(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder and holds it for this process, however that ends.

    Not every disk that machines share can do so; there a warning says that nothing is held.

    Raises:
      FolderInUseError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"another process works in {folder}; wait for it, or use another folder"
            ) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise OSError(error.errno, error.strerror, str(folder / "lock")) from error
            print(
                f"warning: the disk of {folder} has no locks ({error.strerror}); let no other "
                "process work in it",
                file=sys.stderr,
            )
        yield
