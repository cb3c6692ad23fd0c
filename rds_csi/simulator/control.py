"""The control endpoint: what a test does to the device behind the driver's back. Plain HTTP, JSON, loopback only.

| request | does |
|---|---|
| GET /faults | the waiting faults, and how often each kind has struck |
| POST /faults | adds one: {"kind", "match", "times", "seconds", "skip"} |
| DELETE /faults | clears them; ?kind=… only those of a kind |
| GET /counters, DELETE /counters | what was counted; count from zero |
| POST /reboot | {"seconds"}: nobody is let in for so long |
| GET /state | every menu's items; ?menu=/disk only that one's |
| POST /add | {"menu", "values"}: adds an item; its id |
| POST /set | {"menu", "item", "values"}: changes one, by id or name |
| POST /remove | {"menu", "item"} |

Values are texts, as on the console. Errors: {"error": "…"} with status 400 or 404.
"""

import json
import math
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping

from rds_csi.simulator.context import Context
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.http import Reply, Request
from rds_csi.simulator.http_server import HttpServer
from rds_csi.simulator.menu import Menu, RouterosError
from rds_csi.simulator.rest_values import RestError, argument, as_object, item_of, json_reply

_Body = Mapping[str, object]


class _Wrong(Exception):
    """The request cannot be understood."""


class ControlServer:
    """HTTP in front of faults, counters and menus, without users: whoever reaches it may do everything."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._http = HttpServer(self._handle)
        self._doing: dict[str, Callable[[_Body, Mapping[str, str]], Awaitable[object]]] = {
            "GET /faults": self._list_faults,
            "POST /faults": self._add_fault,
            "DELETE /faults": self._clear_faults,
            "GET /counters": self._count,
            "DELETE /counters": self._count_anew,
            "POST /reboot": self._reboot,
            "GET /state": self._dump,
            "POST /add": self._add,
            "POST /set": self._set,
            "POST /remove": self._remove,
        }

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        return await self._http.start(host, port)

    async def close(self) -> None:
        """Listen no more."""
        await self._http.close()

    async def _handle(self, request: Request) -> Reply:
        path, _, query = request.target.partition("?")
        do = self._doing.get(f"{request.method} {path}")
        if do is None:
            return json_reply(404, {"error": f"there is no {request.method} {path}; there are {sorted(self._doing)}"})
        try:
            body = json.loads(request.body or b"{}")
            if not isinstance(body, dict):
                raise _Wrong("the body is not a JSON object")
            return json_reply(200, await do(body, dict(urllib.parse.parse_qsl(query))))
        except RecursionError:
            return json_reply(400, {"error": "the body is nested too deeply"})
        except RestError as error:
            return json_reply(400, {"error": error.detail})
        except (_Wrong, ValueError, OverflowError) as error:
            return json_reply(400, {"error": str(error)})
        except RouterosError as error:
            return json_reply(400, {"error": error.text})

    async def _list_faults(self, _body: _Body, _query: Mapping[str, str]) -> object:
        faults = self._context.faults
        return {
            "waiting": [_shown(fault) for fault in faults.waiting],
            "hits": {kind.value: count for kind, count in faults.hits.items()},
        }

    async def _add_fault(self, body: _Body, _query: Mapping[str, str]) -> object:
        fault = _fault(body)
        self._context.faults.add(fault)
        return _shown(fault)

    async def _clear_faults(self, _body: _Body, query: Mapping[str, str]) -> object:
        self._context.faults.clear(_kind(query["kind"]) if "kind" in query else None)
        return {}

    async def _count(self, _body: _Body, _query: Mapping[str, str]) -> object:
        return self._context.counters.as_dict()

    async def _count_anew(self, _body: _Body, _query: Mapping[str, str]) -> object:
        self._context.counters.reset()
        return {}

    async def _reboot(self, body: _Body, _query: Mapping[str, str]) -> object:
        self._context.reboot(_number(body, "seconds"))
        return {}

    async def _dump(self, _body: _Body, query: Mapping[str, str]) -> object:
        menus = [self._menu(query)] if "menu" in query else self._context.device.menus.values()
        return {menu.path: [as_object(item) for item in menu.items()] for menu in menus}

    async def _add(self, body: _Body, _query: Mapping[str, str]) -> object:
        return {".id": await self._menu(body).add(_values(body))}

    async def _set(self, body: _Body, _query: Mapping[str, str]) -> object:
        menu = self._menu(body)
        await menu.set(_item(menu, body), _values(body))
        return {}

    async def _remove(self, body: _Body, _query: Mapping[str, str]) -> object:
        menu = self._menu(body)
        await menu.remove(_item(menu, body))
        return {}

    def _menu(self, where: Mapping[str, object]) -> Menu:
        menu = self._context.device.menus.get(str(where.get("menu", "")))
        if menu is None:
            raise _Wrong(f"no such menu; there are {', '.join(sorted(self._context.device.menus))}")
        return menu


def _item(menu: Menu, body: _Body) -> str:
    if menu.singleton:
        return ""
    item = item_of(menu, str(body.get("item", "")))
    if item is None:
        raise RouterosError("no such item")
    return item.id


def _values(body: _Body) -> dict[str, str]:
    values = body.get("values", {})
    if not isinstance(values, dict):
        raise _Wrong("values is not an object")
    return {str(name): argument(str(name), value) for name, value in values.items()}


def _fault(body: _Body) -> Fault:
    unknown = body.keys() - {"kind", "match", "times", "seconds", "skip"}
    if unknown:
        raise _Wrong(f"a fault has no {', '.join(sorted(unknown))}")
    return Fault(
        kind=_kind(body.get("kind")),
        match=str(body.get("match", "")),
        times=_whole(body, "times", 1),
        seconds=_number(body, "seconds"),
        skip=_whole(body, "skip", 0),
    )


def _kind(name: object) -> FaultKind:
    try:
        return FaultKind(name)
    except ValueError:
        raise _Wrong(f"no such kind of fault; there are {', '.join(kind.value for kind in FaultKind)}") from None


def _number(body: _Body, name: str) -> float:
    value = body.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise _Wrong(f"{name} is not a number from 0 on")
    return float(value)


def _whole(body: _Body, name: str, default: int) -> int:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _Wrong(f"{name} is not a whole number from 0 on")
    return value


def _shown(fault: Fault) -> dict[str, object]:
    return {
        "kind": fault.kind.value,
        "match": fault.match,
        "times": fault.times,
        "seconds": fault.seconds,
        "skip": fault.skip,
    }
