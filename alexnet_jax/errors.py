"""Errors that a person can act on, and the nearest right name for a misspelt one."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class OneLine(BaseException):
    """An exception that a notebook shows as one line: IPython asks it how it is to be shown."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class UserError(OneLine, Exception):
    """What a person can act on; its message says which file, field or step, and what to do.

    A command prints it and ends with a code that is not 0 (`cli.errors_as_one_line`).
    """


class Interrupted(OneLine, KeyboardInterrupt):
    """A signal ended the work; what was done is saved, and the same call goes on.

    Attributes:
      code: that a command ends with.
    """

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Makes of a KeyboardInterrupt in work that leaves nothing half done one line.

    Args:
      what: is done; named in the line.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(f"{what} was interrupted; call it again") from None


def unknown(name: object, known: Iterable[object]) -> str:
    """Says that `name` is not among `known`, and which of them is nearest."""
    names = [str(k) for k in known]
    return f"{name} is not known; did you mean {nearest(name, names)}? (known: {', '.join(names)})"


def nearest(name: object, known: Iterable[object]) -> str:
    """Returns the known name that is most like `name`."""
    return difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0)[0]
