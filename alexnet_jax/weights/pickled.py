"""Pickles read as data: containers, numbers, text and arrays. Nothing is called.

A pickle is a program that may call anything. The weights in circulation (.npy dictionaries, PyTorch
files) use a small part of that language; this file interprets that part, in which a "call" is one
of the few names below, and refuses the rest by name.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


class PickleError(ValueError):
    """A pickle with something else than containers, numbers, text and arrays; says what."""


@dataclasses.dataclass(frozen=True)
class Name:
    """Something that the pickle refers to, "module.attribute"; never imported."""

    path: str


class _Array:
    """An array whose content comes later (`BUILD`); one of objects becomes a list."""

    values: np.ndarray | list | None = None


Calls = dict[str, Callable[..., Any]]
# What may be "called", under the names that Python 2 and 3 and old and new NumPy give it.
NUMPY_CALLS: Calls = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.dtype": lambda text, *_: _Type(text),
    "collections.OrderedDict": lambda *pairs: of_pairs(*pairs),
    "_codecs.encode": lambda text, encoding: _encoded(text, encoding),
}
NUMBERS = ("f2", "f4", "f8", "i4", "i8")


@dataclasses.dataclass
class Opaque:
    """An object of a class that is not imported: its name, and the state that it was saved with."""

    name: str
    state: Any = None


Opaques = Callable[[str], bool]  # may a call of this name become an `Opaque`?
ANY_CLASS = ""  # asks `Opaques` about any class's objects: unlike functions, classes are not called


def read(
    data: bytes | BinaryIO,
    calls: Calls = NUMPY_CALLS,
    persistent: Callable[[Any], Any] | None = None,
    opaque: Opaques = lambda name: False,
) -> Any:
    """Returns what a pickle holds, without executing it.

    Args:
      data: the pickle, or a file that is read up to its end.
      calls: the replacement for each name that the pickle may call.
      persistent: maps a persistent id to its object, if the pickle has any.
      opaque: says which other calls become an `Opaque`; these are not executed either.

    Raises:
      PickleError: it is damaged, or holds something else.
    """
    try:
        return _Reader(calls, persistent, opaque).run(data)
    except RecursionError as error:
        raise PickleError("it is nested too deeply") from error
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, UnicodeError) as error:
        if isinstance(error, PickleError):
            raise
        reason = str(error)[:200]
        raise PickleError(f"it is damaged ({type(error).__name__}: {reason})") from error


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickleError("bytes in another encoding than latin-1")
    return text.encode("latin-1")


def of_pairs(pairs: Any = (), /) -> dict[Any, Any]:
    """Returns the dict of an OrderedDict's pairs, as Python 2 pickles them: [[key, value], ...]."""
    if not isinstance(pairs, list | tuple):
        raise PickleError(f"an OrderedDict of a {type(pairs).__name__}")
    return {_key(key): value for key, value in pairs}


class _Type:
    """A type of numbers, or of objects; its byte order comes later (`BUILD`)."""

    def __init__(self, text: Any) -> None:
        self.name, self.order = _text(text).lstrip("<>=|"), "="
        if self.name not in (*NUMBERS, "O", "O8"):
            raise PickleError(f"arrays of {self.name[:50]}")

    @property
    def dtype(self) -> np.dtype:
        """The type of numbers, in the byte order that the pickle says."""
        return np.dtype(self.order + self.name)


_UNFINISHED = object()
MOST_INSTRUCTIONS = 1_000_000  # of a pickle; weights beside an optimizer have some thousand


class _Reader:
    """The stack machine of pickle, as far as it makes data."""

    def __init__(
        self, calls: Calls, persistent: Callable[[Any], Any] | None, opaque: Opaques
    ) -> None:
        self._calls, self._persistent, self._opaque = calls, persistent, opaque
        self._stack: list[Any] = []
        self._marks: list[int] = []  # places in it
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes | BinaryIO) -> Any:
        """Returns what the pickle's instructions leave on the stack at STOP."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == MOST_INSTRUCTIONS:
                raise PickleError(f"more than {MOST_INSTRUCTIONS:,} instructions")
            if opcode.name == "STOP":
                return _finished(self._stack.pop())
            step = getattr(self, f"_{opcode.name.lower()}", None)
            if opcode.name in _PUSHED:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif step is None:
                raise PickleError(f"an instruction {opcode.name}")
            else:
                step(argument)
        raise PickleError("it is cut short")

    def _since_mark(self) -> list[Any]:
        at = self._marks.pop()
        values = self._stack[at:]
        del self._stack[at:]
        return values

    def _proto(self, _: Any) -> None:
        pass

    _frame = _proto

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _binstring(self, text: str) -> None:
        self._stack.append(text.encode("latin-1"))  # bytes of Python 2

    _short_binstring = _string = _binstring

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _take(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(values)

    def _tuple1(self, _: Any) -> None:
        self._take(1)

    def _tuple2(self, _: Any) -> None:
        self._take(2)

    def _tuple3(self, _: Any) -> None:
        self._take(3)

    def _list(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        values = self._since_mark()
        self._stack.append(dict(zip(map(_key, values[::2]), values[1::2], strict=True)))

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        self._stack[-1].append(value)

    def _appends(self, _: Any) -> None:
        values = self._since_mark()
        self._stack[-1].extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._stack[-1][_key(key)] = value

    def _setitems(self, _: Any) -> None:
        values = self._since_mark()
        self._stack[-1].update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def _put(self, at: int) -> None:
        self._memo[int(at)] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, at: int) -> None:
        self._stack.append(self._memo[int(at)])

    _binget = _long_binget = _get

    def _global(self, name: str) -> None:
        self._stack.append(Name(name.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        self._stack.append(Name(f"{module}.{attribute}"))

    def _reduce(self, _: Any) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if isinstance(name, Name) and name.path not in self._calls and self._opaque(name.path):
            self._stack.append(Opaque(name.path))
            return
        if not isinstance(name, Name) or name.path not in self._calls:
            what = name.path[:200] if isinstance(name, Name) else type(name).__name__
            raise PickleError(f"a call of {what}")
        self._stack.append(self._calls[name.path](*arguments))

    def _newobj(self, _: Any) -> None:
        """Pushes an object of a class, which is not imported; its state comes later (`BUILD`)."""
        _, name = self._stack.pop(), self._stack.pop()
        if not isinstance(name, Name) or not (self._opaque(name.path) or self._opaque(ANY_CLASS)):
            what = name.path[:200] if isinstance(name, Name) else type(name).__name__
            raise PickleError(f"an object of {what}")
        self._stack.append(Opaque(name.path))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif isinstance(target, _Type):
            target.order = _text(state[1])
        elif isinstance(target, _Array):
            _, shape, kind, by_columns, content = state
            if isinstance(content, list):
                target.values = content
                return
            values = np.frombuffer(content, kind.dtype)
            target.values = values.reshape(shape, order="F" if by_columns else "C")
        elif not isinstance(target, dict):  # an OrderedDict's attributes say nothing of its items
            raise PickleError(f"a state of {type(target).__name__}")

    def _binpersid(self, _: Any) -> None:
        if self._persistent is None:
            raise PickleError("a persistent id")
        self._stack.append(self._persistent(self._stack.pop()))


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _text(value: bytes | str) -> str:
    if not isinstance(value, bytes | str):
        raise PickleError(f"a {type(value).__name__} in the place of text")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _key(value: Any) -> Any:
    """Returns a dictionary's key, which must be text or a number. Hashing nested tuples, each of
    which holds the next one twice, would take for ever."""
    if not isinstance(value, str | bytes | int | float | None):
        raise PickleError(f"a dictionary with a {type(value).__name__} for a key")
    return value


def _finished(value: Any) -> Any:
    """Replaces what was built by arrays, and keys that are Python 2's bytes by text.

    It finishes shared objects only once; otherwise a few bytes could expand without end.
    """
    done: dict[int, Any] = {}

    def finish(value: Any) -> Any:
        if not isinstance(value, _Array | Opaque | dict | list | tuple):
            return value
        if id(value) not in done:
            done[id(value)] = _UNFINISHED
            done[id(value)] = contents(value)
        if done[id(value)] is _UNFINISHED:
            raise PickleError("something that holds itself")
        return done[id(value)]

    def contents(value: Any) -> Any:
        if isinstance(value, _Array):
            if value.values is None:
                raise PickleError("an array without content")
            return finish(value.values)
        if isinstance(value, Opaque):
            return Opaque(value.name, finish(value.state))
        if isinstance(value, dict):
            return {_text(k) if isinstance(k, bytes) else k: finish(v) for k, v in value.items()}
        return type(value)(finish(v) for v in value)

    return finish(value)
