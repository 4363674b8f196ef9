"""Records of a store: `tf.train.Example` messages as TFDS reads them, without TensorFlow.

They are written and read by their wire format (protobuf.dev/programming-guides/encoding): the
protobuf package copies an image of 197 kB several times, which takes longer than decoding it.
"""

from alexnet_jax.data.types import DataError

LENGTH = 2  # the wire type of every field here
# Fields of tf.train: Example.features, Features.feature (a map: key, value); a Feature holds
# bytes_list or int64_list, whose values are field 1 in both.
FEATURES = FEATURE = KEY = VALUES = 1
VALUE = 2
BYTES_LIST, INT64_LIST = 1, 3


def encode(image: bytes | memoryview, label: int, name: str) -> tuple[bytes, int]:
    """Returns the record of one example, and where in it the image's first byte is.

    Equal arguments give equal bytes.
    """
    before = _feature(b"id", BYTES_LIST, name.encode(errors="surrogateescape"))
    feature = _feature(b"image", BYTES_LIST, image)  # whose last part the image is
    after = _feature(b"label", INT64_LIST, _varint(label % 2**64))
    record = b"".join(_message(FEATURES, [*before, *feature, *after]))
    return record, len(record) - sum(map(len, after)) - len(image)


def _feature(key: bytes, kind: int, value: bytes | memoryview) -> list[bytes | memoryview]:
    listed = _message(kind, _message(VALUES, [value]))
    return _message(FEATURE, [*_message(KEY, [key]), *_message(VALUE, listed)])


def _message(field: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Puts a field's tag and length before its content, which is not copied."""
    return [bytes((field << 3 | LENGTH,)), _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    return bytes((value & 0x7F | 0x80,)) + _varint(value >> 7)


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


def _values(record: bytes) -> dict[bytes, tuple[int, int]]:
    """Maps each feature's name to the span of its first value; integers stay packed.

    It parses the record in place, because slices would cost more than they seem to.
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
