"""The seal of a checkpoint: its run and step, and the digests of its files and leaves.

Orbax's and TensorStore's formats have no checksum on values: a flipped bit is read as a number. A
checkpoint gets its name only after it was sealed, so that a kill leaves a sealed one or none.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from alexnet_jax.host import files, machine, wholeness

if TYPE_CHECKING:  # not at run time: this module loads before JAX
    from alexnet_jax.steps.digests import Digests

FILE = wholeness.SEAL


class DamageError(ValueError):
    """What is wrong with a checkpoint, and in which of its files."""


@dataclasses.dataclass(frozen=True)
class Seal:
    """The identity of a checkpoint.

    Attributes:
      step: finished updates.
      run: fields of the config that a resume may not change, and the data set's fingerprint.
      rows: the number of lines in metrics.jsonl at this save, and their SHA-256; and the next
        row's sums so far (`means`). Empty if there are none.
      leaves: digest of each array, the same on any mesh (`steps.digests`).
      files: SHA-256 of each file, by its path within the checkpoint.
    """

    step: int
    run: dict[str, Any]
    rows: dict[str, Any]
    leaves: "Digests"
    files: dict[str, str]


def _text(about: dict[str, Any]) -> str:
    return json.dumps(about, indent=0, sort_keys=True)


def write(
    folder: pathlib.Path, step: int, run: dict[str, Any], rows: dict[str, Any], leaves: "Digests"
) -> None:
    """Seals a checkpoint's folder, whose files are on the disk (`files.drop_cached`)."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            files.sync_folder(path)
    digests = {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
    about = dataclasses.asdict(Seal(step, run, rows, leaves, digests))
    checksum = hashlib.sha256(_text(about).encode()).hexdigest()
    files.replace_text(folder / FILE, _text(about | {"sha256": checksum}) + "\n")


def read(folder: pathlib.Path) -> Seal | None:
    """Returns a checkpoint's seal, or None where it has none.

    Raises:
      DamageError: it is broken.
    """
    try:
        about = files.read_object(folder / FILE)
    except FileNotFoundError:
        return None
    except (files.DamagedFileError, OSError) as error:
        raise DamageError(f"{FILE} cannot be read") from error
    checksum = about.pop("sha256", None)
    if checksum != hashlib.sha256(_text(about).encode()).hexdigest():
        raise DamageError(f"{FILE} is not what was written")
    # A version to come may tell more.
    return Seal(**{field.name: about[field.name] for field in dataclasses.fields(Seal)})


def check(folder: pathlib.Path, step: int, run: dict[str, Any]) -> Seal | None:
    """Compares a checkpoint's files with its seal.

    Args:
      folder: of the checkpoint.
      step: that its name says.
      run: the workdir's counterpart of `Seal.run`; only what both have is compared.

    Returns:
      The seal, or None where there is none.

    Raises:
      DamageError: says what is wrong.
    """
    if not folder.is_dir():
        raise DamageError("is no folder" if folder.exists() else "leads nowhere")
    try:
        sealed = read(folder)
        if sealed is None:
            return None
        if sealed.step != step:
            raise DamageError(f"holds step {sealed.step}")
        other = [name for name, value in sealed.run.items() if run.get(name, value) != value]
        if other:
            raise DamageError(f"is of another run ({other[0]} differs)")
        with ThreadPoolExecutor(machine.cores()) as threads:  # hashing releases the GIL
            compare = functools.partial(_check_file, folder)
            list(threads.map(compare, sealed.files.keys(), sealed.files.values()))
    except OSError as error:
        raise DamageError(f"cannot be read ({error.strerror})") from error
    return sealed


def _check_file(folder: pathlib.Path, name: str, digest: str) -> None:
    path = folder / name
    if not path.is_file():
        raise DamageError(f"{name} is missing")
    if files.sha256(path) != digest:
        raise DamageError(f"{name} does not have the bytes that were saved")
