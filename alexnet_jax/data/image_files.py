"""Image files: recognised by their suffix or first bytes, and read safely."""

import os
import pathlib
import stat

from alexnet_jax.data.types import DataError

# What OpenCV decodes here, under the names that it goes by.
IMAGES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp"),
    *(".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
}
# Images that OpenCV does not decode: a note counts them, instead of an error for each.
UNREADABLE = {
    *(".heic", ".heif", ".jxl", ".psd", ".svg", ".ico", ".xcf", ".eps", ".pdf"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
}
# Suffixes of files that lie beside images by the million; their first bytes are not checked.
OTHERS = {
    *(".xml", ".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".html", ".db", ".ini", ".yaml"),
    *(".py", ".mat", ".npy", ".npz", ".pkl", ".zip", ".tar", ".gz", ".mp4", ".mov", ".avi"),
}
_FIRST_BYTES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM"),
    *(b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
)
MOST_BYTES = 1 << 30  # of a file; no photograph has as many
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
}


def read_file(path: pathlib.Path) -> bytes:
    """Returns the bytes of a regular file; opens nothing else, because a FIFO would block.

    Raises:
      DataError: names it, and says what it is or why it cannot be read.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            kind = _KINDS.get(stat.S_IFMT(about.st_mode), "no file")
            raise DataError(f"{path}: is {kind}, not an image")
        if about.st_size > MOST_BYTES:
            raise DataError(
                f"{path}: has {about.st_size / 2**30:.1f} GiB; an image has less than "
                f"{MOST_BYTES / 2**30:.0f}"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        if isinstance(error, DataError):
            raise
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({why})") from error


def first_bytes_are_an_image(path: str | os.PathLike[str]) -> bool:
    """Does a file begin like an image, whatever its name?"""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            first = file.read(16)
    except OSError:
        return False
    boxed = (first[:4], first[8:12]) == (b"RIFF", b"WEBP") or first[4:12] == b"ftypavif"
    return first.startswith(_FIRST_BYTES) or boxed
