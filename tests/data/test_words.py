"""Classes in words."""

import pytest

from alexnet_jax.data import imagenet, words
from alexnet_jax.data.types import DataError


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n01440764", "tench"),
        ("n15075141", "toilet tissue"),
        ("n02056570_king_penguin", "king penguin"),
        ("n02085620-Chihuahua", "Chihuahua"),
        ("n99999999", "n99999999"),
        ("dark", "dark"),
        ("", ""),
    ],
)
def test_numbers_of_wordnet_are_said_in_words(name, said):
    assert words.spoken(name) == said


def test_every_class_of_imagenet_has_words_of_its_own():
    said = [words.spoken(name) for name in imagenet.class_names()]
    assert len(set(said)) == 1000
    assert not any(name.startswith("n0") for name in said)


def test_a_class_without_a_name_is_called_by_its_number():
    assert [words.name_of(["cat", "dog"], label) for label in (0, 1, 2)] == [
        "cat",
        "dog",
        "class 2",
    ]


def test_lists_of_classes_that_go_around(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    assert words.read_names(path, 2) == ["n01440764", "n01443537"]  # Caffe's synset_words.txt
    path.write_text("n02056570_king_penguin\nn01443537 goldfish\n")
    assert words.read_names(path, 2) == ["n02056570_king_penguin", "n01443537 goldfish"]
    path.write_text("background\ntench\ngoldfish\n")  # TensorFlow's ImageNetLabels.txt
    assert words.read_names(path, 3) == ["background", "tench", "goldfish"]
    with pytest.raises(DataError, match="has 3 names; the network has 2 classes; leave out its fi"):
        words.read_names(path, 2)
    path.write_bytes("\ufeffn01440764 tench\r\nn01443537 goldfish\r\n".encode())  # Windows'
    assert words.read_names(path, 2) == ["n01440764", "n01443537"]
    path.write_text("a\u2028b\nc\n\n")
    assert words.read_names(path, 3) == ["a\u2028b", "c"]
    path.write_text("dog\n\ncat\n")  # else cat would be the second class, or the third
    with pytest.raises(DataError, match="has nothing in line 2; each line names the class"):
        words.read_names(path, 3)


def test_names_in_lists_and_dictionaries_by_label(tmp_path):
    path = tmp_path / "names.txt"
    for text in (
        "{0: 'tench, Tinca tinca',\n 1: \"goldfish\",\n 2: 'it\\'s one'}\n",
        '{"0": ["tench, Tinca tinca", "x"], "2": ["it\'s one", "z"], "1": ["goldfish", "y"]}',
        '["tench, Tinca tinca", "goldfish", "it\'s one"]',
        "['tench, Tinca tinca', 'goldfish', \"it's one\"]",
    ):
        path.write_text(text)
        assert words.read_names(path, 3) == ["tench, Tinca tinca", "goldfish", "it's one"]
    path.write_text('{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}')
    assert words.read_names(path, 2) == ["n01440764", "n01443537"]
    for text in (
        "{1: 'a', 2: 'b'}",
        "{0: 'a', 0.5: 'b'}",
        "[1, 2]",
        "{0: __import__('os').system('true')}",
        "[" * 5000 + "]" * 5000,
        "[[]]",
    ):
        path.write_text(text)
        with pytest.raises(
            DataError, match=r"names.txt is neither a list of names .* write one name"
        ):
            words.read_names(path, 3)
