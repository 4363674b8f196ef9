"""English names of classes: ImageNet's own are numbers of WordNet synsets."""

import ast
import functools
import json
import pathlib
import re
from collections import Counter
from collections.abc import Sequence

from alexnet_jax.data.types import DataError

# Each of the thousand with the first word of its synset (Princeton University, WordNet 3.0).
_FILE = pathlib.Path(__file__).with_name("imagenet_words.txt")
MOST_CHARACTERS = 10**7  # of a list or dictionary; ImageNet's has 30,000
# As folders of photographs are often called: n02056570_king_penguin, n02085620-Chihuahua.
_NUMBER = re.compile(r"n\d{8}( |$)")
_NUMBER_AND_WORDS = re.compile(r"n\d{8}[-_](.+)")


@functools.cache
def _words() -> dict[str, str]:
    return dict(line.split(" ", 1) for line in _FILE.read_text().splitlines())


def read_names(path: pathlib.Path, classes: int) -> list[str]:
    """Reads names of classes, one a line in the order of labels.

    It also reads lists and dictionaries by label, in JSON or Python: `{0: 'tench', 1: 'goldfish'}`,
    `{"0": ["n01440764", "tench"]}`. If every name begins with a synset's number, as in Caffe's
    synset_words.txt (`n01440764 tench, Tinca tinca`), the numbers are the names.

    Raises:
      DataError: it is no such file, or has more names than there are classes, or one twice.
    """
    try:
        text = path.read_text("utf-8-sig").strip()
        names = [line.strip() for line in text.split("\n")]
        if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
            names = _by_label(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--class_names: {path} cannot be read ({error})") from error
    except _NoListError as error:
        raise DataError(
            f"--class_names: {path} is neither a list of names nor a dictionary of names by labels "
            f"from 0 on ({error}); write one name per line"
        ) from error
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


class _NoListError(ValueError):
    """Text that is no list of names by label."""


def _by_label(text: str) -> list[str]:
    """Reads the names in a list, or in a dictionary by label.

    Raises:
      _NoListError: says what is wrong.
    """
    if len(text) > MOST_CHARACTERS:
        raise _NoListError(f"it has {len(text):,} characters")
    try:
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = ast.literal_eval(text)  # literals alone: nothing is called
        if isinstance(parsed, dict):
            by_label = {int(label): name for label, name in parsed.items()}
            if sorted(by_label) != list(range(len(parsed))):
                raise _NoListError("its labels are not 0, 1, 2 and so on")
            parsed = [by_label[label] for label in range(len(by_label))]
        names = [name if isinstance(name, str) else name[0] for name in parsed]
    except _NoListError:
        raise
    except (ValueError, TypeError, SyntaxError, KeyError, IndexError) as error:
        raise _NoListError(str(error).splitlines()[0][:100] if str(error) else "damaged") from error
    except (RecursionError, MemoryError) as error:
        raise _NoListError("nested too deeply") from error
    if not all(isinstance(name, str) for name in names):
        raise _NoListError("a name is no text")
    return [" ".join(name.split()) for name in names]


def name_of(class_names: Sequence[str], label: int) -> str:
    """Returns a class's name, or its number if the network has more classes than names."""
    return class_names[label] if label < len(class_names) else f"class {label}"


def spoken(class_name: str) -> str:
    """Returns a class's name in words: n02056570 is king penguin; other names are as they are."""
    named = _NUMBER_AND_WORDS.fullmatch(class_name)
    if named:
        return named[1].replace("_", " ")
    return _words().get(class_name, class_name)
