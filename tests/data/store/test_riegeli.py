"""Records found in an ArrayRecord file, against ArrayRecord's own reader."""

import os
import re

import numpy as np
import pytest
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.data.store import riegeli
from alexnet_jax.data.types import DataError

# Around the sizes at which a record ends, or begins, at a block's header.
SIZES = st.one_of(st.integers(1, 300), st.integers(65_300, 65_600), st.integers(130_900, 197_000))


def written(path, records, options="group_size:1,uncompressed"):
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(SIZES, min_size=1, max_size=12), seed=st.integers(0, 99))
def test_records_are_read_where_they_lie(tmp_path_factory, sizes, seed):
    rng = np.random.default_rng(seed)
    records = [rng.bytes(size) for size in sizes]
    path = written(tmp_path_factory.mktemp("riegeli") / "records", records)
    spans = riegeli.record_spans(path, len(records))
    assert [size for _, size in spans] == sizes
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for (start, size), record in zip(spans, records, strict=True):
            for skip in {0, size // 2, size - 1}:
                out = bytearray(size - skip)
                place = riegeli.in_file(start + skip)
                assert riegeli.read_into(descriptor, place, memoryview(out)) == size - skip
                assert bytes(out) == record[skip:]
    finally:
        os.close(descriptor)


def test_an_image_of_many_blocks_takes_several_calls(tmp_path, monkeypatch):
    record = np.random.default_rng(0).bytes(700_000)
    path = written(tmp_path / "records", [record])
    ((start, size),) = riegeli.record_spans(path, 1)
    calls, preadv = [], os.preadv

    def counted(descriptor, parts, offset):
        calls.append(len(parts))
        return preadv(descriptor, parts, offset)

    monkeypatch.setattr(riegeli, "MOST_PARTS", 6)
    monkeypatch.setattr(os, "preadv", counted)
    out = bytearray(size)
    with path.open("rb") as file:
        got = riegeli.read_into(file.fileno(), riegeli.in_file(start), memoryview(out))
    assert (got, bytes(out)) == (size, record)
    assert calls == [6, 6, 6, 3]


@pytest.mark.parametrize("cut", [100, 300, 65_540, 65_536 + 24, 70_000])
def test_a_file_that_ends_early_gives_what_there_is(tmp_path, cut):
    path = written(tmp_path / "records", [bytes(range(256)) * 600])
    ((start, size),) = riegeli.record_spans(path, 1)
    os.truncate(path, cut)
    headers = sum(min(24, cut - block) for block in range(0, cut, 65_536))
    out = bytearray(size)
    with path.open("rb") as file:
        got = riegeli.read_into(file.fileno(), riegeli.in_file(start), memoryview(out))
    assert got == max(0, cut - headers - start)
    assert bytes(out[:got]) == (bytes(range(256)) * 600)[:got]


@pytest.mark.parametrize("options", ["group_size:1,zstd", "group_size:2,uncompressed"])
def test_records_that_are_not_in_one_piece_are_refused(tmp_path, options):
    path = written(tmp_path / "records", [bytes(5000), bytes(6000)], options)
    with pytest.raises(DataError, match=re.escape(f"{path}: record 0 is not stored in one piece")):
        riegeli.record_spans(path, 2)


def test_a_file_with_fewer_records_is_named(tmp_path):
    path = written(tmp_path / "records", [bytes(5000)])
    with pytest.raises(DataError, match=re.escape(str(path))):
        riegeli.record_spans(path, 3)
