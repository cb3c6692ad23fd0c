"""What a menu of the simulated device is: items, the arguments of its commands, and RouterOS's own refusals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

# What a property holds in machine shape (as-value, :serialize, REST): sizes are plain integers of bytes,
# yes/no is a boolean, a list is a tuple. A property that is not set is absent (or None): RouterOS's nil.
Value = str | int | bool | tuple[str, ...] | None


class RouterosError(Exception):
    """A refusal in RouterOS's words, e.g. ``failure: already have such entry``; ``text`` is the whole line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


NO_SUCH_ITEM = "no such item"


class ArgumentKind(Enum):
    """What an argument of a command takes, so far as the console must know to complain like RouterOS."""

    TEXT = "text"
    NUMBER = "number"
    SIZE = "size"
    """Integer of bytes, with an optional suffix."""
    BOOLEAN = "boolean"
    """yes or no."""
    CHOICE = "choice"
    """One of a few words; ``Menu.choices`` names them."""
    LIST = "list"
    """Comma list of words."""
    ITEMS = "items"
    """Items of this menu (numbers, ids, names or what ``find`` returned); ``set``, ``remove``, … take it unnamed."""
    FLAG = "flag"
    """Stands alone, without a value (``detail``, ``as-value``)."""
    CONDITION = "condition"
    """Everything up to the end of the command (``where``)."""


@dataclass(slots=True)
class Item:
    """One item: ``id`` like ``*2B`` and its properties in print order."""

    id: str
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flag:
    """A letter of the flags column: shown where the boolean ``property`` is true, explained as ``legend``.

    ``column`` is the position in the flags column: flags that share one share a position.
    ``shown`` says whether ``print detail`` lists the property as well (``nvme-tcp-export=yes``).
    """

    letter: str
    property: str
    legend: str
    column: int = 0
    shown: bool = False


class Menu(Protocol):
    """One menu (``/disk``). Ids go in, typed items come out; refusals are RouterosError.

    ``print``, ``get``, ``find`` and ``export`` are made by the console from ``items``; ``add``, ``set`` and
    ``remove`` are methods; every other command that ``arguments`` knows goes through ``run``.
    The caller asks ``Device.authorize`` before it calls anything here. What a command began is done to its end
    even when the caller is cancelled.
    """

    @property
    def path(self) -> str:
        """``/disk/btrfs/subvolume``: with a leading slash and slashes between."""

    @property
    def singleton(self) -> bool:
        """Whether the menu holds one nameless set of properties (``/system/resource``); ``items`` then has one."""

    @property
    def properties(self) -> frozenset[str]:
        """Every property that items can have in this version (for ``proplist``, ``get`` and ``where``)."""

    @property
    def sensitive(self) -> frozenset[str]:
        """Properties that show only with the policy ``sensitive``."""

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The letters of the flags column, in the order of the legend."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The properties that the plain ``print`` shows as a table."""

    def commands(self) -> tuple[str, ...]:
        """The commands of this menu in this version, sorted."""

    def arguments(self, command: str) -> Mapping[str, ArgumentKind] | None:
        """The arguments that ``command`` knows in this version; None: no such command."""

    def choices(self, command: str, argument: str) -> tuple[str, ...]:
        """The words that a CHOICE argument admits; ``()`` for every other argument."""

    def required(self, command: str) -> tuple[str, ...]:
        """The arguments without which ``command`` answers ``missing value(s) of argument(s) …``."""

    def policies(self, command: str) -> frozenset[str]:
        """The policies that a user needs for ``command``."""

    def items(self) -> Sequence[Item]:
        """All items, in print order. They are the menu's own: read, never change."""

    def select(self, arguments: Mapping[str, str]) -> Sequence[Item]:
        """The items that ``print`` with these arguments lists before ``where`` (``/file print path=``)."""

    def item(self, item_id: str) -> Item | None:
        """The item of that id (``*2B``, any case)."""

    def lookup(self, property: str, value: str) -> Sequence[Item] | None:
        """The items whose property equals ``value``, by an index; None: there is no index for that property."""

    def name_of(self, item: Item) -> str:
        """The name by which ``remove <name>`` finds the item; "" when the menu has no names."""

    async def add(self, values: Mapping[str, str]) -> str:
        """Adds an item; its id."""

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        """Changes one item; ``item_id`` is "" for a singleton."""

    async def remove(self, item_id: str) -> None:
        """Removes one item."""

    async def run(self, command: str, item_ids: Sequence[str], values: Mapping[str, str]) -> object:
        """Runs any other command of the menu (``copy``, ``enable``, ``comment``); what it prints, None for nothing."""
