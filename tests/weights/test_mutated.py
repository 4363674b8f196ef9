"""Weight files changed by chance or on purpose: read, or refused in one line.

Either takes at most ten seconds, and four times the file's size and 200 MB more than usual.
"""

import io
import pathlib
import random
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from alexnet_jax import configs
from alexnet_jax.weights import formats, layout
from alexnet_jax.weights.types import Weights, WeightsError
from tests.weights.test_convert import (
    caffe_layers,
    net_parameter,
    onnx_graph,
    random_params,
    torchvision_alexnet,
)

SECONDS, BYTES = 10, 200 * 10**6
WIDTH = 1 / 16
VALUES = (b"\0", b"\x7f", b"\x80", b"\xff", b"\xff" * 4, b"\xff" * 9 + b"\x01", b"\x00\x00\x00\x80")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    get = configs.get

    def of(name):
        config = get(name)
        config.model.width = WIDTH
        return config

    monkeypatch.setattr(formats.configs, "get", of)


def tensors(recipe: str, names: str) -> tuple[dict, dict]:
    params = random_params(configs.get(recipe))
    return params, layout.from_standard(params, layout.LAYOUTS[names])


def caffemodel(version: int, path: pathlib.Path) -> None:
    _, found = tensors("caffenet", "caffe")
    layers = caffe_layers(found, ("Pooling", "LRN"))
    path.write_bytes(net_parameter(layers, version == 1))


def dictionary(path: pathlib.Path) -> None:
    _, found = tensors("caffenet", "caffe dictionary")
    layers = {name.partition(".")[0] for name in found}
    both = {one: [found[f"{one}.kernel"], found[f"{one}.bias"]] for one in layers}
    with path.open("wb") as file:
        np.save(file, np.array(both, dtype=object), allow_pickle=True)


def torch_file(path: pathlib.Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    network = torchvision_alexnet(torch.nn, WIDTH, 13)
    state = {"state_dict": network.state_dict(), "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)


def onnx_file(path: pathlib.Path) -> None:
    onnx = pytest.importorskip("onnx")
    nodes, stored = onnx_graph(onnx, tensors("bvlc_alexnet", "onnx")[1])
    graph = onnx.helper.make_graph(nodes, "net", [], [], stored)
    onnx.save(onnx.helper.make_model(graph), str(path))


def safetensors(path: pathlib.Path) -> None:
    config = configs.get("caffenet")
    config.num_classes = 13
    params = random_params(config)
    weights = Weights(params, config, ["a", "b"], None, 7, path)
    formats.write_safetensors(weights, path)


FORMATS = {
    "caffe": ("caffe", "net.caffemodel", lambda path: caffemodel(2, path)),
    "caffe, V1": ("caffe", "net.caffemodel", lambda path: caffemodel(1, path)),
    "dictionary": ("caffe", "net.npy", dictionary),
    "torch": ("torchvision", "net.pth", lambda path: torch_file(path, True)),
    "torch, legacy": ("torchvision", "net.pth", lambda path: torch_file(path, False)),
    "onnx": ("onnx", "net.onnx", onnx_file),
    "safetensors": ("safetensors", "net.safetensors", safetensors),
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Returns changed bytes; most changes are near the ends, where formats say what is where."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 40])):
        if not changed:
            break
        nearest = min(len(changed), rng.choice([64, 1024, len(changed)]))
        at = rng.randrange(nearest)
        at = rng.choice([at, len(changed) - 1 - at])
        kind = rng.randrange(7)
        if kind < 3:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            value = rng.choice(VALUES)
            changed[at : at + len(value)] = value
        elif kind == 4:
            del changed[at : at + rng.choice([1, 4, 100, len(changed)])]
        elif kind == 5:
            start = rng.randrange(len(changed))
            changed[at:at] = changed[start : start + rng.choice([1, 8, 300])]
        else:
            changed[at:at] = rng.choice(VALUES)
    return bytes(changed)


def rezipped(data: bytes, rng: random.Random) -> bytes:
    """Changes one entry of an archive and corrects its CRC; some entries are deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as made:
        names = archive.namelist()
        chosen = rng.choice([next(n for n in names if n.endswith("data.pkl")), rng.choice(names)])
        for name in names:
            entry = archive.read(name)
            kind = rng.choice([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED])
            made.writestr(name, mutated(entry, rng) if name == chosen else entry, kind)
    return out.getvalue()


def trials(form: str, count: int, folder: pathlib.Path, seed: int) -> None:
    reader, name, write = FORMATS[form]
    path = folder / name
    write(path)
    good = path.read_bytes()
    formats.read(reader, path)
    tracemalloc.start()
    try:
        formats.read(reader, path)
        usual = tracemalloc.get_traced_memory()[1]
        for number in range(count):
            rng = random.Random(f"{form} {seed} {number}")
            again = form == "torch" and rng.random() < 0.5
            data = rezipped(good, rng) if again else mutated(good, rng)
            path.write_bytes(data)
            tracemalloc.reset_peak()
            start = time.process_time()
            try:
                formats.read(reader, path)
            except WeightsError as error:
                assert str(path) in str(error) and len(str(error)) < 2000, number
                error.__traceback__ = None
            spent, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
            assert spent < SECONDS, (number, spent)
            assert peak < usual + 4 * len(data) + BYTES, (number, peak)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", FORMATS)
def test_a_changed_file_is_read_or_refused(form, tmp_path):
    trials(form, 100, tmp_path, 0)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", FORMATS)
def test_ten_thousand_changed_files_are_read_or_refused(form, tmp_path):
    trials(form, 10_000, tmp_path, 1)
