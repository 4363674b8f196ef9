"""A matplotlib figure that a notebook shows by itself, and that is saved whole or not at all."""

import io
import pathlib
from typing import Any

import matplotlib
from matplotlib.figure import Figure  # without pyplot: no global state, no display

from alexnet_jax.figures import colours, fonts
from alexnet_jax.host import files


def as_drawn(name: str) -> str:
    """Returns a name that matplotlib can draw: unprintable characters become escapes, letters that
    no font has become Latin ones, and dollars stay text instead of starting mathematics.

    >>> as_drawn("cash_$5") == "cash_" + chr(92) + "$5"
    True
    """
    escaped = (
        name.replace("$", "\\$")
        .encode("utf-8", "surrogateescape")
        .decode("utf-8", "backslashreplace")
    )
    printable = "".join(
        letter
        if letter.isprintable() or letter in "\n "
        else letter.encode("unicode_escape").decode()
        for letter in escaped
    )
    return fonts.with_letters_that_a_font_has(printable)


def shortened(names: list[str], letters: int) -> list[str]:
    """Shortens names to at most `letters` letters; different names that then match get a number.

    >>> [name.encode("ascii", "replace") for name in shortened(["a long name", "short"], 7)]
    [b'a l?ame', b'short']
    """
    names_shown = []
    for name in names:
        if len(name) > letters:
            shown = letters - 1
            name = f"{name[: shown - shown // 2]}\N{HORIZONTAL ELLIPSIS}{name[-(shown // 2) :]}"
        names_shown.append(name)
    again = {name for name in names_shown if names_shown.count(name) > 1}
    return [
        f"{short} ({index})"
        if short in again and names.count(name) < names_shown.count(short)
        else short
        for index, (short, name) in enumerate(zip(names_shown, names, strict=True))
    ]


class Picture(Figure):
    """A figure, shown as a PNG where a cell ends with it; its series have the colours of `colours`.

    >>> Picture(figsize=(1, 1))._repr_png_()[:4]
    b'\\x89PNG'
    """

    def add_subplot(self, *place: Any, **options: Any) -> Any:
        """Adds axes, as of matplotlib."""
        axes = super().add_subplot(*place, **options)
        axes.set_prop_cycle(color=colours.SERIES)
        return axes

    def savefig(self, fname: Any, **options: Any) -> None:
        """Saves the figure, with fonts that have the letters of its texts."""
        fonts.fit(self)
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # texts stay texts
            super().savefig(fname, **options)

    def png(self) -> bytes:
        """Returns the picture's file."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()

    def save(self, path: pathlib.Path) -> None:
        """Writes the picture in the format of the path's suffix; creates missing folders."""
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        self.savefig(buffer, format=path.suffix.removeprefix(".") or "png")
        files.replace_bytes(path, buffer.getvalue())
