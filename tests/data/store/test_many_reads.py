"""Many reads by one call, against reading each by itself."""

import errno
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.data.store import many_reads, riegeli

there = pytest.mark.skipif(not many_reads.is_there(), reason="this system has no such call")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("reads") / "file"
    path.write_bytes(np.random.default_rng(0).bytes(400_000))
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def pieces_of(out, cuts):
    """Each row of `out` in pieces that end at `cuts`."""
    edges = np.array([0, *cuts, out.shape[1]])
    pieces = np.zeros((len(out), len(edges) - 1), many_reads.PIECE)
    rows = out.ctypes.data + out.strides[0] * np.arange(len(out))
    pieces["address"], pieces["size"] = rows[:, None] + edges[:-1], np.diff(edges)
    return pieces


@there
def test_pieces_are_filled_one_after_the_other(file):
    out = np.zeros((many_reads.MOST, 1000), np.uint8)
    offsets = np.random.default_rng(1).integers(0, 399_000, len(out))
    got = many_reads.read(np.full(len(out), file), offsets, pieces_of(out, [0, 24, 24, 600]))
    assert got.tolist() == [1000] * len(out)
    for row, offset in zip(out, offsets.tolist(), strict=True):
        assert row.tobytes() == os.pread(file, 1000, offset)


@there
def test_each_says_what_became_of_it(file):
    out = np.zeros((3, 1000), np.uint8)
    descriptors = np.array([file, -1, file], np.int32)
    got = many_reads.read(descriptors, np.array([0, 0, 399_900]), pieces_of(out, []))
    assert got.tolist() == [1000, -errno.EBADF, 100]


@there
def test_threads_and_forks_have_queues_of_their_own(file):
    found = {}

    def some(name):
        out = np.zeros((8, 5000), np.uint8)
        found[name] = (
            many_reads.read(np.full(8, file), 5000 * np.arange(8), pieces_of(out, [100])).tolist(),
            out.tobytes() == os.pread(file, 40_000, 0),
        )

    threads = [threading.Thread(target=some, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    some("here")
    assert set(map(str, found.values())) == {str(([5000] * 8, True))}
    many_reads._here.queue.process = -1  # as in a fork's child, where it is the parent's
    some("child")
    assert found["child"] == found["here"]
    assert many_reads._here.queue.process == os.getpid()


@there
def test_what_could_not_be_handed_in_is_an_error_of_its_row(file, monkeypatch):
    call = many_reads._call

    def refused(which, *arguments, **how):
        if which == 2:
            raise OSError(errno.EAGAIN, "no room")
        return call(which, *arguments, **how)

    monkeypatch.setattr(many_reads, "_call", refused)
    out = np.zeros((2, 10), np.uint8)
    got = many_reads.read(np.full(2, file), np.zeros(2, np.int64), pieces_of(out, []))
    assert got.tolist() == [-errno.EAGAIN] * 2


@there
def test_where_too_many_are_in_use_rows_are_read_one_by_one(file, monkeypatch):
    def none_left():
        raise OSError(errno.EAGAIN, "too many")

    monkeypatch.setattr(many_reads, "_Queue", none_left)
    monkeypatch.setattr(many_reads, "_here", threading.local())
    out = np.zeros((2, 1000), np.uint8)
    assert riegeli.read_rows(np.full(2, file), np.array([24, 9000]), out).all()
    assert out[1].tobytes() == os.pread(file, 1000, 9000)


@there
def test_an_interrupted_read_leaves_nothing_to_the_next(file, monkeypatch):
    out = np.zeros((8, 1000), np.uint8)
    finished = many_reads._Queue._finished

    def interrupted(self, *about):
        raise KeyboardInterrupt

    monkeypatch.setattr(many_reads._Queue, "_finished", interrupted)
    with pytest.raises(KeyboardInterrupt):
        many_reads.read(np.full(8, file), np.zeros(8, np.int64), pieces_of(out, []))
    monkeypatch.setattr(many_reads._Queue, "_finished", finished)
    got = many_reads.read(np.full(3, file), np.full(3, 399_990), pieces_of(out[:3], []))
    assert got.tolist() == [10, 10, 10]


@pytest.mark.parametrize("one_call", [pytest.param(True, marks=there), False])
@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 150_000), places=st.lists(st.integers(0, 390_000), max_size=9))
def test_rows_are_what_lies_between_the_headers_of_blocks(file, one_call, size, places):
    everything = os.pread(file, 400_000, 0)
    starts = riegeli.in_file(np.array(places, np.int64))
    out = np.zeros((len(places), size), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(many_reads, "is_there", lambda: one_call)
        good = riegeli.read_rows(np.full(len(places), file), starts, out)
    for row, start, whole in zip(out, starts.tolist(), good, strict=True):
        at, want = start, b""
        while at < len(everything) and len(want) < size:
            if at % riegeli.BLOCK == 0:
                at += riegeli.BLOCK_HEADER
            end = min(at + size - len(want), (at // riegeli.BLOCK + 1) * riegeli.BLOCK)
            want += everything[at:end]
            at = end
        assert whole == (len(want) == size)
        if whole:
            assert row.tobytes() == want
