"""A matplotlib figure that a notebook shows by itself, and that is saved whole or not at all."""

import io
import pathlib

from matplotlib.figure import Figure  # without pyplot: no global state, no display

from alexnet_jax.host import files


class Picture(Figure):
    """A figure, shown as a PNG where a cell ends with it.

    >>> Picture(figsize=(1, 1))._repr_png_()[:4]
    b'\\x89PNG'
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def save(self, path: pathlib.Path) -> None:
        """Writes the picture, and the folders that lead to it; the ending says the format."""
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        self.savefig(buffer, format=path.suffix.removeprefix(".") or "png")
        files.replace_bytes(path, buffer.getvalue())
