"""Many reads by one Linux system call (io_submit, man 2), each into several pieces of memory.

The call releases the GIL. With a call for each read, the GIL passes between threads a thousand
times a batch: sixteen threads read more slowly than four (experiments/speed, s7). The call copies
what is in the page cache, and waits for what must come from the disk.
"""

import ctypes
import errno
import functools
import os
import platform
import sys
import threading
import weakref

import numpy as np

# System call numbers of io_setup, io_destroy, io_submit and io_getevents (arch/x86/entry/syscalls,
# include/uapi/asm-generic/unistd.h), and their structures (include/uapi/linux/aio_abi.h).
CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
READ_VECTOR = 7
REQUEST = np.dtype(
    [
        ("row", "<u8"),
        ("key", "<u4"),
        ("flags", "<u4"),
        ("operation", "<u2"),
        ("priority", "<i2"),
        ("descriptor", "<u4"),
        ("pieces", "<u8"),
        ("count", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("more_flags", "<u4"),
        ("event_descriptor", "<u4"),
    ]
)
EVENT = np.dtype([("row", "<u8"), ("request", "<u8"), ("result", "<i8"), ("more", "<i8")])
PIECE = np.dtype([("address", "<u8"), ("size", "<u8")])  # struct iovec
MOST = 128  # reads of one call
MOST_PIECES = 1000  # of one read: Linux takes 1024


class _Queue:
    """The queue that one thread submits its reads to."""

    def __init__(self) -> None:
        self._number = ctypes.c_ulong()
        _call(0, ctypes.c_uint(MOST), ctypes.byref(self._number))
        self.process = os.getpid()  # a fork's child has none
        destroy = ctypes.c_long(CALLS[platform.machine()][1])
        self.end = weakref.finalize(self, _libc().syscall, destroy, self._number)

    def read(self, requests: np.ndarray) -> np.ndarray:
        """Reads, and waits for all; returns each one's bytes, or an error's number below zero."""
        count = len(requests)
        places = requests.ctypes.data + np.arange(count, dtype=np.uint64) * REQUEST.itemsize
        results, at, handed_in = np.zeros(count, np.int64), 0, 0
        while at < count:
            first = _pointer(places.ctypes.data + at * places.itemsize)
            try:
                taken = _call(2, self._number, ctypes.c_long(count - at), first)
            except OSError as error:  # the first of the rest failed
                results[at], at = -(error.errno or errno.EIO), at + 1
            else:
                at, handed_in = at + taken, handed_in + taken
        events = np.zeros(handed_in, EVENT)
        # Reads from the page cache are done already: asking for them keeps the GIL.
        done = self._finished(events, 0, _locked())
        while done < handed_in:  # the others still write to the caller's memory
            done += self._finished(events[done:], len(events) - done, _libc())
        results[events["row"].astype(np.int64)] = events["result"]
        return results

    def _finished(self, events: np.ndarray, least: int, libc: ctypes.CDLL) -> int:
        most = ctypes.c_long(len(events))
        try:
            return _call(
                3,
                self._number,
                ctypes.c_long(least),
                most,
                _pointer(events.ctypes.data),
                None,
                libc=libc,
            )
        except InterruptedError:
            return 0


_here = threading.local()


def read(descriptors: np.ndarray, offsets: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Reads from files into memory.

    Args:
      descriptors: (n,) of files, n at most MOST.
      offsets: (n,) int64, where in its file each read begins.
      pieces: (n, k) PIECE, the memory that each read fills, one piece after the other; some may be
        empty.

    Returns:
      (n,) int64: bytes read, fewer at the end of a file; or a negative error number.

    Raises:
      OSError: the system has no such call (ask `is_there` first), or too many are in use.
    """
    queue = getattr(_here, "queue", None)
    if queue is None or queue.process != os.getpid():
        queue = _here.queue = _Queue()
    requests = np.zeros(len(pieces), REQUEST)
    requests["row"] = np.arange(len(pieces))
    requests["operation"] = READ_VECTOR
    requests["descriptor"], requests["offset"] = descriptors, offsets
    requests["pieces"] = pieces.ctypes.data + np.arange(len(pieces)) * pieces.strides[0]
    requests["count"] = pieces.shape[1]
    try:
        return queue.read(requests)
    except BaseException:
        queue.end()  # waits for the reads under way: the caller reuses their memory
        _here.queue = None
        raise


@functools.cache
def is_there() -> bool:
    """Has the system such a call, and may this process use it?"""
    if sys.platform != "linux" or platform.machine() not in CALLS:
        return False
    try:
        _Queue()
    except OSError:
        return False
    return True


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _locked() -> ctypes.CDLL:
    """The same, but it keeps the GIL: for calls that do not wait."""
    return ctypes.PyDLL(None, use_errno=True)


def _call(which: int, *arguments: object, libc: ctypes.CDLL | None = None) -> int:
    result = (libc or _libc()).syscall(ctypes.c_long(CALLS[platform.machine()][which]), *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _pointer(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(address)
