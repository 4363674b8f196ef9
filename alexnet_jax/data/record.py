"""Records of a store: `tf.train.Example` messages as TFDS reads them, without TensorFlow.

A record is read by walking its wire format (protobuf.dev/programming-guides/encoding), because the
protobuf package copies an image of 197 kB twice before it can be looked at.
"""

from typing import Any

from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from alexnet_jax.data.types import DataError

# Their messages are made at import, where a type checker does not see them.
_feature: Any = tf_feature_pb2
_example: Any = tf_example_pb2


def encode(image: bytes, label: int, name: str) -> bytes:
    """Returns the record of one example; equal arguments give equal bytes."""
    feature = {
        "image": _feature.Feature(bytes_list=_feature.BytesList(value=[image])),
        "label": _feature.Feature(int64_list=_feature.Int64List(value=[label])),
        "id": _feature.Feature(
            bytes_list=_feature.BytesList(value=[name.encode(errors="surrogateescape")])
        ),
    }
    example = _example.Example(features=_feature.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def decode(record: bytes) -> tuple[memoryview, int, str]:
    """Returns the image's bytes (a view of the record), the label and the name.

    Raises:
      DataError: not such a record.
    """
    try:
        values = _features(memoryview(record))
        label = _varint(values["label"], 0)[0]
        name = bytes(values["id"]).decode(errors="surrogateescape")
        return values["image"], label - 2**64 if label >= 2**63 else label, name
    except (IndexError, KeyError) as error:
        raise DataError(f"is not an example with image, label and id ({error!r})") from error


def _features(record: memoryview) -> dict[str, memoryview]:
    """Maps each feature's name to its first value; a whole number is still packed."""
    values = {}
    features, end = _payload(record, 0)
    if end != len(record):
        raise IndexError("bytes are left over")
    at = 0
    while at < len(features):
        entry, at = _payload(features, at)
        key, after_key = _payload(entry, 0)
        feature, _ = _payload(entry, after_key)
        kind, _ = _payload(feature, 0)  # of bytes or of whole numbers
        values[bytes(key).decode()] = _payload(kind, 0)[0]
    return values


def _payload(message: memoryview, at: int) -> tuple[memoryview, int]:
    """Returns a field's bytes and where they end; every field here has a length (wire type 2)."""
    if message[at] & 7 != 2:
        raise IndexError("a field has no length")
    length, start = _varint(message, at + 1)
    end = start + length
    if end > len(message):
        raise IndexError("a field is cut short")
    return message[start:end], end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
