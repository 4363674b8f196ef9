"""Atomic writes, digests, and folders that one process at a time holds."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import IO, Any

import numpy as np

from alexnet_jax.errors import UserError, printable

PART = 2**26  # bytes of a file that are hashed at once
# NFS without its lock service, Lustre mounted without flock, and others.
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FolderInUseError(UserError, RuntimeError):
    """Another process holds a folder."""


class DamagedFileError(ValueError):
    """A file that is not what it should be; the message names it."""


_SAFE = re.compile(r"[\w./ -]+", re.ASCII)


@contextlib.contextmanager
def safe_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to a folder or file that every library can use, whatever its real path is.

    Orbax globs paths unescaped, so that `[0.1]` matches nothing. TensorStore reads a backslash as a
    slash, and accepts only UTF-8, as safetensors does.
    """
    if _SAFE.fullmatch(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="alexnet_jax-") as holder:
        link = pathlib.Path(holder) / "link"
        link.symlink_to(path.absolute())
        yield link


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a small file atomically: on the disk it holds either the old text or the new.

    Bytes of a name that are not text become escapes, which JSON reads back as they were.
    """
    replace_bytes(path, text.encode(errors="backslashreplace"))


def replace_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file in one step, as `replace_text` does."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with named(path):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Flushes to the disk what was created, renamed or removed in a folder."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.EBADF):  # disks that cannot
            raise
    finally:
        os.close(opened)


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: BaseException) -> bool:
    """Does an error say that a disk, a quota or the size of a file is at its limit?"""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    message = str(error)  # of TensorStore, which raises ValueError
    return any(text in message for text in (os.strerror(number) for number in FULL))


def room(folder: pathlib.Path) -> str:
    """Says how much the disk of a path still takes."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return f"no space left: {usage.free / 2**20:,.0f} MiB of {usage.total / 2**20:,.0f} are free"


def size_of(folder: pathlib.Path) -> int:
    """Returns the total bytes of a folder's files; files moved away meanwhile count as 0.

    Links count as 0 too: their targets lie elsewhere.
    """
    total = 0
    for parent, _, names in os.walk(folder):  # leaves out what it cannot list
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.lstat(os.path.join(parent, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def drop_cached(folder: pathlib.Path) -> None:
    """Flushes a folder's files to the disk, and drops them from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                if hasattr(os, "posix_fadvise"):  # not on a Mac
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object of a JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is empty, cut short, no text, or no object.
    """
    try:
        parsed = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: is no JSON ({_first_line(error)})") from error
    if not isinstance(parsed, dict):
        raise DamagedFileError(f"{path}: holds {type(parsed).__name__}, not an object")
    return parsed


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


# Identifies a file in one state: another file, or a change to this one, gives another.
Identity = tuple[str, int, int, int, int, int]
# Digests of files that are hashed ahead.
_ahead: dict[Identity, Future[str]] = {}


def hash_ahead(paths: Iterable[pathlib.Path]) -> None:
    """Starts hashing files in a thread, largest first; `sha256` then takes each digest, once.

    A process that ends does not wait for the thread.

    Raises:
      OSError: a file does not exist.
    """
    begun = [(path, _identity(path), Future()) for path in paths]
    begun.sort(key=lambda each: -each[1][1])
    _ahead.update({identity: future for _, identity, future in begun})

    def work() -> None:
        for path, _, future in begun:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(_hashed(path))
                except Exception as error:  # not handled here: whoever asks gets it
                    future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="hashing").start()


def forget_ahead() -> None:
    """Forgets the digests that nobody took, and begins no more of them."""
    for future in list(_ahead.values()):
        future.cancel()
    _ahead.clear()


def sha256(path: pathlib.Path) -> str:
    """Returns the digest of a file's bytes, in hexadecimal."""
    begun = _ahead.pop(_identity(path), None) if _ahead else None
    # A file that the thread has not begun yet is hashed here, in parallel to the thread.
    return begun.result() if begun and not begun.cancel() else _hashed(path)


def _identity(path: pathlib.Path) -> Identity:
    s = path.stat()
    return os.path.abspath(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev


def _hashed(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as opened:
        # Large parts: between them the thread waits for the GIL, which others may hold.
        part = memoryview(bytearray(min(PART, os.fstat(opened.fileno()).st_size + 1)))
        while size := opened.readinto(part):
            digest.update(part[:size])
    return digest.hexdigest()


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
        raise DamagedFileError(f"{path}: cannot be read ({_first_line(error)})") from error


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Adds the file's name to a disk error, which writing and flushing leave out."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def in_turn(folder: pathlib.Path, waiting: str) -> Iterator[None]:
    """Creates and locks a folder; if another process holds it, prints a line and waits.

    Args:
      folder: the folder to lock.
      waiting: the line to print.
    """
    with _lock_of(folder) as file:
        if not _taken(file, folder):
            print(printable(waiting), flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def only_process(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder and holds it for this process, however that ends.

    Raises:
      FolderInUseError: another process holds it.
    """
    with _lock_of(folder) as file:
        if not _taken(file, folder):
            raise FolderInUseError(
                f"another process works in {folder}; wait for it, or use another folder"
            )
        yield


def is_held(folder: pathlib.Path) -> bool:
    """Does another process hold a folder?"""
    try:
        with (folder / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def _lock_of(folder: pathlib.Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "lock").open("w")


def _taken(file: IO[str], folder: pathlib.Path) -> bool:
    """Takes a lock, if no other process has it; closing the file releases it.

    Some disks that machines share have no locks; there it prints a warning that nothing is held.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise OSError(error.errno, error.strerror, str(folder / "lock")) from error
        print(
            printable(
                f"warning: the disk of {folder} has no locks ({error.strerror}); let no other "
                "process work in it"
            ),
            file=sys.stderr,
        )
    return True
