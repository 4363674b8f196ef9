"""Small weight files made to cost much time or memory: they are refused soon."""

import os
import pathlib
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from alexnet_jax.weights import formats
from alexnet_jax.weights.types import WeightsError

# Forty nested tuples, each of which holds the one before twice.
TUPLES = b")q\x00" + b"h\x00h\x00\x86q\x00" * 40


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def module(state: bytes) -> bytes:
    return b"ctorch.nn\nM\n)\x81" + state + b"b"


def pairs(key: bytes) -> bytes:
    return b"\x80\x02ccollections\nOrderedDict\n]" + key + b"N\x86a\x85R."


def modules_of_modules() -> bytes:
    made = b"\x80\x02" + module(b"}" + text("_modules") + b"}s") + b"q\x010"
    for _ in range(40):
        inner = b"}" + text("a") + b"h\x01s" + text("b") + b"h\x01s"
        made += module(b"}" + text("_modules") + inner + b"s") + b"q\x010"
    return made + b"h\x01."


def dictionaries_of_dictionaries() -> bytes:
    made = b"\x80\x02}q\x010"
    for _ in range(4):
        items = b"".join(b"M" + struct.pack("<H", i) + b"h\x01" for i in range(300))
        made += b"}(" + items + b"uq\x010"
    return made + b"h\x01."


def field(number: int, content: bytes) -> bytes:
    size, found = len(content), b""
    while size > 127:
        found, size = found + bytes([size & 127 | 128]), size >> 7
    tag = number << 3 | 2
    start = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    return start + found + bytes([size]) + content


def legacy(storages: int) -> bytes:
    """A file in PyTorch's legacy format with thousands of storages, one for each tensor."""
    made = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    made += b"\x80\x02}("
    for i in range(storages):
        about = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(f"{i}") + text("cpu")
        made += text(f"t{i}") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + about
        made += b"K\x01NtQK\x00K\x01\x85K\x01\x85tR"
    made += b"u." + pickle.dumps([str(i) for i in range(storages)], 2)
    return made + struct.pack("<qf", 1, 0.5) * storages


PICKLES = {
    "pairs of tuples": pairs(TUPLES),
    "modules of modules": modules_of_modules(),
    "dictionaries of dictionaries": dictionaries_of_dictionaries(),
    "marks": b"\x80\x02" + b"N" * 60_000 + b"(t" * 60_000 + b".",
    "lists": b"\x80\x02" + b"]" * 4_000_000 + b".",
    "a long name": b"\x80\x02}" + text("\x01" * 3_000_000) + b"Ns.",
    "an array of no dimension": pickle.dumps(np.array(1.0), 2),
    "parameters in a list": b"\x80\x02"
    + module(b"}" + text("_modules") + b"}s" + text("_parameters") + b"]Nas")
    + b".",
}


def refused_soon(form: str, path: pathlib.Path) -> str:
    start = time.process_time()
    with pytest.raises(WeightsError, match=path.name) as found:
        formats.read(form, path)
    assert time.process_time() - start < 10
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=path.name):
            formats.read(form, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + 200 * 10**6
    assert len(str(found.value)) < 2000
    return str(found.value)


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("form", ["caffe", "torchvision"])
def test_pickles(kind, form, tmp_path):
    path = tmp_path / {"caffe": "net.npy", "torchvision": "net.pth"}[form]
    if form == "caffe":
        with path.open("wb") as file:
            about = {"descr": "|O", "fortran_order": False, "shape": ()}
            np.lib.format.write_array_header_1_0(file, about)
            file.write(PICKLES[kind])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", PICKLES[kind])
    refused_soon(form, path)


def test_numbers_one_by_one(tmp_path):
    blob = b"\x2d\0\0\0\0" * 1_000_000
    layer = field(1, b"conv1") + field(7, blob)
    (tmp_path / "net.caffemodel").write_bytes(field(100, layer))
    said = refused_soon("caffe", tmp_path / "net.caffemodel")
    assert "has 1000000 numbers" in said


def test_storages_by_the_thousand(tmp_path):
    (tmp_path / "net.pth").write_bytes(legacy(8_000))
    assert "is missing; there are t0" in refused_soon("torchvision", tmp_path / "net.pth")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo.pth")
    for form, path in (("torchvision", tmp_path / "fifo.pth"), ("onnx", pathlib.Path("/dev/zero"))):
        with pytest.raises(WeightsError, match="is neither a file nor a folder"):
            formats.read(form, path)
