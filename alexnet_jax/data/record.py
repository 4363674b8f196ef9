"""Records of a store: `tf.train.Example` messages as TFDS reads them, without TensorFlow.

They are written and read by their wire format (protobuf.dev/programming-guides/encoding): the
protobuf package copies an image of 197 kB several times, which takes longer than decoding it.
"""

from collections.abc import Sequence

from alexnet_jax.data.types import DataError

LENGTH = 2  # the wire type of every field here
# Fields of tf.train: Example.features, Features.feature (a map: key, value); a Feature holds
# bytes_list or int64_list, whose values are field 1 in both.
FEATURES = FEATURE = KEY = VALUES = 1
VALUE = 2
BYTES_LIST, INT64_LIST = 1, 3


def encode(image: bytes | memoryview, label: int, name: str) -> bytes:
    """Returns the record of one example; equal arguments give equal bytes."""
    features = (
        ("id", BYTES_LIST, name.encode(errors="surrogateescape")),
        ("image", BYTES_LIST, image),
        ("label", INT64_LIST, _varint(label % 2**64)),
    )
    parts: list[bytes | memoryview] = []
    for key, kind, value in features:
        # From the inside out: each message's length stands before it, the image is never copied.
        values = [_tag(VALUES), _varint(len(value)), value]
        listed = [_tag(kind), _varint(_size(values)), *values]
        entry = [_tag(KEY), _varint(len(key)), key.encode()]
        entry += [_tag(VALUE), _varint(_size(listed)), *listed]
        parts += [_tag(FEATURE), _varint(_size(entry)), *entry]
    return b"".join([_tag(FEATURES), _varint(_size(parts)), *parts])


def _size(parts: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, parts))


def _tag(field: int) -> bytes:
    return bytes([field << 3 | LENGTH])


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def decode(record: bytes) -> tuple[memoryview, int, str]:
    """Returns the image's bytes (a view of the record), the label and the name.

    Raises:
      DataError: not such a record.
    """
    try:
        values = _values(record)
        start, end = values[b"image"]
        label = _read_varint(record, values[b"label"][0])[0]
        name = record[slice(*values[b"id"])].decode(errors="surrogateescape")
    except (IndexError, KeyError) as error:
        raise DataError(f"is not an example with image, label and id ({error!r})") from error
    return memoryview(record)[start:end], label - 2**64 if label >= 2**63 else label, name


def image_start(record: bytes) -> int:
    """Returns where in a record that `encode` made the image's first byte is."""
    return _values(record)[b"image"][0]


def _values(record: bytes) -> dict[bytes, tuple[int, int]]:
    """Maps each feature's name to where its first value lies; a whole number is still packed.

    It looks at the record in place: slices of it would cost more than they say.
    """
    values = {}
    at, end = _field(record, 0, len(record))
    if end != len(record):
        raise IndexError("bytes are left over")
    while at < end:
        entry, at = _field(record, at, end)
        key, after_key = _field(record, entry, at)
        feature, _ = _field(record, after_key, at)
        listed, _ = _field(record, feature, at)
        values[record[key:after_key]] = _field(record, listed, at)
    return values


def _field(record: bytes, at: int, end: int) -> tuple[int, int]:
    """Returns where the content of the field at `at` starts and ends, within `end`."""
    if record[at] & 7 != LENGTH:
        raise IndexError("a field has no length")
    length, start = record[at + 1], at + 2
    if length >= 0x80:
        length, start = _read_varint(record, at + 1)
    if start + length > end:
        raise IndexError("a field is cut short")
    return start, start + length


def _read_varint(record: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = record[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
