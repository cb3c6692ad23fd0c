"""Responses to the wire: a protobuf encoder for betterproto's messages.

betterproto's own is some ten times slower (a page of 1,000 volumes would stop the loop for 0.2 s), and changes the
process-wide warning filters for every field. Wire format: protobuf.dev/programming-guides/encoding.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache

import betterproto

_VARINT, _DELIMITED = 0, 2
_EPOCH = datetime.fromtimestamp(0, UTC)
_INT64 = 1 << 64

# Every default value (0, false, "", an empty message) is this byte: the number 0, or the length 0.
_DEFAULT = b"\x00"

# The bytes of one value after its tag.
_Writer = Callable[[object], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """How one field is written. ``forced``: even the default value is, because a oneof has chosen it."""

    name: str
    tag: bytes
    write: _Writer
    forced: bool
    repeated: bool

    def encode(self, value: object) -> Iterator[bytes]:
        """The tag and the bytes of every value that has to be written."""
        if self.repeated:
            assert isinstance(value, list | dict)
            for item in value.items() if isinstance(value, dict) else value:
                yield self.tag
                yield self.write(item)
            return
        data = self.write(value)
        if data != _DEFAULT or self.forced or _was_received(value):
            yield self.tag
            yield data


def encode(message: betterproto.Message) -> bytes:
    """The bytes of ``message``. TypeError, ValueError or AttributeError when a field holds a value of a wrong type."""
    values = vars(message)
    parts: list[bytes] = []
    for field in _fields_of(type(message)):
        value = values[field.name]
        if value is not betterproto.PLACEHOLDER and value is not None:
            parts += field.encode(value)
    return b"".join(parts)


def prepare(message_type: type[betterproto.Message]) -> None:
    """Work out now how ``message_type`` is written. TypeError when it has a field of an unknown kind."""
    _fields_of(message_type)


def _was_received(value: object) -> bool:
    """Whether an empty message was there on the wire or was filled explicitly (betterproto.serialized_on_wire)."""
    return isinstance(value, betterproto.Message) and betterproto.serialized_on_wire(value)


@cache
def _fields_of(message_type: type[betterproto.Message]) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(message_type)
    fields = []
    for field in dataclasses.fields(message_type):  # type: ignore[arg-type]  # messages are dataclasses
        meta = betterproto.FieldMetadata.get(field)
        write, wire_type = _writer(field.name, meta)
        many = typing.get_origin(hints[field.name]) in (list, dict)
        fields.append(
            _Field(
                name=field.name,
                tag=_varint(meta.number << 3 | wire_type),
                write=write,
                forced=bool(meta.group or meta.wraps or meta.optional),
                repeated=many,
            )
        )
    return tuple(fields)


def _writer(name: str, meta: betterproto.FieldMetadata) -> tuple[_Writer, int]:
    if meta.proto_type == betterproto.TYPE_STRING:
        return _string, _DELIMITED
    if meta.proto_type in (betterproto.TYPE_BOOL, betterproto.TYPE_INT32, betterproto.TYPE_INT64):
        return _number, _VARINT
    if meta.proto_type == betterproto.TYPE_ENUM:
        return _number, _VARINT
    if meta.proto_type == betterproto.TYPE_MAP:
        if meta.map_types == (betterproto.TYPE_STRING, betterproto.TYPE_STRING):
            return _entry, _DELIMITED
    elif meta.wraps in (betterproto.TYPE_BOOL, betterproto.TYPE_INT64):
        return _wrapped, _DELIMITED
    elif meta.proto_type == betterproto.TYPE_MESSAGE and not meta.wraps:
        return _message, _DELIMITED
    raise TypeError(f"{name}: fields of type {meta.proto_type} cannot be written")


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _delimited(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _number(value: object) -> bytes:
    if not isinstance(value, int):
        raise TypeError(f"an integer is needed, not {type(value).__name__}")
    if not -(_INT64 >> 1) <= value < _INT64 >> 1:
        raise ValueError("an integer is beyond 64 bits")
    return _varint(value % _INT64)


def _string(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"a string is needed, not {type(value).__name__}")
    return _delimited(value.encode())


def _entry(item: object) -> bytes:
    """A map's entry: a message with the key as field 1 and the value as field 2."""
    assert isinstance(item, tuple)
    key, value = item
    return _delimited(b"\x0a" + _string(key) + b"\x12" + _string(value))


def _wrapped(value: object) -> bytes:
    """A google.protobuf.BoolValue or Int64Value: a message with the value, unless it is 0, as field 1."""
    return _delimited(b"\x08" + _number(value) if value else b"")


def _message(value: object) -> bytes:
    if isinstance(value, betterproto.Message):
        return _delimited(encode(value))
    if isinstance(value, datetime):
        return _timestamp(value)
    raise TypeError(f"a message is needed, not {type(value).__name__}")


def _timestamp(value: datetime) -> bytes:
    """A google.protobuf.Timestamp: whole seconds, rounded down, as field 1 and nanoseconds as field 2."""
    since = value - _EPOCH
    parts = b""
    if seconds := since.days * 86400 + since.seconds:
        parts += b"\x08" + _number(seconds)
    if since.microseconds:
        parts += b"\x10" + _number(since.microseconds * 1000)
    return _delimited(parts)
