"""What of a request may be seen: its fields for the log, with every secret stripped."""

import dataclasses
from functools import cache

import betterproto

from rds_csi.csi.secrets import SECRET_FIELDS

STRIPPED = "***stripped***"

# A shorter value is no secret, and looking for it would tear every text apart.
_MIN_SECRET_LENGTH = 4


def describe(message: betterproto.Message) -> dict[str, object]:
    """The fields of ``message`` that were set, nested messages as dicts, secrets stripped by the proto's marks."""
    secret = SECRET_FIELDS.get(type(message).__name__, frozenset())
    return {
        name: STRIPPED if name in secret else _plain(value)
        for name, value in _set_fields(message)
        if value not in ("", 0, [], {})
    }


def secret_values(message: betterproto.Message) -> frozenset[str]:
    """Every text in ``message`` that must not be told again, in the forms in which an error may quote it."""
    values: set[str] = set()
    secret = SECRET_FIELDS.get(type(message).__name__, frozenset())
    for name, value in _set_fields(message):
        for item in value if isinstance(value, list) else [value]:
            if name in secret:
                values.update(_texts(item))
            elif isinstance(item, betterproto.Message):
                values.update(secret_values(item))
    quoted = {repr(value)[1:-1] for value in values}
    lines = {line.strip() for value in values for line in value.splitlines()}
    return frozenset(value for value in values | quoted | lines if len(value) >= _MIN_SECRET_LENGTH)


def scrub(text: str, secrets: frozenset[str]) -> str:
    """``text`` with every one of ``secrets`` stripped, the longest first."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, STRIPPED)
    return text


@cache
def _names_of(message_type: type[betterproto.Message]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(message_type))  # type: ignore[arg-type]  # dataclasses


def _set_fields(message: betterproto.Message) -> list[tuple[str, object]]:
    """Names and values of the fields that are set: read past betterproto, which would fill in defaults."""
    values = vars(message)
    return [(name, values[name]) for name in _names_of(type(message)) if values[name] is not betterproto.PLACEHOLDER]


def _plain(value: object) -> object:
    if isinstance(value, betterproto.Message):
        return describe(value)
    if isinstance(value, betterproto.Enum):
        # An unknown value has no name.
        return value.name or int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _texts(value: object) -> set[str]:
    if isinstance(value, dict):
        return {str(item) for item in value.values()}
    return {str(value)}
