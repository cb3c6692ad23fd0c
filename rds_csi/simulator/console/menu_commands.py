"""The commands of menus: which items are meant, what is printed of them, and what is done to them."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from rds_csi.simulator.console.host import Host
from rds_csi.simulator.console.nodes import Anchors, Frame, Node, Word
from rds_csi.simulator.console.operators import where_truth
from rds_csi.simulator.console.program import MenuCommand
from rds_csi.simulator.console.values import NOTHING, ItemId, Map, Value, to_argument, to_text
from rds_csi.simulator.menu import NO_SUCH_ITEM, ArgumentKind, Item, Menu, RouterosError
from rds_csi.simulator.menus.users import User
from rds_csi.simulator.printing import human, print_terse
from rds_csi.simulator.versions import PRINT_ARGUMENTS

_ID = re.compile(r"\*[0-9A-Fa-f]{1,16}|\*\*[0-9A-Fa-f]{1,16}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_INVALID_NUMBER = "invalid internal item number"
# Arguments of "print" that do not change which items there are, and are simulated; others of all menus are refused.
_GENERAL = frozenset(
    ("as-value", "brief", "count-only", "detail", "proplist", "show-sensitive", "terse", "without-paging")
)
_NOT_SIMULATED = {argument.name for argument in PRINT_ARGUMENTS} - _GENERAL - {"from", "where"}
_SENSITIVE = frozenset({"sensitive"})


class MenuCommands:
    """Runs the commands of one session; it remembers what the last ``print`` numbered."""

    def __init__(self, host: Host, user: User, write: Callable[[str], Awaitable[None]]) -> None:
        self._host = host
        self._user = user
        self._write = write
        self._numbered: dict[str, list[str]] = {}

    async def run(self, command: MenuCommand, frame: Frame) -> Value:
        """Does it; the value is what ``[ ]`` around the command would give."""
        menu = command.menu
        self._host.authorize(self._user, menu, command.name)
        kinds = menu.arguments(command.name) or {}
        targets = [name for name in command.arguments if kinds.get(name) is ArgumentKind.ITEMS]
        items = [await self._items_of(menu, command.arguments[name], frame) for name in targets]
        chosen = items[0] if items else None
        values = {name: await _argument(node, frame) for name, node in command.arguments.items() if name not in targets}
        if command.name == "print":
            return await self._print(command, chosen, values, frame)
        if command.name == "find":
            return [ItemId(item.id) for item in await self._matching(command, menu.items, frame)]
        if command.name == "get":
            return self._get(menu, chosen, values)
        _check_choices(command, values)
        return await self._change(command, chosen, values)

    # Which items.

    async def _items_of(self, menu: Menu, node: Node, frame: Frame) -> list[str]:
        value: Value = node.text if isinstance(node, Word) else await node.evaluate(frame)
        if isinstance(value, list | tuple):
            return [item_id for entry in value for item_id in self._ids(menu, to_text(entry))]
        if isinstance(value, ItemId) or not isinstance(value, str):
            return self._ids(menu, to_text(value))
        if self._named(menu, value):
            return self._ids(menu, value)
        return [item_id for entry in value.split(",") for item_id in self._ids(menu, entry)]

    def _ids(self, menu: Menu, text: str) -> list[str]:
        if text.startswith("*"):
            if _ID.fullmatch(text) is None:
                raise RouterosError(_INVALID_NUMBER)
            item = menu.item(text)
            found = [] if item is None else [item.id]
        else:
            found = self._named(menu, text)
            numbers = self._numbered.get(menu.path, [])
            if not found and _NUMBER.fullmatch(text) and int(text) < len(numbers):
                return self._ids(menu, numbers[int(text)])
        if not found:
            raise RouterosError(NO_SUCH_ITEM)
        return found

    @staticmethod
    def _named(menu: Menu, text: str) -> list[str]:
        if not text:
            return []
        for naming in ("slot", "name"):
            candidates = menu.lookup(naming, text)
            if candidates is not None and any(menu.name_of(item) == text for item in candidates):
                return [item.id for item in candidates if menu.name_of(item) == text]
        return [item.id for item in menu.items() if menu.name_of(item) == text]

    async def _matching(
        self, command: MenuCommand, items: Callable[[], Sequence[Item]], frame: Frame, *, narrowed: bool = False
    ) -> Sequence[Item]:
        """Those of ``items`` for which the condition holds; ``narrowed`` says that they are not all of the menu."""
        if command.condition is None:
            return items()
        bound = await command.condition.bind(frame, command.properties)
        found = (_candidates(command.menu, anchors) for anchors in bound.anchors)
        candidates = next((each for each in found if each is not None), None)
        if candidates is None or narrowed:
            candidates = items()
        get = bound.get
        return [item for item in candidates if where_truth(get(item))]

    # Reading.

    async def _print(
        self, command: MenuCommand, chosen: Sequence[str] | None, values: Mapping[str, str], frame: Frame
    ) -> Value:
        menu = command.menu
        given = {**values, **dict.fromkeys(command.flags, "yes")}
        for name in sorted(_NOT_SIMULATED.intersection(given)):
            raise RouterosError(f"failure: {menu.path} print {name} is not simulated")
        narrowed = chosen is not None or not _GENERAL.issuperset(given)

        def listed() -> Sequence[Item]:
            items = menu.select(given)
            return items if chosen is None else [item for item in items if item.id in chosen]

        items = await self._matching(command, listed, frame, narrowed=narrowed)
        if "count-only" in command.flags:
            await self._say("" if "as-value" in command.flags else str(len(items)))
            return len(items)
        shown = _properties_of(menu, values.get("proplist", ""))
        hidden = self._hidden(menu)
        if "as-value" in command.flags:
            rows = [_row(item, shown, hidden) for item in items]
            return rows[0] if menu.singleton and rows else list[Value](rows)
        self._numbered[menu.path] = [item.id for item in items]
        if shown is not None or hidden:
            items = [_reduced(item, shown, hidden) for item in items]
        if "terse" in command.flags:
            text = print_terse(menu, items)
        else:
            detail, old = "detail" in command.flags, not self._host.version.at_least(7, 24)
            text = human(menu, items, detail=detail, wide_flags=old)
        await self._say(text)
        return NOTHING

    async def _say(self, text: str) -> None:
        if text:
            await self._write(text.rstrip("\r\n"))

    def _hidden(self, menu: Menu) -> frozenset[str]:
        """The properties that this user does not get to see."""
        if not menu.sensitive:
            return menu.sensitive
        try:
            self._host.require(self._user, _SENSITIVE)
        except RouterosError:
            return menu.sensitive
        return frozenset()

    def _get(self, menu: Menu, chosen: Sequence[str] | None, values: Mapping[str, str]) -> Value:
        item = menu.items()[0] if menu.singleton else _single(menu, chosen)
        hidden = self._hidden(menu)
        name = values.get("value-name", "")
        if not name:
            return _row(item, None, hidden)
        if name == ".id":
            return ItemId(item.id)
        if name not in item.values and name not in menu.properties:
            raise RouterosError("input does not match any value of value-name")
        value = None if name in hidden else item.values.get(name)
        return NOTHING if value is None else value

    # Changing.

    async def _change(self, command: MenuCommand, chosen: Sequence[str] | None, values: Mapping[str, str]) -> Value:
        menu = command.menu
        if chosen is None and self._needs_items(command):
            raise RouterosError("missing value(s) of argument(s) numbers")
        if command.name == "add":
            return ItemId(await menu.add(values))
        if command.name == "set":
            for item_id in ("",) if menu.singleton else chosen or ():
                await menu.set(item_id, values)
        elif command.name == "remove":
            for item_id in chosen or ():
                await menu.remove(item_id)
        else:
            return await self._special(command, chosen or (), values)
        return NOTHING

    @staticmethod
    def _needs_items(command: MenuCommand) -> bool:
        kinds = command.menu.arguments(command.name) or {}
        return ArgumentKind.ITEMS in kinds.values()

    async def _special(self, command: MenuCommand, chosen: Sequence[str], values: Mapping[str, str]) -> Value:
        """A command of the menu's own: text that it gives is printed, unless ``[ ]`` wants it as a value."""
        given = {**values, **dict.fromkeys(command.flags, "yes")}
        result = await command.menu.run(command.name, chosen, given)
        if result is None:
            return NOTHING
        if isinstance(result, str):
            if "as-value" not in command.flags:
                await self._say(result)
            return result
        return _imported(result)


async def _argument(node: Node, frame: Frame) -> str:
    return node.text if isinstance(node, Word) else to_argument(await node.evaluate(frame))


def _candidates(menu: Menu, anchors: Anchors) -> Sequence[Item] | None:
    """What the menu's indexes find for the anchors, in print order; None when only a look at every item helps."""
    found: dict[str, Item] = {}
    for name, value in anchors:
        items = menu.lookup(name, value)
        if items is None:
            return None
        found.update((item.id, item) for item in items)
    # Ids are given in the order in which items are listed.
    return sorted(found.values(), key=lambda item: int(item.id.lstrip("*") or "0", 16))


def _check_choices(command: MenuCommand, values: Mapping[str, str]) -> None:
    menu, name = command.menu, command.name
    missing = [argument for argument in menu.required(name) if argument not in values]
    if missing:
        raise RouterosError(f"missing value(s) of argument(s) {' '.join(missing)}")
    for argument, value in values.items():
        choices = menu.choices(name, argument)
        if choices and value not in choices:
            raise RouterosError(f"input does not match any value of {argument}")


def _properties_of(menu: Menu, proplist: str) -> list[str] | None:
    if not proplist:
        return None
    names = proplist.split(",")
    known = menu.properties
    if any(name != ".id" and name not in known for name in names):
        raise RouterosError("input does not match any value of proplist")
    return names


def _row(item: Item, shown: Sequence[str] | None, hidden: frozenset[str]) -> Map:
    row: Map = {".id": ItemId(item.id)} if item.id else {}
    if shown is not None:
        values = item.values
        row.update((name, values[name]) for name in shown if values.get(name) is not None and name not in hidden)
        return row
    for name, value in item.values.items():
        if value is not None and name not in hidden:
            row[name] = value
    return row


def _reduced(item: Item, shown: Sequence[str] | None, hidden: frozenset[str]) -> Item:
    names = item.values if shown is None else shown
    return Item(item.id, {name: item.values.get(name) for name in names if name not in hidden})


def _single(menu: Menu, chosen: Sequence[str] | None) -> Item:
    if chosen is None:
        raise RouterosError("missing value(s) of argument(s) number")
    item = menu.item(chosen[0]) if chosen else None
    if item is None:
        raise RouterosError(NO_SUCH_ITEM)
    if len(chosen) > 1:
        raise RouterosError(_INVALID_NUMBER)
    return item


def _imported(result: object) -> Value:
    """What a menu's own command gave, as a value of the language."""
    if isinstance(result, str | int) or result is None:
        return result
    if isinstance(result, Mapping):
        return {str(key): _imported(value) for key, value in result.items()}
    if isinstance(result, Iterable):
        return [_imported(entry) for entry in result]
    return str(result)
