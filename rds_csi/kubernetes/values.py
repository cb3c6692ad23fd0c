"""JSON of the API as it is read: values by their path, where everything may be missing or of another type."""

from collections.abc import Mapping
from typing import TypeAlias

Json: TypeAlias = "Mapping[str, Json] | list[Json] | str | int | float | bool | None"
Object: TypeAlias = Mapping[str, Json]


def at(value: Json, *keys: str) -> Json:
    """The value below ``keys``; None when there is none."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def text(value: Json, *keys: str) -> str:
    """The text below ``keys``; "" when there is none."""
    found = at(value, *keys)
    return found if isinstance(found, str) else ""


def items(value: Json, *keys: str) -> list[Json]:
    """The list below ``keys``; empty when there is none."""
    found = at(value, *keys)
    return found if isinstance(found, list) else []
