"""answers.safetensors in a workdir: the answer of the last one-view evaluation to each image."""

import dataclasses
import json
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from alexnet_jax.host import files
from alexnet_jax.steps.answers import Answers

ANSWERS_FILE = "answers.safetensors"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation's answers.

    Attributes:
      step: of the network that was asked.
      split: of the images.
      answers: of each, in the split's order.
    """

    step: int
    split: str
    answers: Answers


def write(workdir: pathlib.Path, evaluated: Evaluated) -> None:
    """Writes the file; NumPy reads it by `safetensors.numpy.load_file`."""
    arrays = {name: np.ascontiguousarray(of) for name, of in vars(evaluated.answers).items()}
    about = {"step": str(evaluated.step), "split": json.dumps(evaluated.split)}
    files.replace_bytes(workdir / ANSWERS_FILE, safetensors.numpy.save(arrays, about))


def read(workdir: pathlib.Path) -> Evaluated:
    """Reads the file.

    Raises:
      FileNotFoundError: there is none.
      DamagedFileError: it is not what `write` wrote.
    """
    path = workdir / ANSWERS_FILE
    if not path.is_file():
        raise FileNotFoundError(path)
    names = [field.name for field in dataclasses.fields(Answers)]
    try:
        with (
            files.safe_path(path) as safe,
            safetensors.safe_open(safe, "numpy") as opened,  # pyright: ignore[reportPrivateImportUsage]
        ):
            about = opened.metadata() or {}
            answers = Answers(*(opened.get_tensor(name) for name in names))
            evaluated = Evaluated(int(about["step"]), str(json.loads(about["split"])), answers)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        problem = f"{path}: holds no answers of an evaluation ({type(error).__name__}: {error})"
        raise files.DamagedFileError(problem) from error
    count = answers.labels.shape
    kinds = {"labels": "i", "readable": "b", "classes": "i", "probabilities": "f"}
    if (
        any(getattr(answers, name).dtype.kind != kind for name, kind in kinds.items())
        or answers.readable.shape != count
        or answers.classes.shape != answers.probabilities.shape
        or answers.classes.ndim != 2
        or answers.classes.shape[:1] != count
        or (answers.classes < 0).any()
    ):
        raise files.DamagedFileError(f"{path}: its arrays do not belong together")
    return evaluated
