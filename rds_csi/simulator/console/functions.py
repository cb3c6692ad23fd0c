"""Global commands that only compute: ``:len``, ``:typeof``, ``:pick``, ``:find`` and the conversions."""

from collections.abc import Callable, Mapping

from rds_csi.simulator.console.operators import equal
from rds_csi.simulator.console.values import (
    NOTHING,
    Time,
    Value,
    id_from,
    time_from,
    to_number,
    to_text,
    type_name,
)
from rds_csi.simulator.menu import RouterosError

Arguments = Mapping[str, Value]


def _len(arguments: Arguments) -> Value:
    value = arguments["value"]
    if isinstance(value, list | tuple | dict):
        return len(value)
    # RouterOS counts bytes.
    return len(to_text(value).encode("utf-8", "surrogatepass"))


def _tonum(arguments: Arguments) -> Value:
    value = arguments["value"]
    return int(value) if isinstance(value, bool) else to_number(value)


def _tobool(arguments: Arguments) -> Value:
    value = arguments["value"]
    if isinstance(value, int):
        return value != 0
    return {"true": True, "yes": True, "false": False, "no": False}.get(to_text(value))


def _totime(arguments: Arguments) -> Value:
    value = arguments["value"]
    if isinstance(value, int) and not isinstance(value, bool):
        return Time(value * 1000)
    return value if isinstance(value, Time) else time_from(to_text(value))


def _toarray(arguments: Arguments) -> Value:
    value = arguments["value"]
    if isinstance(value, list | tuple | dict):
        return value
    if isinstance(value, str):
        return list(value.split(",")) if value else []
    return [] if value is None or value is NOTHING else [value]


def _position(value: Value, default: int) -> int:
    if value is NOTHING or value is None:
        return default
    number = to_number(value)
    if number is None:
        raise RouterosError("invalid value for argument begin")
    return number


def _pick(arguments: Arguments) -> Value:
    value, begin = arguments["counter"], max(0, _position(arguments["begin"], 0))
    end = _position(arguments.get("end", NOTHING), begin + 1)
    if isinstance(value, dict):
        return dict(list(value.items())[begin:end])
    if isinstance(value, list | tuple):
        if "end" not in arguments:
            return value[begin] if begin < len(value) else NOTHING
        return list(value[begin:end])
    return to_text(value)[begin:end]


def _find(arguments: Arguments) -> Value:
    where, what = arguments["where"], arguments["what"]
    after = _position(arguments.get("from", NOTHING), -1)
    if isinstance(where, list | tuple):
        for position, entry in enumerate(where):
            if position > after and equal(entry, what):
                return position
        return None
    found = to_text(where).find(to_text(what), max(0, after + 1))
    return None if found < 0 else found


FUNCTIONS: Mapping[str, Callable[[Arguments], Value]] = {
    "len": _len,
    "typeof": lambda arguments: type_name(arguments["value"]),
    "tostr": lambda arguments: to_text(arguments["value"]),
    "tonum": _tonum,
    "tobool": _tobool,
    "toid": lambda arguments: id_from(to_text(arguments["value"])),
    "totime": _totime,
    "toarray": _toarray,
    "pick": _pick,
    "find": _find,
    "nothing": lambda _arguments: NOTHING,
}
