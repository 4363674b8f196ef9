"""Another data set's examples under the labels of a network's classes."""

from alexnet_jax.data.types import DataError, Example, ReadyPixels, Source
from alexnet_jax.errors import printable


class Relabelled(Source):
    """A source whose labels are places in another list of classes.

    Attributes:
      class_names: those that labels are places in.
      unknown: the source's own classes that are not among them; their examples have label -1.
    """

    def __init__(self, source: Source, class_names: list[str]) -> None:
        """Looks up every class by its name."""
        place = {name: label for label, name in enumerate(class_names)}
        self.class_names = class_names
        self.unknown = [name for name in source.class_names if name not in place]
        self._source = source
        self._labels = [place.get(name, -1) for name in source.class_names]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        return example._replace(label=self._labels[example.label] if example.label >= 0 else -1)

    def where(self, index: int) -> str:
        """Says where an example lies."""
        return self._source.where(index)

    def pixels(self) -> ReadyPixels | None:
        """Returns the source's stored pixels, relabelled in the same way."""
        ready = self._source.pixels()
        return ready and ready.labelled(self._labels)


def labelled_as(source: Source, class_names: list[str]) -> Source:
    """Returns a source whose labels are places in `class_names`.

    It is the source itself if both have the same classes, or if one has no names. Images of other
    classes count as unlabelled, like those of a folder of unknown images.

    Raises:
      DataError: the source has several classes, and none is in `class_names`: they are, say,
        numbers from 0 as in Caffe's lists, or from 1 as in the challenge's own.
    """
    same = source.class_names == class_names or not source.class_names or not class_names
    if same:
        return source
    relabelled = Relabelled(source, class_names)
    if len(relabelled.unknown) == len(source.class_names) > 1:
        theirs, ours = source.class_names[0], class_names[0]
        hint = "" if not theirs.isdecimal() else " (do they count from 0 as Caffe, or from 1?)"
        raise DataError(
            f"{source.where(0)}: none of its {len(source.class_names):,} classes, such as "
            f"{theirs}, is among the network's, such as {ours}{hint}. Name the network's "
            "classes in the data set's words with --class_names=FILE, one per line in the order of "
            "its labels"
        )
    if relabelled.unknown:
        print(
            f"{len(relabelled.unknown)} of {len(source.class_names)} classes are not the network's "
            f"(such as {printable(relabelled.unknown[0])}); their images count as unlabelled",
            flush=True,
        )
    return relabelled
