"""``:serialize to=json``: values as JSON, in pieces so that a long listing does not hold everybody up."""

import asyncio
import json
import re

from rds_csi.simulator.console.values import Function, Time, Value, checked_text
from rds_csi.simulator.menu import RouterosError
from rds_csi.simulator.versions import Version

# Entries of a listing that are written between two chances for other tasks.
_CHUNK = 250
_OPTIONS = {"json.pretty": (7, 16), "json.no-string-conversion": (7, 17)}
_MARKED = re.compile(r'"\\u0000(-?[0-9]+\.[0-9]{6})"')
_NUMERIC = re.compile(r"-?[0-9]{1,19}(?:\.[0-9]+)?")


def _other(value: object) -> str | None:
    return str(value) if isinstance(value, Time) else "(code)" if isinstance(value, Function) else None


_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_other, check_circular=False)
_PRETTY = json.JSONEncoder(ensure_ascii=False, indent=4, default=_other, check_circular=False)


def parse_options(text: str, version: Version) -> frozenset[str]:
    """The options of ``options=`` (comma list); RouterosError for one that this version does not know."""
    options = frozenset(filter(None, text.split(",")))
    for option in options:
        since = _OPTIONS.get(option)
        if since is None or not version.at_least(*since):
            raise RouterosError("input does not match any value of options")
    return options


async def to_json(value: Value, options: frozenset[str]) -> str:
    """The JSON text; without ``json.no-string-conversion`` strings that look like numbers become ``1234.000000``."""
    encoder = _PRETTY if "json.pretty" in options else _COMPACT
    keep = "json.no-string-conversion" in options
    if not isinstance(value, list | tuple) or len(value) <= _CHUNK or encoder is _PRETTY:
        return checked_text(_encoded(value, encoder, keep))
    pieces = []
    for start in range(0, len(value), _CHUNK):
        pieces.append(_encoded(list(value[start : start + _CHUNK]), encoder, keep)[1:-1])
        await asyncio.sleep(0)
    return checked_text(f"[{','.join(pieces)}]")


def _encoded(value: Value, encoder: json.JSONEncoder, keep: bool) -> str:
    if keep:
        return encoder.encode(value)
    return _MARKED.sub(r"\1", encoder.encode(_converted(value)))


def _converted(value: Value) -> object:
    """``value`` with every string that looks like a number marked; its quotes go once it is encoded."""
    if isinstance(value, str):
        return f"\0{float(value):.6f}" if _NUMERIC.fullmatch(value) else value
    if isinstance(value, dict):
        return {key: _converted(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_converted(entry) for entry in value]
    return value
