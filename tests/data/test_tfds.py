"""TFDS's data sets as people have them: TFRecord, folders given by their path, no network."""

import http.server
import json
import pathlib
import shutil
import socket
import struct
import sys
import threading

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from alexnet_jax.config import Config
from alexnet_jax.data import tfds_dataset
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.store import record, store
from alexnet_jax.data.types import DataError


def crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial of RFC 3720."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def as_tfrecord(data: bytes) -> bytes:
    size = struct.pack("<Q", len(data))
    return size + masked(size) + data + masked(data)


def jpeg(number: int) -> bytes:
    image = np.random.default_rng(number).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def write(folder: pathlib.Path, shards: dict[str, list[int]], first: int = 0) -> pathlib.Path:
    """Writes what TFDS would: shards of numbered images, and its description."""
    folder.mkdir(parents=True)
    number, infos = first, []
    for split, lengths in shards.items():
        for shard, length in enumerate(lengths):
            name = f"little-{split}.tfrecord-{shard:05}-of-{len(lengths):05}"
            with (folder / name).open("wb") as file:
                for _ in range(length):
                    encoded = record.encode(jpeg(number), number % 2, f"n{number}")[0]
                    file.write(as_tfrecord(encoded))
                    number += 1
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
                "id": tfds.features.Text(),
            }
        ),
        split_infos=infos,
        filename_template=store.SHARD_NAME,
        description="numbered",
        check_data=False,
    )
    path = folder / "dataset_info.json"
    about = json.loads(path.read_text()) | {"name": "little", "fileFormat": "tfrecord"}
    path.write_text(json.dumps(about))
    return folder


@pytest.fixture
def little(tmp_path):
    return write(tmp_path / "tfds" / "little" / "1.0.0", {"train": [3, 0, 4], "validation": [2]})


def read(dataset: str, **more):
    opened = open_dataset(Config(dataset=dataset, **more))
    return {
        split: [
            (bytes(example.image), example.label, example.name)
            for source in [opened.open(split)]
            for example in (source[i] for i in range(len(source)))
        ]
        for split in opened.sizes
    }


def expected(numbers) -> list[tuple[bytes, int, str]]:
    return [(jpeg(n), n % 2, f"n{n}") for n in numbers]


def test_every_record_by_path_and_by_name(little):
    wanted = {"train": expected(range(7)), "validation": expected((7, 8))}
    for path in (little, little.parent, little.parent.parent):
        assert read(str(path)) == wanted
        assert read(f"{path}/") == wanted
    assert read("little", data_dir=str(little.parent.parent)) == wanted
    part = open_dataset(Config(dataset=str(little))).open("train[2:5]")
    assert [part[i].name for i in range(len(part))] == ["n2", "n3", "n4"]


def test_the_newest_version_and_one_data_set_alone(little):
    write(little.parent / "0.9.0", {"train": [1], "validation": [1]}, first=50)
    write(little.parent / "1.10.0", {"train": [1], "validation": [1]}, first=60)
    assert read(str(little.parent))["train"] == expected([60])
    write(little.parent.parent / "other" / "1.0.0", {"train": [1], "validation": [1]})
    with pytest.raises(DataError, match="holds 2 data sets of TFDS; name one, such as .*little"):
        read(str(little.parent.parent))


def test_a_store_is_made_of_it(little, tmp_path):
    from tests import commands

    out = tmp_path / "store"
    wrong = commands.endings(
        "prepare", tmp_path, [f"--dataset={little}", f"--out={out}", "--resize=16"]
    )
    assert wrong == [""]
    assert [name for _, _, name in read(str(out), resize=16)["train"]] == [
        f"n{i}" for i in range(7)
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "holds 3 whole records, not the 4 of its data set; restore it"),
        ("cut in a header", "is cut at byte"),
        ("a record more", "holds 5 whole records, not the 4"),
        ("a record less", "holds 3 whole records, not the 4"),
        ("length", "is no TFRecord, or damaged at byte 0; restore it"),
        ("image", "record 0 is damaged"),
        ("crc", "record 0 is damaged"),
        ("emptied", "holds 0 whole records, not the 4"),
    ],
)
def test_damage_is_found_and_named(little, damage, message):
    path = little / "little-train.tfrecord-00002-of-00003"
    data = bytearray(path.read_bytes())
    one = len(data) // 4
    size = struct.unpack("<Q", data[:8])[0] + 16
    changed = {
        "cut": data[:-3],
        "cut in a header": data[: size + 5],
        "a record more": data + data[:size],
        "a record less": data[size:],
        "length": bytes([data[0] ^ 1]) + data[1:],
        "image": data[:100] + bytes([data[100] ^ 8]) + data[101:],
        "crc": data[: size - 1] + bytes([data[size - 1] ^ 128]) + data[size:],
        "emptied": b"",
    }[damage]
    assert one > 150
    path.write_bytes(changed)
    with pytest.raises(DataError, match=f"{path.name}: .*{message}"):
        open_dataset(Config(dataset=str(little))).open("train")[3]


def test_without_the_extra_one_line_says_both_ways(little, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(DataError, match="pip install google-crc32c .* or prepare it again with"):
        open_dataset(Config(dataset=str(little))).open("train")


def test_a_description_that_is_damaged_is_one_line(little):
    for text in ("", "{}", "[]", '{"name": 3}', '{"splits": [{"name": "train"}]}'):
        (little / "dataset_info.json").write_text(text)
        with pytest.raises(
            DataError, match="1.0.0(: TFDS cannot read its description| has features)"
        ):
            open_dataset(Config(dataset=str(little))).open("train")
    shutil.copy(__file__, little / "features.json")
    with pytest.raises(DataError, match="1.0.0(: TFDS cannot read its description| has features)"):
        open_dataset(Config(dataset=str(little)))


def test_a_record_that_is_none_is_a_bad_image(little):
    path = little / "little-train.tfrecord-00002-of-00003"
    whole = path.read_bytes()
    size = len(as_tfrecord(record.encode(jpeg(3), 1, "n3")[0]))
    for junk in (b"", b"\xff" * 40, b"\x0a\x02hi"):
        path.write_bytes(as_tfrecord(junk) + whole[size:])
        source = open_dataset(Config(dataset=str(little))).open("train")
        with pytest.raises(DataError, match=r"train\[3\]: cannot be read"):
            source[3]
        assert source[4].name == "n4"
    with pytest.raises(IndexError):
        source._data.data_source[-1]


def test_a_file_of_that_name_beside_photographs_is_nobodys(tmp_path):
    for name in ("train/a/1.jpg", "val/a/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(jpeg(1))
    (tmp_path / "dataset_info.json").write_text("{}")  # Hugging Face's
    assert open_dataset(Config(dataset=str(tmp_path))).sizes == {"train": 1, "val": 1}


def test_a_name_in_other_letters_is_recognised(tmp_path):
    with pytest.raises(DataError, match="did you mean mnist"):
        open_dataset(Config(dataset="MNIST", data_dir=str(tmp_path)))


class Absent(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_who_is_asked_for_a_download(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Absent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/x"
        assert tfds_dataset._unreachable(url) == ""
        server.shutdown()
    assert "refused" in tfds_dataset._unreachable(url)
    monkeypatch.setattr(tfds_dataset, "REACHED_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        assert "timed out" in tfds_dataset._unreachable(url)


def test_without_a_network_it_is_said_at_once(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(tfds_dataset, "_unreachable", lambda url: asked.append(url) or "no route")
    with pytest.raises(DataError, match=r"cifar10 is not prepared in .* reached \(no route\)"):
        tfds_dataset.by_name("cifar10", str(tmp_path))
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / "x.INFO").write_text(json.dumps({"urls": asked}))
    builder = tfds.builder("cifar10", data_dir=tmp_path)
    tfds_dataset._refuse_unreachable("cifar10", str(tmp_path), builder)  # it is there
    drawn = tfds_dataset._builder("drawn_patterns", str(tmp_path))  # nothing of it is downloaded
    tfds_dataset._refuse_unreachable("drawn_patterns", str(tmp_path), drawn)
    assert len(asked) == 1
