"""Shared by all commands: an error that a person can act on is one line."""

import contextlib
import io
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from absl import app, flags
from absl import logging as absl_logging

from alexnet_jax.errors import UserError, in_notebook, printable
from alexnet_jax.host import files
from alexnet_jax.host.command import begin

flags.disclaim_key_flags()  # a command's --help lists what is declared here for it


def run(command: Callable[[list[str]], None], resolve: Callable[..., Any] = list) -> None:
    """Parses the flags and runs a command; reports wrong flags in one line.

    Args:
      command: takes the arguments that are not flags, the command's own name first.
      resolve: rewrites the whole command line before it is parsed.
    """
    if pathlib.Path(sys.argv[0]).name.startswith("alexnet-"):
        _as_with_m(command.__module__)
    with _one_line_of_a_cell():
        try:
            sys.argv = resolve(sys.argv)  # config_flags reads it too
        except UserError as error:
            sys.exit(f"error: {error}")
        app.run(command, flags_parser=_parse)


class _Ended(SystemExit):
    """The end of a command in a notebook cell: shown as one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self.code)]


@contextlib.contextmanager
def _one_line_of_a_cell() -> Iterator[None]:
    """Lets a command end with one line in a notebook too."""
    if not in_notebook():
        yield
        return
    try:
        yield
    except SystemExit as ended:
        if ended.code not in (None, 0) and not any(a.startswith("--help") for a in sys.argv):
            reason = ended.code if isinstance(ended.code, str) else f"ended with {ended.code}"
            raise _Ended(reason) from None


def _as_with_m(module: str) -> None:
    """Makes a console script behave, and print its help, like `python -m` of its module."""
    begin("__main__")
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    for flag in flags.FLAGS.flags_by_module_dict().get(module, ()):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        message = str(error)
        if "Traceback (most recent call last)" in message:  # of a --config file, in the flag's
            print(message, file=sys.stderr)
            message = f"--config: the file ended with {message.strip().splitlines()[-1]}"
        sys.exit(f"error: {' '.join(message.split())}")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except Exception as error:  # from a --config file: its author needs to see where
        traceback.print_exc()
        sys.exit(f"error: --config: the file ended with {type(error).__name__}: {error}")


def say(text: object, file: TextIO | None = None, flush: bool = False) -> None:
    """Prints a line; escapes unprintable characters, which names may hold."""
    print(printable(text), file=file, flush=flush)


def print_any_name() -> None:
    """Makes print escape file names that the terminal's encoding cannot represent."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")


def take_no_arguments(arguments: list[str]) -> None:
    """Ends a command that was given more than flags.

    Args:
      arguments: the command's own name, and what is no flag.
    """
    if len(arguments) > 1:
        sys.exit(f"error: unexpected argument {arguments[1]}; this command takes only --flags")


def define_network_flags() -> None:
    """Declares the flags of a command that reads a run's network."""
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step")
    flags.DEFINE_enum(
        "kernels", "", ["", "auto", "reference"], "kernels to compute with; empty: the run's"
    )


def line_of(error: Exception) -> str:
    """Returns the message of an error; for a full disk, with the space that is left."""
    place = getattr(error, "filename", None)
    if isinstance(error, OSError) and files.is_full(error) and place:
        return f"{place}: {files.room(pathlib.Path(place))}"
    return str(error)


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Exits with one line and a code that is not 0 on an error that the user can mend."""
    print_any_name()
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax

    from alexnet_jax.host import mirror

    try:
        yield
        if mirror.any_opened() and jax.process_index() == 0:
            mirror.write_back()
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        sys.exit(f"error: {line_of(error)}")
    except Exception as error:
        if without := _without_devices():
            sys.exit(f"error: {without}")
        if not isinstance(error, jax.errors.JaxRuntimeError) or jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0][:200]
        sys.exit(f"error: another process ended ({reason}); read its output")


def _without_devices() -> str:
    """Returns why JAX cannot use the devices it was asked to use, or ""."""
    import jax

    try:
        jax.devices()
    except Exception as error:  # whatever a plugin raises, AssertionError too
        why = " ".join(str(error).split())[:200] or "it is not installed"
        platforms = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX_PLATFORMS={platforms}: JAX cannot use these devices ({why}); for an NVIDIA GPU "
            "pip install 'jax[cuda13]', for a TPU 'jax[tpu]', or unset JAX_PLATFORMS"
        )
    return ""
