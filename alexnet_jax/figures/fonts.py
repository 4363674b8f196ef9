"""Fonts for names in any script: those of the machine, else Latin letters that sound like them."""

import functools
import sys
import unicodedata

import anyascii
import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

SHAPES = (3, 11)  # the matplotlib that joins letters, and writes from right to left
LAST_RESORT = "Last Resort"  # matplotlib's own font of boxes, which has every letter
_said: list[str] = []


def with_letters_that_a_font_has(text: str) -> str:
    """Replaces letters that no font of the machine has by Latin ones.

    >>> with_letters_that_a_font_has("crane") == "crane"
    True
    """
    text = unicodedata.normalize("NFC", text)  # Macs write a letter and its accent apart
    lacking = {letter for letter in text if _is_lacking(letter) and not _font_with(letter)}
    if lacking and not _said:
        _said.append("")
        print(
            "note: no font here has some letters of the drawn names, so Latin letters stand in; "
            "Noto Sans CJK (Debian's fonts-noto-cjk) has those of Chinese, Japanese and Korean, "
            "and matplotlib 3.11 joins those of Arabic and Hebrew",
            file=sys.stderr,
        )
    return "".join(
        (anyascii.anyascii(letter) or "?") if letter in lacking else letter for letter in text
    )


def fit(figure: Figure) -> None:
    """Gives the texts of a figure further fonts of the machine, where their letters need them."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        fonts = [_font_with(letter) for letter in text.get_text() if _is_lacking(letter)]
        if fonts:
            text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *filter(None, fonts)])))


def _is_shaped(letter: str) -> bool:
    """Does this matplotlib draw it in reading order? Older ones reverse right-to-left scripts."""
    version = tuple(int(part) for part in matplotlib.__version__.split(".")[:2])
    return version >= SHAPES or unicodedata.bidirectional(letter) not in ("R", "AL")


def _is_lacking(letter: str) -> bool:
    """Does the usual font not have it, or would matplotlib draw it in the wrong order?"""
    return not letter.isascii() and (ord(letter) not in _usual() or not _is_shaped(letter))


def _usual() -> frozenset[int]:
    return _letters(findfont(FontProperties(family=["sans-serif"])))


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Returns the code points that a font file has."""
    return frozenset(get_font(path).get_charmap())


@functools.cache
def _font_with(letter: str) -> str | None:
    """Returns the family of this machine's plainest font that has a letter; None if no font has
    it, or matplotlib would draw it in the wrong order."""
    if not _is_shaped(letter):
        return None
    fonts = sorted(
        (font for font in fontManager.ttflist if not font.name.startswith(LAST_RESORT)),
        key=lambda font: (
            font.style != "normal",
            "Sans" not in font.name,
            font.weight != 400,
            font.name,
        ),
    )
    for font in fonts:
        try:
            if ord(letter) in _letters(font.fname):
                return font.name
        except (OSError, RuntimeError):  # it was removed, or is none
            continue
    return None
