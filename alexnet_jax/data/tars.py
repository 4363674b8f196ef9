"""Tar archives whose damage is noticed."""

import tarfile
from collections.abc import Iterator


def entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields an archive's entries, and refuses one that does not end as archives do.

    `tarfile` takes a damaged header for the end; the end is a block of zeros.

    Raises:
      tarfile.ReadError: says at which byte.
    """
    yield from archive
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"a damaged header or its end at byte {archive.offset:,}")
