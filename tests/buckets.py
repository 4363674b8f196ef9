"""Buckets for tests, by a server on loopback."""

import contextlib
from collections.abc import Iterator

import pytest

from experiments.input import gcs_server


@contextlib.contextmanager
def served(bucket: str) -> Iterator[str]:
    """Serves an empty bucket; gives the address that STORAGE_EMULATOR_HOST is to be."""
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(gcs_server.served(bucket))
        except gcs_server.NoServerError as error:
            pytest.skip(str(error))
        yield address


def forget_copies() -> None:
    """Makes this process one that has not asked for a copy yet."""
    from alexnet_jax.host import mirror

    mirror._opened.clear()
