"""The first thing that a command does, before the imports that take seconds."""

import os
import pathlib
import sys

import alexnet_jax
from alexnet_jax.errors import in_notebook
from alexnet_jax.host import signals

_begun: list[str] = []


def begin(name: str) -> None:
    """Prepares the process of a command; does nothing where its module is imported by another.

    Ctrl-C is one line from here on. And a folder of the current directory that is called like a
    package (torch, tensorflow) is no package. In a notebook (`%run -m`) signals, path and pictures
    stay its kernel's; the flags of the command before are forgotten.

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
    # A notebook's, for the commands that it starts: nothing is shown on a display here.
    os.environ.pop("MPLBACKEND", None)
    here = os.getcwd()
    if sys.path and os.path.abspath(sys.path[0]) == here:  # as -m does
        del sys.path[0]
        if pathlib.Path(alexnet_jax.__file__).resolve().parents[1] == pathlib.Path(here).resolve():
            sys.path.append(here)  # a checkout that is not installed: workers import it again


def _forget_flags() -> None:
    """Removes what commands before declared in this process; other flags stay."""
    from absl import flags

    known, package = flags.FLAGS, pathlib.Path(alexnet_jax.__file__).parent
    of_commands = {name for name in known if name == "config" or name.startswith("config.")}
    for module, module_flags in known.flags_by_module_dict().items():
        if module.startswith(alexnet_jax.__name__) or package in pathlib.Path(module).parents:
            of_commands |= {flag.name for flag in module_flags}
    for name in of_commands:
        delattr(known, name)
