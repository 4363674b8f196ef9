"""Classes in words."""

import pytest

from alexnet_jax.data import imagenet, words


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
