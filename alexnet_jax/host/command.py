"""The first thing that a command does, before the imports that take seconds."""

import os
import pathlib
import sys

import alexnet_jax
from alexnet_jax.host import signals

_begun: list[str] = []


def begin(name: str) -> None:
    """Prepares the process of a command; does nothing where its module is imported by another.

    Ctrl-C is one line from here on. And a folder of the current directory that is called like a
    package (torch, tensorflow) is no package.

    Args:
      name: the module's `__name__`.
    """
    if name != "__main__" or _begun:
        return
    _begun.append(name)
    signals.end_in_one_line(name)
    # A notebook's, for the commands that it starts: nothing is shown on a display here.
    os.environ.pop("MPLBACKEND", None)
    here = os.getcwd()
    if sys.path and os.path.abspath(sys.path[0]) == here:  # as -m does
        del sys.path[0]
        if pathlib.Path(alexnet_jax.__file__).resolve().parents[1] == pathlib.Path(here).resolve():
            sys.path.append(here)  # a checkout that is not installed: workers import it again
