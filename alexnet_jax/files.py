"""Files that are whole or not there, and folders that one process at a time holds."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator


class FolderInUseError(RuntimeError):
    """Another process holds a folder."""


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a small file in one step: it holds either the old text or the new."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


@contextlib.contextmanager
def only_process(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder and holds it for this process, however that ends.

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
        yield
