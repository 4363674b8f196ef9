"""Paths that people give: of this machine, or of a bucket."""

import os
import pathlib
import re

from alexnet_jax.errors import UserError


class PathError(UserError, ValueError):
    """A path that cannot be used; the message names the flag and what to do."""


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local(path: str | os.PathLike[str], flag: str) -> pathlib.Path:
    """Returns a path on this machine, with ~ expanded; for gs://BUCKET/PATH, the path of a copy.

    Args:
      path: as the user gave it.
      flag: the flag that gave it, for the error.

    Raises:
      PathError: it is empty, of another kind of bucket, or in a home folder that is not known.
      BucketError: the bucket cannot be read.
    """
    text = os.fspath(path)
    if not text.strip():
        raise PathError(f"{flag}: is empty; name a folder")
    if text.startswith("gs://"):
        from alexnet_jax.host import mirror  # --help needs none of it

        return mirror.copy_of(text)
    if _SCHEME.match(text):
        raise PathError(
            f"{flag}: {text} is neither on this machine's disks nor gs://BUCKET/PATH; mount the "
            "bucket as a folder, or copy it"
        )
    if "\0" in text:
        raise PathError(f"{flag}: {text!r} has a zero byte in it")
    path = pathlib.Path(os.path.expanduser(text))
    if text.startswith("~") and path.parts[0].startswith("~"):
        raise PathError(f"{flag}: {text} needs a home folder; set HOME, or name the whole path")
    return path
