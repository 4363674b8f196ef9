"""English names of classes: ImageNet's own are numbers of WordNet synsets."""

import functools
import pathlib
import re
from collections import Counter
from collections.abc import Sequence

from alexnet_jax.data.types import DataError

# Each of the thousand with the first word of its synset (Princeton University, WordNet 3.0).
_FILE = pathlib.Path(__file__).with_name("imagenet_words.txt")
# As folders of photographs are often called: n02056570_king_penguin, n02085620-Chihuahua.
_NUMBER = re.compile(r"n\d{8}( |$)")
_NUMBER_AND_WORDS = re.compile(r"n\d{8}[-_](.+)")


@functools.cache
def _words() -> dict[str, str]:
    return dict(line.split(" ", 1) for line in _FILE.read_text().splitlines())


def read_names(path: pathlib.Path, classes: int) -> list[str]:
    """Reads names of classes, one a line in the order of labels.

    Of Caffe's synset_words.txt, `n01440764 tench, Tinca tinca`, the numbers are the names.

    Raises:
      DataError: it is no such file, or has more names than there are classes, or one twice.
    """
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--class_names: {path} cannot be read ({error})") from error
    if "" in names:
        raise DataError(
            f"--class_names: {path} has nothing in line {names.index('') + 1}; each line names the "
            "class of a label"
        )
    if all(_NUMBER.match(name) for name in names):
        names = [name.split()[0] for name in names]
    again = [name for name, count in Counter(names).items() if count > 1]
    if not 0 < len(names) <= classes or again:
        what = f"{again[0]!r} twice" if again else f"{len(names):,} names"
        hint = f"; leave out its first, {names[0]}" if len(names) == classes + 1 else ""
        raise DataError(
            f"--class_names: {path} has {what}; the network has {classes:,} classes{hint}"
        )
    return names


def name_of(class_names: Sequence[str], label: int) -> str:
    """Returns a class's name, or its number where a network has more classes than have names."""
    return class_names[label] if label < len(class_names) else f"class {label}"


def spoken(class_name: str) -> str:
    """Returns a class's name in words: n02056570 is king penguin; other names are as they are."""
    named = _NUMBER_AND_WORDS.fullmatch(class_name)
    if named:
        return named[1].replace("_", " ")
    return _words().get(class_name, class_name)
