"""Copies of buckets' folders on this machine, which every library can work in.

`paths.local` returns the copy of a path gs://BUCKET/PATH. A run writes back what it makes there at
each save, other commands at their end. `wholeness` defines the order of the writes, so that every
checkpoint in the bucket is whole after a kill at any moment.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import socket
import sys
import threading
import uuid
from collections.abc import Iterator

from alexnet_jax.errors import printable
from alexnet_jax.host import bucket, files, wholeness
from alexnet_jax.host.bucket import Bucket, BucketError, Lease
from alexnet_jax.host.progress import Progress

TOGETHER = 8  # objects on their way at once
AT_ONCE = 8 * 2**20  # bytes; a smaller file is read whole before it is sent
MARK = ".working"  # a file in a copy: who works there, until the bucket has all of it
# Files that commands make, some with others beside them; a folder may have a dot in its name too.
MADE = (".csv", ".html", ".json", ".jsonl", ".npz", ".onnx", ".pdf", ".png", ".safetensors", ".svg")

_opened: dict[str, "Mirror"] = {}


def copy_of(url: str) -> pathlib.Path:
    """Returns the path of this machine's copy of a folder or file; the first call updates the copy.

    Raises:
      BucketError: it cannot be read.
    """
    url = bucket.SCHEME + url.removeprefix(bucket.SCHEME).rstrip("/")
    if url not in _opened:
        mirror = Mirror(url)
        mirror.pull_unless_held()
        if mirror.is_empty and url.endswith(MADE):  # a file to be made, and others beside it
            mirror = Mirror(url.rpartition("/")[0])
            mirror.leave()
        _opened[url] = mirror
    opened = _opened[url]
    return opened.folder if opened.url == url else opened.folder / url.rpartition("/")[2]


def of(folder: pathlib.Path) -> "Mirror | None":
    """Returns the mirror whose copy a folder is; None for a folder of this machine's own."""
    mirrors = (m for url, m in _opened.items() if m.url == url and m.folder == folder.absolute())
    return next(mirrors, None)


def any_opened() -> bool:
    """Was a copy asked for?"""
    return bool(_opened)


def write_back() -> None:
    """Uploads what a command made in its copies, except a run's checkpoints.

    Raises:
      BucketError: the upload failed; the files are still in the copy.
    """
    for mirror in _opened.values():
        mirror.push(holds=False)


def publish(folder: pathlib.Path) -> None:
    """Uploads all of a folder that this process made, if it is the copy of a bucket's folder.

    Raises:
      BucketError: the upload failed; the files are still in the copy.
    """
    if mirror := of(folder):
        mirror.push()


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator["Mirror | None"]:
    """Holds the folder of a bucket that is copied to `folder`, and writes it back at the end.

    Raises:
      HeldError: another process works there.
      BucketError: it cannot be read or written.
    """
    mirror = of(folder)
    if mirror is None:
        yield None
        return
    with files.only_process(mirror.holder), mirror.leased():
        try:
            yield mirror
        except BaseException:
            try:
                mirror.push()
            except BucketError as error:  # what went wrong first is what is told
                print(printable(f"warning: {error}"), file=sys.stderr, flush=True)
            raise
        mirror.push()
        mirror.settle()


@contextlib.contextmanager
def _together() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Yields a thread pool; after a failure or Ctrl-C it finishes only what it has begun."""
    pool = concurrent.futures.ThreadPoolExecutor(TOGETHER)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _home() -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "alexnet_jax" / "buckets"


Signature = tuple[int, int, int]


class Mirror:
    """A folder of a bucket and its copy.

    Attributes:
      url: the folder of the bucket.
      folder: the copy; a file where the URL is one object.
      holder: a folder that is held while a process of this machine writes the copy.
      sent: bytes that were written back.
    """

    def __init__(self, url: str) -> None:
        """Names both; reads nothing yet.

        Raises:
          BucketError: nobody is logged in.
        """
        self.url, self._bucket = url, Bucket(url)
        self.folder = (_home() / url.removeprefix(bucket.SCHEME)).absolute()
        self.holder = _home().parent / "held" / self.folder.relative_to(_home())
        self._pulling = _home().parent / "pulling" / self.folder.relative_to(_home())
        self.sent = 0
        self._there: set[str] = set()  # names of objects
        self._known: dict[str, Signature] = {}  # of files that are as the objects are
        self._sums: dict[str, tuple[Signature, str]] = {}  # of files' bytes
        self._behind = False  # did the last write to the bucket fail?
        self._turn = threading.Lock()
        self._lease: Lease | None = None

    @contextlib.contextmanager
    def leased(self) -> Iterator[None]:
        """Holds the bucket's folder, with a copy that is up to date.

        Raises:
          HeldError: another process does.
          BucketError: the bucket cannot be read.
        """
        ahead = self._is_ahead()
        whose = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4()}"
        if ahead:  # it still is, whichever of the two leases a kill leaves
            text = self._mark.read_bytes() + b"\n" + Lease.text(whose)
            files.replace_bytes(self._mark, text)
        self._lease = Lease(self._bucket, whose)
        self._behind = ahead
        try:
            with files.in_turn(self._pulling, f"{self.url}: another process copies it"):
                self._look() if ahead else self.pull()
            self.folder.mkdir(parents=True, exist_ok=True)
            files.replace_bytes(self._mark, Lease.text(whose))
            yield
        finally:
            lease, self._lease = self._lease, None
            lease.release(gone=not self._behind)

    @property
    def _mark(self) -> pathlib.Path:
        return self.folder / MARK

    def _is_ahead(self) -> bool:
        """Does the copy hold changes that were never uploaded, with no other holder since?"""
        if not self._mark.is_file():
            return False
        return self._bucket.read(bucket.LEASE) in self._mark.read_bytes().split(b"\n")

    @property
    def is_empty(self) -> bool:
        """Has the bucket nothing there?"""
        return not self._there

    def leave(self) -> None:
        """Accepts the copy as it is: only later changes are uploaded."""
        self._known = dict(self._files())

    def settle(self) -> None:
        """Remembers that the bucket has all that the copy has."""
        self._mark.unlink(missing_ok=True)

    def pull_unless_held(self) -> None:
        """Updates the copy, unless a process of this machine works in it, or the copy holds changes
        that were never uploaded."""
        with files.in_turn(self._pulling, f"{self.url}: another process copies it"):
            if files.is_held(self.holder) or self._is_ahead():
                self.leave()
            else:
                self.pull()

    def pull(self) -> None:
        """Makes the copy equal to the bucket: fetches what differs, removes what the bucket lacks.

        It skips checkpoints that a kill left half written or half removed.

        Raises:
          BucketError: it cannot be read.
        """
        with self._turn:
            wanted = self._whole()
            here = dict(self._files())
            for name in here.keys() - wanted.keys():
                if not wholeness.is_folder(name):
                    self._path(name).unlink()
            self._fetch([n for n, stored in wanted.items() if not self._is_same(n, here, stored)])
            if "" not in wanted:
                self._remove_empty_folders()
                for name in filter(wholeness.is_folder, wanted):
                    self._path(name).mkdir(parents=True, exist_ok=True)
            self.folder.parent.mkdir(parents=True, exist_ok=True)  # of a file that is made there
            self._known = dict(self._files())

    def _look(self) -> None:
        """Finds out what the bucket has, and leaves the copy as it is."""
        with self._turn:
            wanted, here = self._whole(), dict(self._files())
            same = (
                n for n, stored in wanted.items() if n in here and self._is_same(n, here, stored)
            )
            self._known = {name: here[name] for name in same}

    def _whole(self) -> dict[str, bucket.Stored]:
        """Lists the objects but those of checkpoints that are half written or removed."""
        objects = self._bucket.list()
        self._there = objects.keys() - {bucket.LEASE}
        return {name: objects[name] for name in self._there if wholeness.is_whole(name, objects)}

    def _is_same(self, name: str, here: dict[str, Signature], stored: bucket.Stored) -> bool:
        """Does a file have the bytes of its object?"""
        if wholeness.is_folder(name):
            return True  # `pull` creates folders last
        signature = here.get(name)
        if signature is None or signature[0] != stored.size:
            return False
        if name not in self._sums or self._sums[name][0] != signature:
            self._sums[name] = (signature, bucket.crc32c(self._path(name)))
        return self._sums[name][1] == stored.crc32c

    def _fetch(self, names: list[str]) -> None:
        if not names:
            return
        with Progress(f"copy {self.url}", 0, len(names), "file") as bar, _together() as pool:
            started = [pool.submit(self._bucket.download, n, self._path(n)) for n in names]
            for one in concurrent.futures.as_completed(started):
                one.result()
                bar.advance()
            bar.say(f"{self.url}: {len(names):,} files are copied to {self.folder}")

    def push(self, holds: bool = True) -> None:
        """Uploads what changed since the last time.

        Args:
          holds: does this process hold the folder? If so, this also uploads checkpoints, and
            deletes what was removed.

        Raises:
          HeldError: another process has taken the folder; nothing more was written.
          BucketError: it cannot be written; it is in the copy.
        """
        with self._turn:
            here = dict(self._files())
            changed = {
                name for name, signature in here.items() if self._known.get(name) != signature
            }
            if not holds:
                changed = {name for name in changed if not wholeness.is_of_checkpoints(name)}
            gone = self._there - here.keys() if holds else set[str]()
            if not changed and not gone:
                self._behind = False
                return
            self._behind = True
            signs = wholeness.signs_of(changed | gone)
            for sign in sorted(signs):
                self._still_ours()
                self._bucket.upload(sign, b"")
                self._there.add(sign)
            for names in wholeness.by_rank(changed):
                if names:
                    self._still_ours()
                    self._send(names, here)
            for names in reversed(wholeness.by_rank((gone - signs) & self._there)):
                if names:
                    self._still_ours()
                self._remove(names)
            self._remove(sorted(signs))
            self._behind = False

    def _still_ours(self) -> None:
        """Confirms the lease before each write that would make something look whole to others."""
        if self._lease:
            self._lease.renew()

    def _remove(self, names: list[str]) -> None:
        for name in names:
            self._bucket.delete(name)
            self._there.discard(name)
            self._known.pop(name, None)

    def _send(self, names: list[str], here: dict[str, Signature]) -> None:
        with _together() as pool:
            started = {pool.submit(self._upload, name): name for name in names}
            for one in concurrent.futures.as_completed(started):
                if one.result():
                    name = started[one]
                    self._there.add(name)
                    self._known[name] = here[name]
                    self.sent += here[name][0]

    def _upload(self, name: str) -> bool:
        """Writes an object; False where its file was removed meanwhile."""
        path = self._path(name)
        try:
            if wholeness.is_folder(name):
                self._bucket.upload(name, b"")
            elif path.stat().st_size < AT_ONCE:  # one that grows meanwhile is as it is now
                self._bucket.upload(name, path.read_bytes())
            else:
                self._bucket.upload(name, path)
        except FileNotFoundError:
            return False
        return True

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / name if name else self.folder

    def _files(self) -> Iterator[tuple[str, Signature]]:
        """Yields the copy's finished files, each with a signature that shows whether it changed.

        It also yields the top-level folders, which exist even while empty: a run's folder of
        checkpoints before the first one, say.
        """
        if self.folder.is_file():
            yield "", _signature(self.folder)
        for parent, folders, names in os.walk(self.folder):
            folders[:] = [f for f in folders if not wholeness.is_unfinished(f)]
            if pathlib.Path(parent) == self.folder:
                yield from ((f"{folder}/", (0, 0, 0)) for folder in folders)
            for name in names:
                if name in ("lock", MARK) or wholeness.is_unfinished(name):
                    continue
                path = pathlib.Path(parent, name)
                with contextlib.suppress(FileNotFoundError):
                    yield path.relative_to(self.folder).as_posix(), _signature(path)

    def _remove_empty_folders(self) -> None:
        for parent, _, _ in os.walk(self.folder, topdown=False):
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(parent)


def _signature(path: pathlib.Path) -> Signature:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
