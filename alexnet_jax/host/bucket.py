"""A folder of a bucket of Google Cloud Storage: its objects, and the lease on it."""

import contextlib
import dataclasses
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from alexnet_jax.errors import UserError, printable
from alexnet_jax.host import files

SCHEME = "gs://"
LEASE = "lease"  # the object that says who works in a folder
EXPIRES_AFTER = 40.0  # seconds without renewal; a start after a kill waits this long
GIVE_UP_AFTER = 120.0  # seconds in which a request is tried again


class BucketError(UserError, RuntimeError):
    """A bucket that cannot be read or written; the message names the object."""


class HeldError(BucketError):
    """Another process works in the folder."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """An object.

    Attributes:
      size: in bytes.
      crc32c: of its bytes, in base64.
    """

    size: int
    crc32c: str


def crc32c(path: pathlib.Path) -> str:
    """Returns the checksum of a file as a bucket tells it."""
    import base64

    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            checksum.update(piece)
    return base64.b64encode(checksum.digest()).decode()


class Bucket:
    """The objects under a URL. Its methods may be called from any thread."""

    def __init__(self, url: str) -> None:
        """Opens a folder, or what is one file.

        Args:
          url: gs://BUCKET/PATH, without a slash at its end.

        Raises:
          BucketError: the extra is not installed, or nobody is logged in.
        """
        self.url = url
        name, slash, self._prefix = self.url.removeprefix(SCHEME).partition("/")
        parts = [name, *(self._prefix.split("/") if slash else [])]
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise BucketError(f"{url!r}: must be gs://BUCKET/PATH, without empty parts, . and ..")
        try:
            from google.cloud import storage
            from google.cloud.storage.retry import DEFAULT_RETRY
        except ModuleNotFoundError as error:
            raise BucketError(
                f"{url}: needs google-cloud-storage; pip install 'alexnet-jax[gcs]'"
            ) from error
        self._retry = DEFAULT_RETRY.with_timeout(GIVE_UP_AFTER)
        with self._failing():
            self._client = storage.Client(project=None)  # objects need none
            try:
                self._bucket = self._client.bucket(name)
            except ValueError as error:
                raise BucketError(f"{url}: {name} cannot be a bucket's name") from error

    @contextlib.contextmanager
    def _failing(self, name: str = "") -> Iterator[None]:
        """Makes one line of what the client raises when it gives up.

        Raises:
          BucketError: names the object.
        """
        import requests
        from google.api_core.exceptions import GoogleAPIError, NotFound
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.cloud.storage import exceptions

        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except NotFound as error:
            raise BucketError(f"{where}: is not there") from error
        except DefaultCredentialsError as error:
            raise BucketError(
                f"{where}: nobody is logged in; run gcloud auth application-default login, or set "
                "GOOGLE_APPLICATION_CREDENTIALS"
            ) from error
        except (
            GoogleAPIError,
            GoogleAuthError,
            requests.RequestException,
            exceptions.InvalidResponse,
            exceptions.DataCorruption,
        ) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise BucketError(f"{where}: {reason}; is the network there? Try again") from error

    def _blob(self, name: str) -> Any:
        return self._bucket.blob("/".join(part for part in (self._prefix, name) if part))

    def list(self) -> dict[str, Stored]:
        """Returns the objects by their names within the folder.

        "" is the URL itself, and a name that ends with a slash stands for a folder.

        Raises:
          BucketError: the bucket cannot be listed, or a name leads out of the folder.
        """
        objects = {}
        with self._failing():
            blobs = self._client.list_blobs(self._bucket, prefix=self._prefix, retry=self._retry)
            for blob in blobs:
                rest = blob.name.removeprefix(self._prefix)
                if self._prefix and rest and not rest.startswith("/"):
                    continue  # of gs://b/run1, where gs://b/run is asked for
                name = rest.removeprefix("/")
                if rest == "/":
                    continue  # the folder itself
                parts = name.removesuffix("/").split("/") if name else []
                if any(part in ("", ".", "..") for part in parts):
                    raise BucketError(f"{self.url}: {blob.name!r} cannot be a file's name")
                objects[name] = Stored(int(blob.size), str(blob.crc32c))
        return objects

    def download(self, name: str, path: pathlib.Path) -> None:
        """Downloads an object to a file, and verifies its checksum.

        Raises:
          BucketError: it cannot be read.
        """
        with self._failing(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.tmp")
            with files.named(part):
                blob = self._blob(name)
                blob.download_to_filename(str(part), checksum="crc32c", retry=self._retry)
                part.replace(path)

    def upload(self, name: str, data: pathlib.Path | bytes) -> None:
        """Writes an object in one step.

        Raises:
          BucketError: it cannot be written.
        """
        with self._failing(name):
            options: dict[str, Any] = {"checksum": "crc32c", "retry": self._retry}
            if isinstance(data, bytes):
                self._blob(name).upload_from_string(data, **options)
            else:
                self._blob(name).upload_from_filename(str(data), **options)

    def delete(self, name: str, generation: int | None = None) -> None:
        """Removes an object, if it is there.

        Args:
          name: of the object.
          generation: only if nobody has written it since.

        Raises:
          BucketError: it cannot be removed.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with self._failing(name), contextlib.suppress(NotFound, PreconditionFailed):
            self._blob(name).delete(if_generation_match=generation, retry=self._retry)

    def generation(self, name: str) -> int:
        """Returns the number of an object's last write; 0 where it is not there.

        Raises:
          BucketError: the bucket does not say.
        """
        with self._failing(name):
            blob = self._bucket.get_blob(self._blob(name).name, retry=self._retry)
            return int(blob.generation or 0) if blob else 0

    def read(self, name: str) -> bytes | None:
        """Returns a small object's bytes; None where it is not there.

        Raises:
          BucketError: it cannot be read.
        """
        from google.api_core.exceptions import NotFound

        with self._failing(name):
            try:
                return bytes(self._blob(name).download_as_bytes(retry=self._retry))
            except NotFound:
                return None

    def write_if(self, name: str, data: bytes, generation: int) -> int | None:
        """Writes an object if nobody has written it since that generation.

        Returns:
          Its new generation; None if somebody has written it.

        Raises:
          BucketError: it cannot be written.
        """
        from google.api_core.exceptions import PreconditionFailed

        with self._failing(name):
            blob = self._blob(name)
            try:
                blob.upload_from_string(data, if_generation_match=generation, retry=self._retry)
            except PreconditionFailed:
                # An earlier try of this process may have written it, if its answer was lost.
                if self.read(name) != data:
                    return None
                return self.generation(name)
            return int(blob.generation or 0)


def _seconds() -> float:
    """Returns how long a lease of this process lasts.

    Raises:
      BucketError: the environment variable is not a valid time.
    """
    text = os.environ.get("ALEXNET_LEASE_SECONDS", str(EXPIRES_AFTER))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise BucketError(f"ALEXNET_LEASE_SECONDS: {text!r} must be seconds, from 1 to 3600")
    return seconds


class Lease:
    """Holds a folder for one process, on whatever machine; expires after a kill.

    It compares no clocks between machines: a lease that is not renewed while another process
    watches it has expired.
    """

    def __init__(self, bucket: Bucket, whose: str = "") -> None:
        """Takes the lease, and renews it until `release`.

        Args:
          bucket: the folder.
          whose: what the lease says; else this machine and process.

        Raises:
          HeldError: another process renews it.
        """
        self._bucket = bucket
        self._expires = _seconds()
        self._whose = self.text(whose or f"{socket.gethostname()}, process {os.getpid()}")
        self._over = threading.Event()
        self._turn = threading.Lock()
        self._lost = False
        self._generation = self._take()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @staticmethod
    def text(whose: str) -> bytes:
        """Returns what a lease says: the seconds that it lasts, and whose it is."""
        return f"{_seconds():g} {whose}".encode()

    def _take(self) -> int:
        seen = self._bucket.generation(LEASE)
        lasts = self._expires
        if seen:
            seconds = (self._bucket.read(LEASE) or b"").partition(b" ")[0]
            with contextlib.suppress(ValueError):  # by something else, of which nothing is known
                lasts = max(lasts, float(seconds))
            print(
                f"{self._bucket.url}: a process that may have been killed holds the lease; "
                f"watching for {lasts:.0f} s whether it renews it",
                file=sys.stderr,
                flush=True,
            )
        looked = time.monotonic()
        while seen and time.monotonic() < looked + lasts:
            self._over.wait(lasts / 20)
            now = self._bucket.generation(LEASE)
            if now not in (0, seen):
                raise self._held()
            seen = now
        taken = self._bucket.write_if(LEASE, self._whose, seen)
        if taken is None:
            raise self._held()
        return taken

    def _held(self) -> HeldError:
        return HeldError(
            f"{self._bucket.url}: another process works there; wait for it, or use another folder"
        )

    def _keep(self) -> None:
        while not self._over.wait(self._expires / 4):
            try:
                self.renew()
            except HeldError:
                return  # `renew` raises it again at the next save
            except BucketError as error:  # the network may be back before it runs out
                print(printable(f"warning: {error}"), file=sys.stderr, flush=True)

    def renew(self) -> None:
        """Renews the lease, which confirms that this process still holds the folder.

        Raises:
          HeldError: another process has taken it.
          BucketError: the bucket cannot be read or written.
        """
        with self._turn:
            written = None
            if not self._lost:
                written = self._bucket.write_if(LEASE, self._whose, self._generation)
            if written is None:
                self._lost = True
                raise self._held()
            self._generation = written

    def release(self, gone: bool = True) -> None:
        """Stops renewing the lease.

        Args:
          gone: let the next process begin at once? Else it waits for the expiry, as after a kill.
        """
        self._over.set()
        self._thread.join()
        if self._lost or not gone:
            return
        try:
            self._bucket.delete(LEASE, self._generation)
        except BucketError as error:  # it runs out by itself
            print(printable(f"warning: {error}"), file=sys.stderr, flush=True)
