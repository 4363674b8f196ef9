"""Buckets for tests, by a server on loopback."""

import contextlib
from collections.abc import Iterator

import pytest

from experiments.input import gcs_server


@contextlib.contextmanager
def served(bucket: str) -> Iterator[str]:
    """Serves an empty bucket; yields its address, for STORAGE_EMULATOR_HOST."""
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(gcs_server.served(bucket))
        except gcs_server.NoServerError as error:
            pytest.skip(str(error))
        yield address


def forget_copies() -> None:
    """Makes this process forget which copies it has opened."""
    from alexnet_jax.host import mirror

    mirror._opened.clear()
