"""Another data set's labels, mapped by the names of the classes."""

import numpy as np
import pytest

from alexnet_jax.data.relabelled import labelled_as
from alexnet_jax.data.types import DataError, Example, Source


class Three(Source):
    class_names = ["ant", "bee", "cat"]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Example:
        return Example(np.zeros((1, 1, 3), np.uint8), (0, 1, 2, -1)[index], str(index))

    def where(self, index: int) -> str:
        return f"three {index}"


def test_labels_are_places_in_the_networks_classes(capsys):
    source = labelled_as(Three(), ["cat", "dog", "ant"])
    assert [source[i].label for i in range(len(source))] == [2, -1, 0, -1]
    assert source.class_names == ["cat", "dog", "ant"]
    assert (source[1].name, source.where(1)) == ("1", "three 1")
    assert "1 of 3 classes are not the network's (such as bee)" in capsys.readouterr().out


def test_the_same_classes_and_those_without_names_stay_as_they_are(capsys):
    source = Three()
    assert labelled_as(source, ["ant", "bee", "cat"]) is source
    assert labelled_as(source, []) is source
    assert capsys.readouterr().out == ""


class Numbered(Three):
    class_names = ["0", "1", "10"]


class OneFolder(Three):
    class_names = ["images"]

    def __getitem__(self, index: int) -> Example:
        return super().__getitem__(index)._replace(label=0)


def test_classes_that_are_all_others_are_refused_and_told_how_they_map(capsys):
    with pytest.raises(DataError, match="none of its 3 classes, such as ant, is among the network"):
        labelled_as(Three(), ["n01440764", "n01443537"])
    with pytest.raises(DataError, match="from 0 as Caffe, or from 1.*--class_names=FILE"):
        labelled_as(Numbered(), ["n01440764", "n01443537"])
    # A folder of photographs that nobody has labelled.
    source = labelled_as(OneFolder(), ["n01440764", "n01443537"])
    assert [source[i].label for i in range(4)] == [-1] * 4
    assert "1 of 1 classes are not the network's" in capsys.readouterr().out
