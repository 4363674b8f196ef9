import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data.store import record
from alexnet_jax.data.types import DataError


@settings(deadline=None)
@given(
    image=st.binary(max_size=70_000),
    label=st.integers(-1, 2**31),
    name=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_what_is_written_is_read(image, label, name):
    written, start = record.encode(image, label, name)
    assert written[start : start + len(image)] == image
    stored, got_label, got_name = record.decode(written)
    assert (bytes(stored), got_label, got_name) == (image, label, name)
    feature = tf_example_pb2.Example.FromString(written).features.feature
    assert feature["image"].bytes_list.value[0] == image
    assert feature["label"].int64_list.value[0] == label
    assert feature["id"].bytes_list.value[0] == name.encode()


def test_any_order_of_features_is_read():
    """Protobuf promises none, and TFDS writes its own."""
    example = tf_example_pb2.Example.FromString(record.encode(b"pixels", 3, "name")[0])
    for _ in range(5):
        assert record.decode(example.SerializeToString())[1:] == (3, "name")


@settings(deadline=None)
@given(cut=st.integers(0, 90), flipped=st.integers(0, 255))
def test_damage_is_an_error_or_another_value_never_a_crash(cut, flipped):
    whole, _ = record.encode(bytes(60), 5, "photo.jpg")
    with pytest.raises(DataError, match="is not an example"):
        record.decode(whole[: min(cut, len(whole) - 1)])
    damaged = bytearray(whole)
    damaged[cut % len(whole)] ^= flipped
    try:
        record.decode(bytes(damaged))
    except (DataError, UnicodeDecodeError):
        pass


def test_the_image_is_a_view_of_the_record():
    written, _ = record.encode(np.arange(12, dtype=np.uint8).tobytes(), 1, "x")
    stored = record.decode(written)[0]
    assert stored.obj is written
