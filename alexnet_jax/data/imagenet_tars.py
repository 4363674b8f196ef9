"""ILSVRC as Hugging Face published it before parquet: tars of images with the class in each name.

The files are train_images_0.tar, val_images.tar and test_images.tar (published as .tar.gz). Images
have names such as n01440764_10026_n01440764.JPEG and ILSVRC2012_val_00000001_n01751748.JPEG; names
in test have no class.
"""

import pathlib
import re
from collections.abc import Iterator

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.folder import UNLABELLED
from alexnet_jax.data.tars import Index, Members, entries, is_image
from alexnet_jax.data.types import DataError, Source
from alexnet_jax.host.progress import Progress

SPLITS = {"train": "train", "val": "validation", "test": "test"}
_ARCHIVE = re.compile(r"(train|val|test)_images(?:_(\d+))?\.tar(\.gz)?")
SYNSET = re.compile(r"_(n\d{8})\.\w+$")  # at the end of the names of imagenet-1k's files


def archives_in(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns these archives in a folder, or in its folder `data`; there may be none.

    A compressed archive counts only if its decompressed copy is not beside it.
    """
    for folder in (path, path / "data"):
        if folder.is_dir():
            archives = [p for p in folder.iterdir() if _ARCHIVE.fullmatch(p.name) and p.is_file()]
            if archives:
                return sorted(
                    p for p in archives if p.suffix != ".gz" or p.with_suffix("") not in archives
                )
    return []


class ImagenetTars(Dataset):
    """The splits whose archives are there.

    Images are named CLASS/FILE and ordered as in a folder of classes, so that both ways give the
    same data set, record by record.
    """

    def __init__(
        self, folder: pathlib.Path, archives: list[pathlib.Path], silent: bool = True
    ) -> None:
        """Scans the archives: tar has no table of contents, only a header for each image.

        Args:
          folder: the folder that the config names.
          archives: from `archives_in`.
          silent: show no progress?

        Raises:
          DataError: an archive is missing or compressed, or its images' names have no class.
        """
        self.name = str(folder)
        parts: dict[str, list[pathlib.Path]] = {}
        for archive in archives:
            match = _ARCHIVE.fullmatch(archive.name)
            assert match
            _refuse_compressed(archive)
            parts.setdefault(SPLITS[match[1]], []).append(archive)
        for archives_of_split in parts.values():
            _refuse_missing(archives_of_split)
        indices: dict[str, Index] = {}
        synsets: dict[str, list[str]] = {}
        with Progress(f"look through {folder.name}", 0, len(archives), "archive", silent) as bar:
            for split, archives_of_split in parts.items():
                indices[split], synsets[split] = Index(), []
                for archive in archives_of_split:
                    _add(indices[split], archive, synsets[split], split != "test")
                    bar.advance(1)
                if not len(indices[split]):
                    raise DataError(f"{archives_of_split[0]}: holds no images")
        self.class_names = sorted(synsets.get("train") or synsets.get("validation", []))
        self.notes = [note for index in indices.values() for note in index.notes]
        self._splits = {
            split: self._members(index, synsets[split], parts[split][0])
            for split, index in indices.items()
        }
        self.sizes = {split: len(members) for split, members in self._splits.items()}

    def _members(self, index: Index, synsets: list[str], archive: pathlib.Path) -> Members:
        if not synsets:
            return index.members(index.by_name(), index.labels(), self.class_names)
        labels = {name: label for label, name in enumerate(self.class_names)}
        unknown = next((name for name in synsets if name not in labels), None)
        if unknown is not None:
            raise DataError(f"{archive}: class {unknown} is not among those of train")
        labels_of_images = np.array([labels[name] for name in synsets], np.int32)[index.labels()]
        return index.members(index.mixed(), labels_of_images, self.class_names)

    def contents(self) -> Iterator[str]:
        """Names every image, in order, as a folder's are named."""
        yield from super().contents()
        for split, members in sorted(self._splits.items()):
            for name in members.names:
                yield f"{split} {name if '/' in name else f'{split}/{name}'}"

    def _whole(self, split: str) -> Source:
        return self._splits[split]


def _refuse_compressed(archive: pathlib.Path) -> None:
    if archive.suffix == ".gz":
        raise DataError(
            f"{archive}: is compressed, so its images cannot be read one by one; decompress it "
            f"(photographs take no more room): gunzip -k {archive.name}"
        )


def _refuse_missing(archives: list[pathlib.Path]) -> None:
    numbers = {match[2] for archive in archives if (match := _ARCHIVE.fullmatch(archive.name))}
    if numbers == {None}:
        return
    present = {int(number) for number in numbers if number is not None}
    missing = sorted(set(range(max(present) + 1)) - present)
    if missing:
        first = _ARCHIVE.sub(rf"\1_images_{missing[0]}.tar", archives[0].name)
        raise DataError(f"{archives[0].parent}: {first} is missing; fetch it")


def _add(index: Index, archive: pathlib.Path, synsets: list[str], labelled: bool) -> None:
    """Adds the images of an archive; `synsets` gets those that are new, in the order of labels."""
    labels = {name: label for label, name in enumerate(synsets)}
    for entry in entries(archive):
        name = entry.name.rpartition("/")[2]
        if not is_image(entry):
            index.leave_out(archive, entry)
        elif not labelled:
            index.add(archive, entry, name, UNLABELLED)
        else:
            synset = SYNSET.search(name)
            if not synset:
                raise DataError(
                    f"{archive}: {entry.name} has no class in its name (_n01440764.JPEG)"
                )
            if synset[1] not in labels:
                labels[synset[1]] = len(synsets)
                synsets.append(synset[1])
            index.add(archive, entry, f"{synset[1]}/{name}", labels[synset[1]])
