"""A folder split/class/image as a data set, as people have them."""

import dataclasses
import hashlib
import os
import pathlib
from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.image_files import (
    IMAGES,
    OTHERS,
    UNREADABLE,
    first_bytes_are_an_image,
    read_file,
)
from alexnet_jax.data.names import Names
from alexnet_jax.data.types import DataError, Example, Source

UNLABELLED = -1
# What systems, network disks and editors leave beside photographs; hidden names too.
LEFT_BY_SYSTEMS = {
    *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "__pycache__"),
}
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
HANDFUL = 5  # images; a note names classes that have fewer
ALMOST_EMPTY = 0.01  # of the largest split
DEPTH = 3  # levels of folders that are searched for the data set that the user may have meant


class Folder(Dataset):
    """A folder of splits of classes of image files.

    Images may lie in subfolders of their class's folder. Files are sorted by a hash of their name,
    not by class, so that a slice of a split holds every class. Files of a split without class
    folders have no labels, and are sorted by name.

    Attributes:
      notes: remarks for the user, a line each: what was left out, and what looks odd.
    """

    def __init__(self, path: pathlib.Path, only: Collection[str] = ()) -> None:
        """Looks the folder through.

        Args:
          path: the folder.
          only: names of the splits to take; by default every folder is a split.

        Raises:
          DataError: it has another form; the message says what is there, and what may be meant.
        """
        self.name = str(path)
        folders = [split for split in _folders(path) if not only or split.name in only]
        by_name = {split.name: _Split.of(pathlib.Path(split.path)) for split in folders}
        splits = {name: split for name, split in by_name.items() if split.classes or split.loose}
        self.class_names = sorted({name for split in splits.values() for name in split.classes})
        _refuse_other_forms(path, splits, self.class_names)
        self._splits = {
            name: _Files(path / name, *split.labelled(self.class_names), self.class_names)
            for name, split in splits.items()
        }
        self.sizes = {split: len(files) for split, files in self._splits.items()}
        self.notes = [*_left_out(path, by_name), *_odd(splits, self.class_names)]

    def contents(self) -> Iterator[str]:
        """Names every file, in order: a shard of a store is a range of them."""
        yield from super().contents()
        yield from (
            f"{split} {name if '/' in name else f'{split}/{name}'}"
            for split, files in sorted(self._splits.items())
            for name in files.names
        )

    def _whole(self, split: str) -> Source:
        return self._splits[split]


@dataclasses.dataclass
class _Split:
    """What lies in the folder of a split.

    Attributes:
      path: the folder.
      classes: the images of each subfolder that has any, as paths relative to the split.
      loose: images directly in the split's folder.
      left_out: counts of what was not taken, by reason; `first` has the first path of each.
    """

    path: pathlib.Path
    classes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    loose: list[str] = dataclasses.field(default_factory=list)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    first: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, path: pathlib.Path) -> "_Split":
        """Looks a folder through."""
        split = cls(path)
        split.loose = sorted(split._images(path, "", set(), deeper=False))
        for folder in _folders(path):
            images = split._images(folder.path, f"{folder.name}/", set())
            if images:
                split.classes[folder.name] = images
            else:
                split.leave("a folder without an image", folder.path)
        split.note_left_by_systems(path)
        return split

    def note_left_by_systems(self, path: pathlib.Path) -> None:
        """Counts the subfolders that a system left, which hold no user's photographs."""
        classes = {folder.name for folder in _folders(path)}
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if _is_folder(entry) and entry.name not in classes:
                    self.leave("a folder that a system left", entry.path)

    def leave(self, why: str, path: str | os.PathLike[str]) -> None:
        """Counts what is not taken."""
        self.left_out[why] += 1
        self.first.setdefault(why, str(path))

    def _images(
        self,
        folder: str | os.PathLike[str],
        prefix: str,
        above: set[tuple[int, int]],
        deeper: bool = True,
    ) -> list[str]:
        """Returns the images of a folder and, if `deeper`, of its subfolders.

        Args:
          folder: the folder to scan.
          prefix: begins the names of the images.
          above: the inodes of its parent folders, because a link may lead back to one.
          deeper: scan subfolders too?
        """
        about = os.stat(folder)
        inode = (about.st_dev, about.st_ino)
        if inode in above:
            return []
        images = []
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                is_hidden = entry.name.startswith(".")
                if _is_folder(entry):
                    if not deeper:
                        continue
                    if is_hidden or entry.name.lower() in LEFT_BY_SYSTEMS:
                        self.leave("a folder that a system left", entry.path)
                        continue
                    inside = f"{prefix}{entry.name}/"
                    images += self._images(entry.path, inside, above | {inode})
                elif is_hidden:
                    if suffix in IMAGES:
                        self.leave("a hidden file", entry.path)
                elif suffix in IMAGES:
                    images.append(prefix + entry.name)
                elif suffix not in OTHERS and first_bytes_are_an_image(entry.path):
                    images.append(prefix + entry.name)
                elif suffix in UNREADABLE:
                    self.leave(f"{suffix} cannot be decoded here", entry.path)
                elif suffix and suffix not in OTHERS:
                    self.leave(f"{suffix} is not known as an image's", entry.path)
        return images

    def labelled(self, class_names: list[str]) -> tuple[list[str], list[int]]:
        """Returns the images and their labels, in the order of the data set."""
        if not self.classes:
            return self.loose, [UNLABELLED] * len(self.loose)
        labels = {name: label for label, name in enumerate(class_names)}
        items = [(image, labels[name]) for name, images in self.classes.items() for image in images]
        items.sort(key=lambda item: spread(item[0]))
        return [image for image, _ in items], [label for _, label in items]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _folders(path: pathlib.Path) -> list[os.DirEntry[str]]:
    """Returns the subfolders of a folder, sorted by name, without those that systems leave."""
    with os.scandir(path) as entries:
        return sorted(
            (
                entry
                for entry in entries
                if _is_folder(entry)
                and not entry.name.startswith(".")
                and entry.name.lower() not in LEFT_BY_SYSTEMS
            ),
            key=lambda entry: entry.name,
        )


def _refuse_other_forms(
    path: pathlib.Path, splits: dict[str, _Split], class_names: list[str]
) -> None:
    """Refuses a folder that is one level too high or too low, or of another form.

    Raises:
      DataError: says what is there, and which path is probably meant.
    """
    mixed = [split for split in splits.values() if split.loose and split.classes]
    if mixed and not any(name.lower() in SPLITS for name in class_names):
        loose = mixed[0].path / mixed[0].loose[0]
        raise DataError(
            f"{loose}: lies beside folders of classes; move it into the folder of its class"
        )
    tiny = [split.path for split in splits.values() if (split.path / _TINY).is_file()]
    if tiny:
        raise DataError(
            f"{tiny[0]}: has its labels in {_TINY}, as Tiny ImageNet does; move each of its images "
            f"into a folder of its class, {tiny[0]}/CLASS/"
        )
    inner = [name for name in class_names if name.lower() in SPLITS]
    deeper = (
        image.split("/")
        for s in splits.values()
        for images in s.classes.values()
        for image in images
    )
    inner += [parts[0] for parts in deeper if any(part.lower() in SPLITS for part in parts[1:-1])]
    if class_names and not inner:
        return
    meant = _meant(path)
    here = _described(path, splits)
    if meant:
        raise DataError(f"{path}: {here}; did you mean {meant}?")
    if inner:
        return  # classes that are named like splits
    raise DataError(f"{path}: {here}; a data set is split/class/image, as train/cat/1.jpg")


_TINY = "val_annotations.txt"


def _described(path: pathlib.Path, splits: dict[str, _Split]) -> str:
    if splits:
        names = ", ".join(sorted(splits)[:3])
        more = ", ..." if len(splits) > 3 else ""
        if any(split.classes for split in splits.values()):
            return f"its folders ({names}{more}) seem to hold splits, not classes"
        return f"its folders ({names}{more}) hold images, not folders of classes"
    directly_in = _Split(path)
    images = directly_in._images(path, "", set(), deeper=False)
    if images:
        return (
            f"holds {len(images):,} images without labels (python -m alexnet_jax.predict "
            "classifies them)"
        )
    names = [folder.name for folder in _folders(path)]
    return f"holds no split/class/image, but {', '.join(names[:3]) or 'no folder'}"


def _meant(path: pathlib.Path) -> pathlib.Path | None:
    """Returns a folder nearby that looks like a data set: below, else one or two above."""
    level = [path]
    for _ in range(DEPTH):
        level = [pathlib.Path(entry.path) for folder in level for entry in _folders(folder)][:200]
        for folder in level:
            if _looks_like_a_set(folder):
                return folder
    absolute = path.absolute()
    for above in (absolute.parent, absolute.parent.parent):
        name = absolute.relative_to(above).parts[0].lower()
        if name in SPLITS and _looks_like_a_set(above):
            return above
    return None


def _looks_like_a_set(path: pathlib.Path) -> bool:
    """Does it contain a folder that is named like a split and holds a folder of images?"""
    for split in _folders(path):
        if split.name.lower() not in SPLITS:
            continue
        for folder in _folders(pathlib.Path(split.path))[:3]:
            if _Split(path)._images(folder.path, "", set()) and folder.name.lower() not in SPLITS:
                return True
    return False


def _left_out(path: pathlib.Path, splits: dict[str, _Split]) -> list[str]:
    """Says what was not taken: how many, why, and the first."""
    whole = _Split(path)
    for image in sorted(whole._images(path, "", set(), deeper=False)):
        whole.leave("an image beside the splits", path / image)
    whole.note_left_by_systems(path)
    for name, split in splits.items():
        if not split.classes and not split.loose:
            whole.leave("a folder without an image", path / name)
    count: Counter[str] = Counter()
    first: dict[str, str] = {}
    for split in [whole, *splits.values()]:
        count += split.left_out
        first = split.first | first
    return [
        f"{number:,} left out: {why} ({first[why]}{', ...' if number > 1 else ''})"
        for why, number in sorted(count.items())
    ]


def _odd(splits: dict[str, _Split], class_names: list[str]) -> list[str]:
    """Reports likely mistakes: classes that train lacks or hardly has, and almost empty splits."""
    lines = []
    train = splits.get("train") or splits.get("training")
    if train and train.classes:
        for name, split in sorted(splits.items()):
            strange = sorted(split.classes.keys() - train.classes.keys())
            if strange:
                lines.append(f"{name} has classes that train does not have: {_some(strange)}")
        few = [name for name in class_names if 0 < len(train.classes.get(name, [])) < HANDFUL]
        if few:
            lines.append(f"train has fewer than {HANDFUL} images of {_some(few)}")
    sizes = {
        name: len(split.loose) + sum(map(len, split.classes.values()))
        for name, split in splits.items()
    }
    most = max(sizes.values(), default=0)
    for name, size in sorted(sizes.items()):
        if size < ALMOST_EMPTY * most or size < HANDFUL <= most / 10:
            lines.append(f"{name} is almost empty: {size:,} of {most:,} images")
    return lines


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def spread(name: str) -> tuple[bytes, str]:
    """Returns a sort key that mixes names by their hash, the same on every machine."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest(), name


class _Files(Source):
    """Files of a split, by index; `names` are their paths relative to its folder."""

    def __init__(
        self, split: pathlib.Path, files: list[str], labels: list[int], class_names: list[str]
    ) -> None:
        self.class_names, self._split = class_names, split
        self.names = Names(files)
        self._labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        return Example(read_file(self._split / name), int(self._labels[index]), name)

    def where(self, index: int) -> str:
        """Returns the file's path."""
        return str(self._split / self.names[index])
