"""Shared by all commands: an error that a person can act on is one line."""

import contextlib
import io
import logging
import pathlib
import sys
from collections.abc import Iterator

from absl import logging as absl_logging

from alexnet_jax.errors import UserError
from alexnet_jax.host import files


def print_any_name() -> None:
    """Lets names of files that are no text in the terminal's encoding be printed, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")


def line_of(error: Exception) -> str:
    """Returns what is said of an error; of a full disk also how full it is."""
    place = getattr(error, "filename", None)
    if isinstance(error, OSError) and files.is_full(error) and place:
        return f"{place}: {files.room(pathlib.Path(place))}"
    return str(error)


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Exits with one line and a code that is not 0 where something is wrong."""
    print_any_name()
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax

    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        sys.exit(f"error: {line_of(error)}")
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0][:200]
        sys.exit(f"error: another process ended, see what it said ({reason})")
