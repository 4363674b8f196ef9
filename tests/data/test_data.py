import io
import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image
from small import write_folder

from alexnet_jax.config import Config
from alexnet_jax.data import drawn_patterns
from alexnet_jax.data.decode import centre_square, decode, read_square
from alexnet_jax.data.loader import (
    ImageReader,
    Loader,
    evaluation_batches,
    evaluation_positions,
    reading_threads,
    training_positions,
)
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import DataError


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    write_folder(tmp_path / "set")
    return tmp_path / "set"


def opened(path):
    return open_dataset(Config(dataset=str(path)))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str) -> Image.Image:
    gradient = np.linspace(0, 255, 300 * 200).reshape(200, 300).astype(np.uint8)
    rgb = Image.fromarray(np.stack([gradient, gradient // 2, 255 - gradient], axis=-1))
    return rgb.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "PNG")],
)
def test_decodes_every_kind_of_image_to_rgb(mode, kind):
    image = picture(mode)
    got = decode(encoded(image, kind), "x", 128)
    assert got.shape == (128, 128, 3)
    assert got.dtype == np.uint8
    again = Image.open(io.BytesIO(encoded(image, kind))).convert("RGB")
    want = centre_square(np.asarray(again), 128)
    assert np.abs(got.astype(int) - want).mean() < 3


def test_exif_orientation_is_a_choice():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    turned = encoded(picture("RGB"), "JPEG", exif=exif, quality=95)
    plain = decode(encoded(picture("RGB"), "JPEG", quality=95), "x", 64)
    np.testing.assert_array_equal(decode(turned, "x", 64), plain)
    followed = decode(turned, "x", 64, exif_orientation=True).astype(int)
    assert np.abs(followed - np.rot90(plain, -1)).mean() < 3


@pytest.mark.parametrize("height", [64, 100, 256, 257, 500])
def test_resize_rule(height):
    image = np.random.default_rng(0).integers(0, 256, (height, 300, 3), dtype=np.uint8)
    got = centre_square(image, 256)
    scale = 256 / min(height, 300)
    size = (max(256, round(300 * scale)), max(256, round(height * scale)))
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    want = Image.fromarray(cv2.resize(image, size, interpolation=kernel))
    left, top = (size[0] - 256) // 2, (size[1] - 256) // 2
    np.testing.assert_array_equal(got, np.asarray(want.crop((left, top, left + 256, top + 256))))


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_names_what_cannot_be_decoded(damage):
    whole = encoded(picture("RGB"), "JPEG")
    broken = whole[: len(whole) // 2] if damage is None else damage
    with pytest.raises(DataError, match=r"holiday.jpg: is not a readable image"):
        decode(broken, "holiday.jpg", 64)


def test_folder_splits_and_slices(folder):
    data = opened(folder)
    assert data.class_names == ["dark", "light"]
    assert data.sizes == {"train": 20, "val": 14}
    assert data.eval_split() == "val"
    assert (data.size("train[:90%]"), data.size("train[90%:]")) == (18, 2)
    parts = [data.open("train[:5]"), data.open("train[5:]")]
    names = [part[i].name for part in parts for i in range(len(part))]
    assert names == [data.open("train")[i].name for i in range(20)]
    assert len({part[i].label for part in parts[:1] for i in range(5)}) == 2  # classes are mixed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trian", "did you mean train"),
        ("train[20:]", "holds no example"),
        ("train[30:]", "incompatible"),
        ("train[x]", "train"),
    ],
)
def test_wrong_splits(folder, spec, message):
    with pytest.raises(DataError, match=message):
        opened(folder).open(spec)


def test_wrong_data_sets(tmp_path):
    with pytest.raises(DataError, match="no split/class/image"):
        opened(tmp_path)
    with pytest.raises(DataError, match="there is no folder or archive"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match="did you mean cifar10"):
        opened("cifar11")


def evaluated(reader, batch_size, threads):
    positions = evaluation_positions(batch_size, len(reader))
    numbers = evaluation_batches(batch_size, len(reader))
    batches = Loader(reader, threads, 2).batches(positions, numbers, slice(0, batch_size))
    return [{name: values.copy() for name, values in batch.items()} for batch in batches]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (64, 16)])
def test_there_is_a_thread_for_each_core_as_far_as_they_help(cores, threads, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    assert reading_threads(0) == threads
    assert reading_threads(11) == 11


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (4, 1), (3, 5), (0, 2)])
def test_threads_do_not_change_batches(folder, threads, ahead):
    source = opened(folder).open("train")
    reader = ImageReader(source, 71)
    positions = training_positions(0, np.arange(6), 20)
    before, kept = [], []
    loader = Loader(reader, threads, ahead, keep=kept.append)
    for number, batch in enumerate(loader.batches(positions, range(1, 13), slice(0, 6)), 1):
        for earlier, copy in before[-3:]:  # they stay as they are until one more is asked for
            np.testing.assert_array_equal(earlier["image"], copy)
        for i, index in enumerate(positions(number).index):
            image, example = read_square(source, int(index), 71)
            assert (batch["label"][i], batch["mask"][i]) == (example.label, 1)
            np.testing.assert_array_equal(batch["image"][i], image)
        assert batch["image"].ctypes.data % 64 == 0
        assert any(batch["image"] is images for images in kept)
        before.append((batch, batch["image"].copy()))
    assert len(before) == 12
    assert len(kept) == min(12, ahead + 4)


def test_evaluation_reads_each_example_once_with_a_masked_tail(folder):
    reader = ImageReader(opened(folder).open("val"), 71)
    batches = evaluated(reader, 4, 3)
    assert [b["mask"].sum() for b in batches] == [4, 4, 4, 2]
    seen = np.concatenate([b["index"][b["mask"] > 0] for b in batches])
    np.testing.assert_array_equal(seen, np.arange(14))


def test_bad_images_are_named_or_skipped_and_counted(folder):
    bad = folder / "val" / "dark" / "000.png"
    bad.write_bytes(bad.read_bytes()[:60])
    source = opened(folder).open("val")
    with pytest.raises(DataError, match="000.png"):
        evaluated(ImageReader(source, 71), 4, 2)
    reader = ImageReader(source, 71, on_bad_image="skip")
    for _ in range(2):
        batches = evaluated(reader, 4, 2)
        assert sum(b["mask"].sum() for b in batches) == 13
        assert sum(b["bad"].sum() for b in batches) == 1
        assert len(reader.bad_images) == 1
        assert "000.png" in reader.bad_images[0]


def test_a_missing_file_is_named(folder):
    source = opened(folder).open("val")
    (folder / "val" / "dark" / "000.png").unlink()
    with pytest.raises(DataError, match=r"000.png: .*No such file"):
        evaluated(ImageReader(source, 71), 4, 2)


def test_drawn_patterns_depend_on_their_number_alone():
    first = drawn_patterns.example(0, 5)
    drawn_patterns.example(1, 3)
    again = drawn_patterns.example(0, 5)
    assert first == again
    image = cv2.imdecode(np.frombuffer(first["image"], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (256, 256, 3)
    labels = [drawn_patterns.example(1, i)["label"] for i in range(24)]
    assert sorted(labels) == sorted(list(range(12)) * 2)


def test_tfds_data_sets_are_prepared_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_patterns, "SIZES", {"train": 30, "validation": 12})
    config = Config(data_dir=str(tmp_path))
    for _ in range(2):  # prepared, then found
        data = open_dataset(config)
        assert data.sizes == {"train": 30, "validation": 12}
        assert data.class_names == drawn_patterns.CLASSES
        source = data.open("train[10:]")
        assert len(source) == 20
        batch = evaluated(ImageReader(source, 71), 8, 2)[0]
        assert batch["image"].std() > 10
    labels = sorted(data.open("train")[i].label for i in range(30))
    assert labels == sorted(i % 12 for i in range(30))


def test_real_photographs(shared_data):
    files = sorted((shared_data / "photos").glob("*.JPEG"))[:40]
    for path in files:
        got = decode(path.read_bytes(), path.name, 256)
        want = centre_square(np.asarray(Image.open(path).convert("RGB")), 256)
        assert np.abs(got.astype(int) - want).max() <= 4, path.name
