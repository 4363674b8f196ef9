"""ILSVRC as Kaggle gives it: ILSVRC/Data/CLS-LOC with a flat folder of validation images, whose
classes are in LOC_val_solution.csv beside it."""

import csv
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.folder import UNLABELLED, Folder, spread
from alexnet_jax.data.image_files import IMAGES, read_file
from alexnet_jax.data.names import Names
from alexnet_jax.data.types import DataError, Example, Source

IMAGES_IN = pathlib.PurePath("ILSVRC", "Data", "CLS-LOC")
SOLUTION = "LOC_val_solution.csv"
VALIDATION, TEST = "val", "test"
_SYNSET = re.compile(r"n\d{8}")


def root_of(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder where Kaggle's archive was unpacked, if a path is it or a folder between
    it and the images, and if the validation images are not in class folders."""
    absolute = path.absolute()
    for count in range(len(IMAGES_IN.parts), -1, -1):
        parts = IMAGES_IN.parts[:count]
        if not parts or absolute.parts[-count:] == parts:
            root = absolute.parents[count - 1] if count else absolute
            images = root / IMAGES_IN
            # With the validation images moved into class folders, it is a folder like any other.
            if (images / "train").is_dir() and _flat(images / VALIDATION):
                return root
    return None


class KaggleImagenet(Dataset):
    """Kaggle's ILSVRC: train/CLASS/image as in a folder, and flat validation and test images.

    Validation images are named CLASS/FILE, as in a folder of classes, so that both ways give the
    same data set, record by record.
    """

    def __init__(self, root: pathlib.Path) -> None:
        """Scans the folders.

        Raises:
          DataError: the validation images' solution file is missing, or belongs to other images.
        """
        images = root / IMAGES_IN
        self.name = str(root)
        train = Folder(images, only=("train",))
        self.class_names, self.notes = train.class_names, train.notes
        self._splits: dict[str, Source] = {"train": train.open("train")}
        for split in (VALIDATION, TEST):
            names = _flat(images / split)
            if names:
                classes = _solution(root / SOLUTION) if split == VALIDATION else {}
                placed = sorted(
                    (_placed(name, classes, root, split == VALIDATION) for name in names),
                    key=lambda item: spread(item[0]) if item[1] else (b"", item[0]),
                )
                self._splits[split] = _Flat(images / split, placed, self.class_names)
        self.sizes = {split: len(source) for split, source in self._splits.items()}

    def contents(self) -> Iterator[str]:
        """Names every file, in order, as a folder's are named."""
        yield from super().contents()
        yield from (
            f"{split} {name if '/' in name else f'{split}/{name}'}"
            for split, source in sorted(self._splits.items())
            for name in source.names  # pyright: ignore[reportAttributeAccessIssue]
        )

    def _whole(self, split: str) -> Source:
        return self._splits[split]


def _flat(folder: pathlib.Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in IMAGES and not entry.name.startswith(".")
        ]


def _solution(path: pathlib.Path) -> dict[str, str]:
    """Returns the class of each validation image, by its name without suffix.

    Raises:
      DataError: it is missing, or of another form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        classes = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (OSError, KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: does not say the validation images' classes ({type(error).__name__}: "
            f"{error}); get it from the competition's data, or move the images into folders of "
            "their classes"
        ) from error
    wrong = next((name for name in classes.values() if not _SYNSET.fullmatch(name)), None)
    if wrong is not None:
        raise DataError(f"{path}: {wrong!r} is no number of a WordNet synset")
    return classes


def _placed(
    name: str, classes: dict[str, str], root: pathlib.Path, labelled: bool
) -> tuple[str, str]:
    """Returns what an image is called, and its class."""
    if not labelled:
        return name, ""
    synset = classes.get(os.path.splitext(name)[0])
    if synset is None:
        raise DataError(f"{root / SOLUTION}: has no row for {name}")
    return f"{synset}/{name}", synset


class _Flat(Source):
    """Images of one folder, by index; `names` begin with their classes."""

    def __init__(
        self, folder: pathlib.Path, images: list[tuple[str, str]], class_names: list[str]
    ) -> None:
        self.class_names, self._folder = class_names, folder
        labels = {name: label for label, name in enumerate(class_names)}
        unknown = next((synset for _, synset in images if synset and synset not in labels), None)
        if unknown is not None:
            raise DataError(f"{folder}: class {unknown} is not among those of train")
        self.names = Names(name for name, _ in images)
        self._labels = np.array([labels.get(synset, UNLABELLED) for _, synset in images], np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        image = read_file(self._folder / name.rpartition("/")[2])
        return Example(image, int(self._labels[index]), name)

    def where(self, index: int) -> str:
        """Returns the file's path."""
        return str(self._folder / self.names[index].rpartition("/")[2])
