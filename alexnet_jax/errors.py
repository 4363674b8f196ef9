"""Errors that a person can act on, and the nearest right name for a misspelt one."""

import builtins
import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

MOST_LETTERS = 1500  # of an error


def printable(text: object) -> str:
    """Returns a text as one line, unprintable characters escaped: a name may hold anything.

    >>> printable("red" + chr(27) + "[31m" + chr(10)) == "red" + chr(92) + "x1b[31m" + chr(92) + "n"
    True
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


class OneLine(BaseException):
    """An exception that a notebook shows as one line: IPython asks it how it is to be shown."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class UserError(OneLine, Exception):
    """An error that a person can act on; it names the file, field or step, and says what to do.

    A command prints it and exits with a non-zero code (`cli.errors_as_one_line`).
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > MOST_LETTERS:  # what a damaged file is called, perhaps
            text = f"{text[: MOST_LETTERS // 2]} ... {text[-MOST_LETTERS // 2 :]}"
        return printable(text)


class Interrupted(OneLine):
    """A signal ended the work; what was done is saved, and the same call continues it.

    In a script this is a SystemExit with `code`. A notebook answers a SystemExit with advice on how
    to quit, so in a cell this is a KeyboardInterrupt, shown as one line.

    Attributes:
      code: that a command ends with.
    """

    code: int

    def __new__(cls, message: str, code: int = 130) -> "Interrupted":
        """Makes the subclass for a notebook or for a script."""
        kind: Any = cls
        if cls is Interrupted:
            kind = _InterruptedCell if in_notebook() else _InterruptedScript
        return super().__new__(kind, message)

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


class _InterruptedScript(Interrupted, SystemExit):
    def __str__(self) -> str:
        return str(self.args[0])


class _InterruptedCell(Interrupted, KeyboardInterrupt):
    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


def in_notebook() -> bool:
    """Does IPython run this, as in a notebook?"""
    return hasattr(builtins, "__IPYTHON__")


@contextlib.contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Shows a KeyboardInterrupt in a cell as one line, for work that leaves nothing half done.

    Args:
      what: the work, as the line names it.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        if not in_notebook():
            raise
        raise Interrupted(f"{what} was interrupted; call it again") from None


def unknown(name: object, known: Iterable[object]) -> str:
    """Says that `name` is not among `known`, and which of them is nearest."""
    names = [str(k) for k in known]
    return f"{name} is not known; did you mean {nearest(name, names)}? (known: {', '.join(names)})"


def nearest(name: object, known: Iterable[object]) -> str:
    """Returns the known name that is most like `name`."""
    names = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0)
    return names[close[0]] if close else "nothing, for there is none"
