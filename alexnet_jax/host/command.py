"""The first thing that a command does, before the imports that take seconds."""

import os
import pathlib
import sys

import alexnet_jax
from alexnet_jax.errors import in_notebook
from alexnet_jax.host import signals

_begun: list[str] = []


def begin(name: str) -> None:
    """Prepares the process of a command; does nothing if another module imports the command's.

    From here on Ctrl-C prints one line, and a folder of the current directory that is named like a
    package (torch, tensorflow) is not imported as one. In a notebook (`%run -m`), signals, path and
    plotting backend stay as its kernel has them; only the last command's flags are removed.

    Args:
      name: the module's `__name__`.
    """
    if name != "__main__":
        return
    if in_notebook():
        return _forget_flags()
    if _begun:
        return
    _begun.append(name)
    signals.end_in_one_line(name)
    # A notebook sets it for the commands that it starts, but a command shows nothing on a display.
    os.environ.pop("MPLBACKEND", None)
    here = os.getcwd()
    if sys.path and os.path.abspath(sys.path[0]) == here:  # as -m does
        del sys.path[0]
        if pathlib.Path(alexnet_jax.__file__).resolve().parents[1] == pathlib.Path(here).resolve():
            sys.path.append(here)  # a checkout that is not installed: workers import it again


def _forget_flags() -> None:
    """Removes the flags that earlier commands declared in this process; other flags stay."""
    from absl import flags

    known, package = flags.FLAGS, pathlib.Path(alexnet_jax.__file__).parent
    of_commands = {name for name in known if name == "config" or name.startswith("config.")}
    for module, module_flags in known.flags_by_module_dict().items():
        if module.startswith(alexnet_jax.__name__) or package in pathlib.Path(module).parents:
            of_commands |= {flag.name for flag in module_flags}
    for name in of_commands:
        delattr(known, name)
