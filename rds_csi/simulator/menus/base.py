"""What all menus share: the commands that RouterOS gives to every one, and a menu that is a plain table."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

from rds_csi.simulator.menu import NO_SUCH_ITEM, ArgumentKind, Flag, Item, RouterosError, Value
from rds_csi.simulator.versions import PRINT_ARGUMENTS, Version, kinds

Arguments = Mapping[str, ArgumentKind]

_ITEMS = {"numbers": ArgumentKind.ITEMS}
_READ, _WRITE = frozenset({"read"}), frozenset({"write"})
READING = frozenset({"print", "get", "find", "export", "head", "tail", "read"})


class BaseMenu(ABC):
    """A menu with nothing in it yet: subclasses say what their items are and which commands they have.

    ``commands`` are the arguments of each command besides print, get and find, which every menu has.
    """

    path = ""
    singleton = False
    sensitive: frozenset[str] = frozenset()
    flags: tuple[Flag, ...] = ()
    columns: tuple[str, ...] = ()
    always: frozenset[str] = frozenset()
    """Properties that are known although no item may have them just now."""

    def __init__(self, version: Version, commands: Mapping[str, Arguments]) -> None:
        self._version = version
        self._commands: dict[str, Arguments] = {
            "print": kinds(PRINT_ARGUMENTS, version),
            "get": {**({} if self.singleton else _ITEMS), "value-name": ArgumentKind.TEXT},
            "export": {"terse": ArgumentKind.FLAG, "show-sensitive": ArgumentKind.FLAG},
        }
        if not self.singleton:
            self._commands["find"] = {"where": ArgumentKind.CONDITION}
        self._commands.update(commands)

    @property
    def properties(self) -> frozenset[str]:
        settable = (self._commands.get("set") or {}).keys() - {"numbers"}
        return frozenset(name for item in self.items() for name in item.values) | settable | self.always

    def commands(self) -> tuple[str, ...]:
        return tuple(sorted(self._commands))

    def arguments(self, command: str) -> Arguments | None:
        return self._commands.get(command)

    def choices(self, command: str, argument: str) -> tuple[str, ...]:  # noqa: ARG002 - most menus have none
        return ()

    def required(self, command: str) -> tuple[str, ...]:  # noqa: ARG002 - most commands need none
        return ()

    def policies(self, command: str) -> frozenset[str]:
        return _READ if command in READING else _WRITE

    @abstractmethod
    def items(self) -> Sequence[Item]:
        """All items, in print order."""

    def select(self, arguments: Mapping[str, str]) -> Sequence[Item]:  # noqa: ARG002 - only /file print has some
        return self.items()

    def item(self, item_id: str) -> Item | None:
        wanted = item_id.upper()
        return next((item for item in self.items() if item.id == wanted), None)

    def lookup(self, property: str, value: str) -> Sequence[Item] | None:  # noqa: ARG002 - small menus have no index
        return None

    def name_of(self, item: Item) -> str:
        name = item.values.get("name", "")
        return name if isinstance(name, str) else ""

    async def add(self, values: Mapping[str, str]) -> str:
        raise RouterosError(f"bad command name add ({self.path} of {len(values)} values)")

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        raise RouterosError(f"bad command name set ({self.path} {item_id} of {len(values)} values)")

    async def remove(self, item_id: str) -> None:
        raise RouterosError(f"bad command name remove ({self.path} {item_id})")

    async def run(self, command: str, item_ids: Sequence[str], values: Mapping[str, str]) -> object:
        """enable, disable and comment are ``set`` in other words; what is left is not simulated, and says so."""
        shorthand: dict[str, Mapping[str, str]] = {
            "enable": {"disabled": "no"},
            "disable": {"disabled": "yes"},
            "comment": {"comment": values.get("comment", "")},
        }
        if command not in shorthand:
            raise RouterosError(f"failure: {self.path} {command} is not simulated")
        for item_id in item_ids:
            await self.set(item_id, shorthand[command])
        return None


def editing(properties: Arguments, *, add: bool = True, remove: bool = True) -> dict[str, Arguments]:
    """The commands of a menu whose items take these properties."""
    commands: dict[str, Arguments] = {
        "set": {**_ITEMS, **properties},
        "edit": {**_ITEMS, "value-name": ArgumentKind.TEXT},
    }
    if add:
        commands["add"] = dict(properties)
    if remove:
        commands["remove"] = dict(_ITEMS)
    if "disabled" in properties:
        commands["enable"] = commands["disable"] = dict(_ITEMS)
    if "comment" in properties:
        commands["comment"] = {**_ITEMS, "comment": ArgumentKind.TEXT}
    return commands


class Ids:
    """Ids as RouterOS gives them: ``*1``, ``*2``, … ``*2B``; none is given twice."""

    def __init__(self, first: int = 1) -> None:
        self._next = first

    def take(self) -> str:
        self._next += 1
        return f"*{self._next - 1:X}"


class SingletonMenu(BaseMenu):
    """One set of properties, computed at each look."""

    singleton = True

    def __init__(
        self, path: str, version: Version, look: Callable[[], Mapping[str, Value]], properties: Arguments | None = None
    ) -> None:
        super().__init__(version, {} if properties is None else {"set": properties})
        self.path = path
        self._look = look
        self._set: dict[str, Value] = {}

    def items(self) -> Sequence[Item]:
        return (Item("", {**self._look(), **self._set}),)

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:  # noqa: ARG002 - there is but one
        kinds_known = self.arguments("set") or {}
        self._set.update({name: typed(name, value, kinds_known.get(name)) for name, value in values.items()})


class TableMenu(BaseMenu):
    """Items that hold what they were given: for menus without a life of their own."""

    def __init__(
        self, path: str, version: Version, commands: Mapping[str, Arguments], *, columns: Iterable[str]
    ) -> None:
        super().__init__(version, commands)
        self.path = path
        self.columns = tuple(columns)
        self._ids = Ids()
        self._items: dict[str, Item] = {}

    def items(self) -> Sequence[Item]:
        return tuple(self._items.values())

    def item(self, item_id: str) -> Item | None:
        return self._items.get(item_id.upper())

    def put(self, values: Mapping[str, Value]) -> Item:
        """Add an item as it is."""
        item = Item(self._ids.take(), dict(values))
        self._items[item.id] = item
        return item

    def known(self, item_id: str) -> Item:
        """The item, or RouterOS's word for none."""
        item = self.item(item_id)
        if item is None:
            raise RouterosError(NO_SUCH_ITEM)
        return item

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        item = self.known(item_id)
        arguments = self.arguments("set") or {}
        item.values.update({name: typed(name, value, arguments.get(name)) for name, value in values.items()})

    async def remove(self, item_id: str) -> None:
        del self._items[self.known(item_id).id]


def typed(name: str, value: str, kind: ArgumentKind | None) -> Value:
    """A text from the console as the value that the property holds; RouterosError for a bad one."""
    if kind is ArgumentKind.BOOLEAN:
        return boolean(name, value)
    if kind is ArgumentKind.NUMBER:
        return number(name, value)
    if kind is ArgumentKind.SIZE:
        return size(name, value)
    if kind is ArgumentKind.LIST:
        return tuple(part for part in value.replace(";", ",").split(",") if part)
    return value


def boolean(name: str, value: str) -> bool:
    """yes and no; true and false as scripts and REST say it."""
    if value in {"yes", "true"}:
        return True
    if value in {"no", "false"}:
        return False
    raise RouterosError(f"input does not match any value of {name}")


def number(name: str, value: str) -> int:
    """A plain integer."""
    if not (value.isascii() and value.isdigit() and len(value) <= _DIGITS):
        raise RouterosError(f"invalid value for argument {name}")
    return int(value)


# Digits that 64 bits can hold.
_DIGITS = 19
_MAX_SIZE = (1 << 63) - 1
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(name: str, value: str) -> int:
    """Bytes: a plain integer, or one with a binary suffix (``1G``)."""
    digits = value.rstrip("kKmMgGtTiB")
    unit = value[len(digits) :].upper().removesuffix("IB")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS):
        raise RouterosError(f"invalid value for argument {name}")
    if unit not in _UNITS:
        raise RouterosError(f"value of {name} contains invalid trailing characters")
    wanted = int(digits) * _UNITS[unit]
    if wanted > _MAX_SIZE:
        raise RouterosError(f"value of {name} out of range (0..{_MAX_SIZE})")
    return wanted
