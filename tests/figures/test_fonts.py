"""Names in any script are drawn: by a font of the machine, or by Latin letters."""

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from alexnet_jax.figures import fonts
from alexnet_jax.figures.picture import Picture, as_drawn


def matplotlib_is_older() -> bool:
    return tuple(map(int, matplotlib.__version__.split(".")[:2])) < (3, 10)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """A machine with only matplotlib's own fonts, where no note was printed yet."""
    own = [font for font in fontManager.ttflist if "mpl-data" in font.fname]
    assert any(font.name.startswith("Last Resort") for font in own) or matplotlib_is_older()
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "_said", [])
    fonts._font_with.cache_clear()
    yield
    fonts._font_with.cache_clear()


def texts(*names: str) -> tuple[Picture, list[str]]:
    picture = Picture(figsize=(3, 2))
    axis = picture.add_subplot()
    axis.set_yticks(range(len(names)), [as_drawn(name) for name in names])
    picture._repr_png_()
    assert picture._repr_png_() == picture._repr_png_()
    return picture, [text.get_text() for text in axis.get_yticklabels()]


def square() -> object:
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()


def font_of(letters: str, path) -> None:
    names = [f"g{ord(letter):x}" for letter in letters]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap(
        {ord(letter): name for letter, name in zip(letters, names, strict=True)}
    )
    builder.setupGlyf({name: square() for name in (".notdef", *names)})
    builder.setupHorizontalMetrics({name: (800, 0) for name in (".notdef", *names)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares Sans", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(path)


@pytest.mark.filterwarnings("error")  # matplotlib warns of a letter that it draws as a box
def test_letters_that_no_font_has_are_latin_ones_and_said_once(capfd):
    _, drawn = texts("丹顶鹤", "두루미", "タンチョウ", "grulla coronada", "Ärger", "журавль")
    assert drawn[0].isascii() and drawn[0].lower().startswith("dan")
    assert drawn[1].isascii() and drawn[2].isascii() and drawn[2].lower().startswith("tan")
    assert drawn[3:] == ["grulla coronada", "Ärger", "журавль"]
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "Noto Sans CJK" in said
    texts("丹")
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("error")
def test_a_font_of_the_machine_is_used_for_what_it_has(tmp_path, capfd):
    font_of("丹顶", tmp_path / "squares.ttf")
    fontManager.addfont(tmp_path / "squares.ttf")
    _, drawn = texts("丹顶", "a丹鹤")
    assert drawn[0] == "丹顶" and drawn[1].startswith("a丹") and drawn[1][2:].isascii()
    assert capfd.readouterr().err.count("note: ") == 1


def test_a_font_that_is_gone_is_none(tmp_path):
    font_of("丹", tmp_path / "squares.ttf")
    fontManager.addfont(tmp_path / "squares.ttf")
    (tmp_path / "squares.ttf").unlink()
    assert texts("丹")[1][0].isascii()


def test_right_to_left_letters_are_not_drawn_from_the_wrong_side(monkeypatch):
    monkeypatch.setattr(fonts.matplotlib, "__version__", "3.10.1")
    assert texts("كركي")[1][0].isascii()
    monkeypatch.setattr(fonts.matplotlib, "__version__", "3.11.0")
    assert texts("كركي")[1][0] == "كركي"
