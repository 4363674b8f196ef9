"""checkpoints.json: the validation error of each checkpoint, and the newest step.

They stand apart from the checkpoints because a state is saved before it is evaluated.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

from alexnet_jax.configs import earlier_versions
from alexnet_jax.errors import printable
from alexnet_jax.host import files, wholeness
from alexnet_jax.training import rows

FILE = wholeness.RECORD


@dataclasses.dataclass
class Record:
    """What a workdir knows of its checkpoints.

    Attributes:
      sealed_after: every checkpoint after this step has a seal; None where older code began.
      newest: the last step that was saved, or None.
      errors: top-1 validation error with one view, by step.
    """

    sealed_after: int | None = None
    newest: int | None = None
    errors: dict[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, workdir: pathlib.Path) -> "Record":
        """Reads the record; rebuilds a missing or damaged one from the workdir's other files."""
        try:
            return cls.read(workdir)
        except FileNotFoundError:
            # Without errors the best checkpoint would be removed as an old one.
            older = earlier_versions.checkpoint_errors(workdir / "checkpoints")
            return cls(errors=rows.validation_errors(workdir / rows.METRICS) | older)
        except ValueError as error:
            message = f"warning: {error}; metrics.jsonl says which checkpoint is best"
            print(printable(message), file=sys.stderr)
            return cls(errors=rows.validation_errors(workdir / rows.METRICS))

    @classmethod
    def read(cls, workdir: pathlib.Path) -> "Record":
        """Reads the record.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is damaged.
        """
        path = workdir / FILE
        try:
            return cls._of(files.read_object(path))
        except (files.DamagedFileError, TypeError, ValueError, OverflowError, KeyError) as error:
            raise ValueError(f"{path}: is damaged ({str(error)[:200]})") from error

    @classmethod
    def _of(cls, about: dict[str, Any]) -> "Record":
        after, newest, errors = about["sealed_after"], about["newest"], about["errors"]
        for number in (after, newest):
            if number is not None and (type(number) is not int or number < 0):
                raise ValueError(f"{number!r} is no step")
        if not isinstance(errors, dict):
            raise ValueError("its errors are not by steps")
        known = {int(step): float(error) for step, error in errors.items()}
        if not all(0 <= error <= 1 for error in known.values()):
            raise ValueError("an error is not in [0, 1]")
        return cls(after, newest, known)

    def save(self, workdir: pathlib.Path) -> None:
        """Writes the record atomically."""
        about = dataclasses.asdict(self)
        files.replace_text(workdir / FILE, json.dumps(about, indent=0) + "\n")
