"""What each REST request does to the menus. Source: manual, REST API; labs on 7.21 to 7.24 for the refusals."""

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rds_csi.simulator.consoles import Consoles
from rds_csi.simulator.device import Device
from rds_csi.simulator.http import Reply, Request
from rds_csi.simulator.menu import ArgumentKind, Item, Menu, RouterosError
from rds_csi.simulator.menus.users import User
from rds_csi.simulator.rest_values import (
    BAD_IDENTIFIER,
    RestError,
    argument,
    as_object,
    is_text,
    item_of,
    items_of,
    json_reply,
    parse_body,
    proplist,
    queried,
    query_of,
)

PREFIX = "/rest/"
_EXECUTE = ["execute"]
_NO_CONTENT = Reply(204)
# Arguments of a request that are not the command's.
_META = frozenset({".id", ".proplist", ".query"})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a path leads: a menu, and what follows its name."""

    menu: Menu
    rest: tuple[str, ...]


class RestCommands:
    """The requests of users that were let in; RestError is the refusal of any of them."""

    def __init__(self, device: Device, consoles: Consoles) -> None:
        self._device = device
        self._consoles = consoles

    async def answer(self, user: User, request: Request) -> Reply:
        """Do what the request says; the reply, refusals included."""
        try:
            return await self._answer(user, request)
        except RestError as error:
            return error.reply()
        except RouterosError as error:
            return RestError(500 if error.text.endswith("(9)") else 400, error.text).reply()

    async def _answer(self, user: User, request: Request) -> Reply:
        path, _, query = request.target.partition("?")
        body = parse_body(request.body, request.headers.get("content-type", ""))
        segments = _segments(path)
        if segments == _EXECUTE and request.method == "POST":
            return await self._execute(user, body)
        place = self._place(segments)
        if request.method == "GET":
            return self._get(user, place, query)
        if request.method == "PUT":
            return await self._put(user, place, body)
        if request.method == "PATCH":
            return await self._patch(user, place, body)
        if request.method == "DELETE":
            return await self._delete(user, place)
        if request.method == "POST":
            return await self._post(user, place, body)
        raise RestError(400, "unknown method")

    def _place(self, segments: Sequence[str]) -> _Place:
        for length in range(len(segments), 0, -1):
            menu = self._device.menus.get("/" + "/".join(segments[:length]))
            if menu is not None:
                return _Place(menu, tuple(segments[length:]))
        known = [part for path in self._device.menus for part in path.split("/")]
        unknown = next((segment for segment in segments if segment not in known), segments[-1])
        raise RestError(400, f"no such command or directory ({unknown})")

    # Reading.

    def _get(self, user: User, place: _Place, query: str) -> Reply:
        menu = place.menu
        wanted = _single(place) if place.rest else ""
        self._device.authorize(user, menu, "print")
        filters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        shown = proplist(filters.pop(".proplist", ""))
        if shown is not None and ".id" not in shown:
            shown.insert(0, ".id")
        hidden = self._hidden(user, menu)
        if wanted:
            item = item_of(menu, wanted)
            if item is None:
                raise RestError(404)
            return json_reply(200, as_object(item, shown=shown, hidden=hidden))
        if menu.singleton:
            return json_reply(200, as_object(menu.items()[0], shown=shown, hidden=hidden))
        objects = [(as_object(item, hidden=hidden), item) for item in _narrowed(menu, filters)]
        met = [item for values, item in objects if filters.items() <= values.items()]
        return json_reply(200, [as_object(item, shown=shown, hidden=hidden) for item in met])

    def _print(self, user: User, menu: Menu, body: Mapping[str, object]) -> Reply:
        arguments = _arguments(menu, "print", body)
        hidden = self._hidden(user, menu)
        shown = proplist(body.get(".proplist"))
        query = body.get(".query")
        meets = query_of(query)
        items = menu.select(arguments)
        ids = body.get(".id")
        if ids is not None:
            wanted = {item.id for item in items_of(menu, argument(".id", ids))}
            items = [item for item in items if item.id in wanted]
        asked = queried(query)
        met = [item for item in items if meets(as_object(item, shown=asked, hidden=hidden))]
        if "count-only" in arguments:
            return json_reply(200, {"ret": str(len(met))})
        objects = [as_object(item, shown=shown, hidden=hidden) for item in met]
        return json_reply(200, objects[0] if menu.singleton else objects)

    def _hidden(self, user: User, menu: Menu) -> frozenset[str]:
        return frozenset() if "sensitive" in user.policies else menu.sensitive

    # Changing.

    async def _put(self, user: User, place: _Place, body: Mapping[str, object]) -> Reply:
        menu = place.menu
        if place.rest or menu.arguments("add") is None:
            raise RestError(400, f"no such command or directory ({place.rest[0] if place.rest else 'add'})")
        self._device.authorize(user, menu, "add")
        item_id = await menu.add(_complete(menu, "add", body))
        item = menu.item(item_id)
        location = ("Location", f"{PREFIX.rstrip('/')}{menu.path}/{item_id}")
        return json_reply(201, {".id": item_id} if item is None else self._shown(user, menu, item), location)

    async def _patch(self, user: User, place: _Place, body: Mapping[str, object]) -> Reply:
        menu = place.menu
        arguments = _arguments(menu, "set", body)
        item = item_of(menu, _single(place))
        try:
            self._device.authorize(user, menu, "set")
            if item is None:
                raise RestError(400, BAD_IDENTIFIER)
            await menu.set(item.id, arguments)
        except RouterosError:
            # A wrong id, a refused value and a missing policy all look the same here.
            raise RestError(400, BAD_IDENTIFIER) from None
        changed = menu.item(item.id)
        return json_reply(200, {".id": item.id} if changed is None else self._shown(user, menu, changed))

    async def _delete(self, user: User, place: _Place) -> Reply:
        menu = place.menu
        item = item_of(menu, _single(place))
        try:
            self._device.authorize(user, menu, "remove")
            if item is None or menu.arguments("remove") is None:
                raise RestError(400, BAD_IDENTIFIER)
            await menu.remove(item.id)
        except RouterosError:
            raise RestError(400, BAD_IDENTIFIER) from None
        return _NO_CONTENT

    async def _post(self, user: User, place: _Place, body: Mapping[str, object]) -> Reply:
        menu = place.menu
        command = place.rest[0] if place.rest else ""
        if len(place.rest) != 1 or menu.arguments(command) is None:
            raise RestError(400, f"no such command or directory ({command or menu.path.rpartition('/')[2]})")
        self._device.authorize(user, menu, command)
        if command == "print":
            return self._print(user, menu, body)
        arguments = _complete(menu, command, body)
        if command == "add":
            return json_reply(200, {"ret": await menu.add(arguments)})
        ids = [item.id for item in _meant(menu, command, body)]
        if command == "set":
            for item_id in ("",) if menu.singleton else ids:
                await menu.set(item_id, arguments)
        elif command == "remove":
            for item_id in ids:
                await menu.remove(item_id)
        else:
            return _result(await menu.run(command, ids, arguments))
        return json_reply(200, [])

    def _shown(self, user: User, menu: Menu, item: Item) -> dict[str, str]:
        return as_object(item, hidden=self._hidden(user, menu))

    async def _execute(self, user: User, body: Mapping[str, object]) -> Reply:
        unknown = body.keys() - {"script", "as-string", "file"}
        if unknown:
            raise RestError(400, f"unknown parameter {sorted(unknown)[0]}")
        script = body.get("script")
        if not isinstance(script, str) or not is_text(script):
            raise RestError(400, "missing =script=")
        console = self._consoles.open(user)
        if "as-string" in body:
            # Errors are text of the reply, and the status is 200 all the same.
            return json_reply(200, {"ret": await console.execute(script)})
        return json_reply(200, {"ret": await console.start(script)})


def _segments(path: str) -> list[str]:
    """The names in a path below /rest; RestError for one that is elsewhere, or whose star is encoded."""
    raw = path.removeprefix(PREFIX).strip("/").split("/") if path.startswith(PREFIX) else [""]
    if any("%2a" in segment.lower() for segment in raw):
        raise RestError(400, "no such command prefix")
    if not raw[0]:
        raise RestError(404)
    return [urllib.parse.unquote(segment) for segment in raw]


def _single(place: _Place) -> str:
    if len(place.rest) != 1:
        raise RestError(400, f"no such command or directory ({place.rest[0]})" if place.rest else BAD_IDENTIFIER)
    return place.rest[0]


def _narrowed(menu: Menu, filters: Mapping[str, str]) -> Sequence[Item]:
    """By an index where the menu has one."""
    for name, value in filters.items():
        found = menu.lookup(name, value)
        if found is not None:
            return found
    return menu.select({})


def _arguments(menu: Menu, command: str, body: Mapping[str, object]) -> dict[str, str]:
    """The arguments of the command itself, as texts; RestError for one that it does not know."""
    kinds = menu.arguments(command)
    if kinds is None:
        raise RestError(400, f"no such command or directory ({command})")
    given: dict[str, str] = {}
    for name, value in body.items():
        kind = kinds.get(name)
        if name in _META or kind is ArgumentKind.ITEMS:
            continue
        if kind is None or kind is ArgumentKind.CONDITION:
            raise RestError(400, f"unknown parameter {name}")
        text = argument(name, value)
        if kind is ArgumentKind.BOOLEAN:
            text = {"true": "yes", "false": "no"}.get(text, text)
        if kind is ArgumentKind.FLAG and text in {"no", "false"}:
            continue
        given[name] = text
    return given


def _complete(menu: Menu, command: str, body: Mapping[str, object]) -> dict[str, str]:
    """The arguments, checked as the console checks them before the menu does."""
    given = _arguments(menu, command, body)
    for name in menu.required(command):
        if name not in given:
            raise RestError(400, f"missing ={name}=")
    for name, value in given.items():
        choices = menu.choices(command, name)
        if choices and value not in choices:
            raise RestError(400, f"input does not match any value of {name}")
    return given


def _meant(menu: Menu, command: str, body: Mapping[str, object]) -> Sequence[Item]:
    """The items that ``.id`` or ``numbers`` names."""
    kinds = menu.arguments(command) or {}
    names = [name for name, kind in kinds.items() if kind is ArgumentKind.ITEMS]
    given = [body[name] for name in (".id", *names) if name in body]
    if not given:
        if names and not menu.singleton:
            raise RestError(400, "missing =.id=")
        return ()
    return items_of(menu, argument(".id", given[0]))


def _result(result: object) -> Reply:
    if result is None:
        return json_reply(200, [])
    if isinstance(result, Mapping):
        return json_reply(200, {str(name): argument(str(name), value) for name, value in result.items()})
    return json_reply(200, {"ret": str(result)})
