"""Values of the scripting language: their types, their text, and how text becomes a typed value."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from rds_csi.simulator.menu import RouterosError

# Characters of one string and leaves of one array: a doubling loop must end before the machine does.
MAX_TEXT = 64 * 1024 * 1024
MAX_LEAVES = 2_000_000


class Nothing(Enum):
    """The value of a command that returns none and of a variable that was never set."""

    NOTHING = "nothing"


NOTHING = Nothing.NOTHING


class ItemId(str):
    """An internal number such as ``*2B``; its type is ``id``, its text is itself."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class Time:
    """A duration; literals are ``1d2h3m4s5ms`` and ``02:03:04``."""

    milliseconds: int

    def __str__(self) -> str:
        seconds, rest = divmod(abs(self.milliseconds), 1000)
        days, seconds = divmod(seconds, 86400)
        weeks, days = divmod(days, 7)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        long = (f"{weeks}w" if weeks else "") + (f"{days}d" if days else "")
        sign = "-" if self.milliseconds < 0 else ""
        return f"{sign}{long}{hours:02}:{minutes:02}:{seconds:02}" + (f".{rest:03}" if rest else "")


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """What ``:local f do={…}`` holds: the block, kept opaque here."""

    block: object


# nil is None: a property that an item does not have, a search without a result.
# A list and what a menu hands out as a tuple are both arrays; a map is an array with keys.
Value: TypeAlias = "str | int | bool | Time | Nothing | Function | list[Value] | tuple[Value, ...] | Map | None"
Map: TypeAlias = "dict[str, Value]"

_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})")
_ID = re.compile(r"\*[0-9A-Fa-f]{1,16}")
_CLOCK = re.compile(r"(-?)([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]{1,3}))?")
_UNITS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:ms|[wdhms]))+")
_PART = re.compile(r"([0-9]+)(ms|[wdhms])")


def number_from(text: str) -> int | None:
    """The integer that ``text`` writes, decimal or 0x…; None when it is none."""
    if _NUMBER.fullmatch(text) is None:
        return None
    return wrapped(int(text, 16 if "x" in text or "X" in text else 10))


def time_from(text: str) -> Time | None:
    """The duration that ``text`` writes; None when it is none."""
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        sign, hours, minutes, seconds, part = clock.groups()
        total = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1000 + int((part or "0").ljust(3, "0"))
        return Time(-total if sign else total)
    if _DURATION.fullmatch(text) is None:
        return None
    return Time(sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(text)))


def id_from(text: str) -> ItemId | None:
    """The internal number that ``text`` writes (``*2b`` is ``*2B``); None when it is none."""
    return ItemId(text.upper()) if _ID.fullmatch(text) else None


def typed(text: str) -> Value:
    """What an unquoted word is: number, boolean, internal number, duration, else a string."""
    if text in ("true", "false"):
        return text == "true"
    number = number_from(text)
    if number is not None:
        return number
    identifier = id_from(text)
    if identifier is not None:
        return identifier
    time = time_from(text)
    return text if time is None else time


def wrapped(number: int) -> int:
    """``number`` as RouterOS's signed 64 bits hold it."""
    return (number + 2**63) % 2**64 - 2**63


def type_name(value: Value) -> str:
    """What ``:typeof`` says."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "id" if isinstance(value, ItemId) else "str"
    if value is None:
        return "nil"
    names = {int: "num", Time: "time", Nothing: "nothing", Function: "code"}
    return names.get(type(value), "array")


def to_text(value: Value) -> str:
    """The text that ``:put`` prints: arrays are flattened with ``;``, maps as ``key=value``."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value is NOTHING:
        return ""
    if isinstance(value, list | tuple):
        return ";".join(map(to_text, value))
    if isinstance(value, dict):
        return ";".join(f"{key}={to_text(entry)}" for key, entry in value.items())
    return "(code)" if isinstance(value, Function) else str(value)


def to_argument(value: Value) -> str:
    """The text that a menu's command gets: yes/no for booleans, commas between the entries of an array."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(to_argument, value))
    return to_text(value)


def to_number(value: Value) -> int | None:
    """``:tonum``: None when the value has no number."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, ItemId):
        return wrapped(int(value[1:], 16))
    if isinstance(value, str):
        return number_from(value)
    return value.milliseconds // 1000 if isinstance(value, Time) else None


def truth(value: Value) -> bool:
    """What a condition takes for true; anything but a boolean is refused."""
    if isinstance(value, bool):
        return value
    if value in ("true", "yes"):
        return True
    if value in ("false", "no"):
        return False
    raise RouterosError("conditional not boolean")


def checked_text(text: str) -> str:
    """``text``, unless it is longer than a device could hold."""
    if len(text) > MAX_TEXT:
        raise RouterosError("failure: not enough memory")
    return text


def checked_array(entries: list[Value]) -> list[Value]:
    """``entries``, unless they hold more leaves than a device could."""
    _count(entries, MAX_LEAVES)
    return entries


def _count(value: Value, left: int) -> int:
    """How many leaves may still follow after ``value``; the walk ends where the limit is met."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        left -= 1
    else:
        for entry in value:
            left = _count(entry, left - 1)
    if left < 0:
        raise RouterosError("failure: not enough memory")
    return left
