"""Requests from the wire: a strict and bounded protobuf decoder that fills betterproto's messages.

betterproto's own parser is not fit for an open socket: it takes truncated data and values of the wrong type for
good, copies unknown fields again and again (4 MiB of them block the loop for minutes), and makes an object out of
every two bytes of a list. Wire format: protobuf.dev/programming-guides/encoding.
"""

import dataclasses
import typing
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

import betterproto

from rds_csi.errors import InvalidArgument, ResourceExhausted

M = TypeVar("M", bound=betterproto.Message)

# Fields in one request with all that is nested in it; a nested message counts as much as it costs. The largest
# honest request (the topology of 5,000 nodes, twice) has 60,000; this many take 0.4 s at most, and 20 MiB.
MAX_FIELDS = 100_000
_MESSAGE_COST = 5

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
# A varint has at most ten bytes.
_MAX_SHIFT = 63

_FromNumber = Callable[[int], object]
_FromBytes = Callable[["_Input", int, int], object]


class _Malformed(ValueError):
    """The bytes are not what the message's definition says."""


class _TooManyFields(ValueError):
    """More fields than any honest request has."""


class _Input:
    """The bytes of one request, and how many more fields it may have."""

    __slots__ = ("data", "fields_left")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fields_left = MAX_FIELDS

    def spend(self, cost: int) -> None:
        """Count what was found; _TooManyFields when it is more than any honest request has."""
        self.fields_left -= cost
        if self.fields_left < 0:
            raise _TooManyFields

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """The varint at ``position`` and where it ends."""
        data = self.data
        result = shift = 0
        while position < end and shift <= _MAX_SHIFT:
            byte = data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFF_FFFF_FFFF_FFFF, position
            shift += 7
        raise _Malformed("a number is cut off or too long")

    def length(self, position: int, end: int) -> tuple[int, int]:
        """Where the length-delimited value at ``position`` begins and ends."""
        size, start = self.varint(position, end)
        if size > end - start:
            raise _Malformed("a value is cut off")
        return start, start + size


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """How one field is read: from a number (varint) or from bytes (length-delimited), and where it is put."""

    name: str
    from_number: _FromNumber | None
    from_bytes: _FromBytes | None
    repeated: bool = False
    mapped: bool = False
    rivals: tuple[str, ...] = ()

    def put(self, values: dict[str, object], value: object) -> None:
        """Store ``value``: a list grows, a map gets its entry, anything else is replaced; a oneof has one value."""
        if self.repeated:
            items = values.setdefault(self.name, [])
            assert isinstance(items, list)
            items.extend(value if isinstance(value, list) else [value])
        elif self.mapped:
            entries = values.setdefault(self.name, {})
            assert isinstance(entries, dict)
            assert isinstance(value, tuple)
            entries[value[0]] = value[1]
        else:
            values[self.name] = value
            for rival in self.rivals:
                values.pop(rival, None)


def decode(message_type: type[M], data: bytes) -> M:
    """The message in ``data``. InvalidArgument when it is no such message; ResourceExhausted when it is a bomb."""
    try:
        return _message(message_type, _Input(data), 0, len(data))
    except _TooManyFields:
        raise ResourceExhausted(f"the request has more than {MAX_FIELDS} fields") from None
    except _Malformed as error:
        raise InvalidArgument(f"the request is not a valid {message_type.__name__}: {error}") from None


def prepare(message_type: type[betterproto.Message]) -> None:
    """Work out now how ``message_type`` is read. TypeError when it has a field of a kind that is not known here."""
    _fields_of(message_type)


def _message(message_type: type[M], source: _Input, position: int, end: int) -> M:
    source.spend(_MESSAGE_COST)
    values: dict[str, object] = {}
    fields = _fields_of(message_type)
    while position < end:
        source.spend(1)
        tag, position = source.varint(position, end)
        number, wire_type = tag >> 3, tag & 7
        field = fields.get(number)
        if field is None:
            position = _skip(number, wire_type, source, position, end)
        elif wire_type == _VARINT and field.from_number is not None:
            plain, position = source.varint(position, end)
            field.put(values, field.from_number(plain))
        elif wire_type == _DELIMITED and field.from_bytes is not None:
            start, position = source.length(position, end)
            field.put(values, field.from_bytes(source, start, position))
        else:
            raise _Malformed(f"{field.name} has the wrong wire type")
    message = message_type(**values)
    # What betterproto.serialized_on_wire tells: this message was there, even if it is empty.
    vars(message)["_serialized_on_wire"] = True
    return message


def _skip(number: int, wire_type: int, source: _Input, position: int, end: int) -> int:
    """Where the unknown field at ``position`` ends: a newer caller may know more fields."""
    if number == 0:
        raise _Malformed("field number 0")
    if wire_type == _VARINT:
        return source.varint(position, end)[1]
    if wire_type == _DELIMITED:
        return source.length(position, end)[1]
    size = _FIXED_BYTES.get(wire_type)
    if size is None or size > end - position:
        raise _Malformed("an unknown field is cut off or of an unknown wire type")
    return position + size


@cache
def _fields_of(message_type: type[betterproto.Message]) -> dict[int, _Field]:
    """The fields of ``message_type`` by their numbers."""
    hints = typing.get_type_hints(message_type)
    metadata = {
        field.name: betterproto.FieldMetadata.get(field)
        for field in dataclasses.fields(message_type)  # type: ignore[arg-type]  # messages are dataclasses
    }
    fields: dict[int, _Field] = {}
    for name, meta in metadata.items():
        rivals = tuple(other for other, its in metadata.items() if meta.group and its.group == meta.group)
        fields[meta.number] = _field(name, meta, hints[name], tuple(other for other in rivals if other != name))
    return fields


def _field(name: str, meta: betterproto.FieldMetadata, hint: object, rivals: tuple[str, ...]) -> _Field:
    repeated = typing.get_origin(hint) is list
    item = typing.get_args(hint)[0] if repeated else hint
    if meta.proto_type == betterproto.TYPE_MAP:
        if meta.map_types != (betterproto.TYPE_STRING, betterproto.TYPE_STRING):
            raise TypeError(f"{name}: only maps of strings can be read")
        return _Field(name, None, _entry, mapped=True)
    if meta.proto_type == betterproto.TYPE_STRING:
        return _Field(name, None, _string, repeated, rivals=rivals)
    if meta.proto_type == betterproto.TYPE_MESSAGE and not meta.wraps:
        if not (isinstance(item, type) and issubclass(item, betterproto.Message)):
            raise TypeError(f"{name}: {item} cannot be read")
        return _Field(name, None, partial(_message, item), repeated, rivals=rivals)
    from_number = _number_reader(name, meta.proto_type, item)
    return _Field(name, from_number, partial(_packed, from_number) if repeated else None, repeated, rivals=rivals)


def _number_reader(name: str, proto_type: str, item: object) -> _FromNumber:
    if proto_type == betterproto.TYPE_BOOL:
        return bool
    if proto_type == betterproto.TYPE_INT64:
        return partial(_signed, 64)
    if proto_type == betterproto.TYPE_INT32:
        return partial(_signed, 32)
    if proto_type == betterproto.TYPE_ENUM:
        assert isinstance(item, type)
        assert issubclass(item, betterproto.Enum)
        enum = item
        # An unknown value stays an integer of that enum, with the name None: proto3 enums are open.
        return lambda number: enum.try_value(_signed(32, number))
    raise TypeError(f"{name}: fields of type {proto_type} cannot be read")


def _signed(bits: int, number: int) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def _string(source: _Input, start: int, end: int) -> str:
    try:
        return str(source.data[start:end], "utf-8")
    except UnicodeDecodeError:
        raise _Malformed("a string is not UTF-8") from None


def _packed(from_number: _FromNumber, source: _Input, start: int, end: int) -> list[object]:
    items: list[object] = []
    while start < end:
        source.spend(1)
        number, start = source.varint(start, end)
        items.append(from_number(number))
    return items


def _entry(source: _Input, start: int, end: int) -> tuple[str, str]:
    """A map's entry: a message with the key as field 1 and the value as field 2."""
    parts = ["", ""]
    while start < end:
        source.spend(1)
        tag, start = source.varint(start, end)
        number, wire_type = tag >> 3, tag & 7
        if number in (1, 2) and wire_type == _DELIMITED:
            begin, start = source.length(start, end)
            parts[number - 1] = _string(source, begin, start)
        else:
            start = _skip(number, wire_type, source, start, end)
    return parts[0], parts[1]
