"""A parsed script: statements, and what the global commands take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from rds_csi.simulator.console.nodes import Node
from rds_csi.simulator.menu import Menu


@dataclass(frozen=True, slots=True)
class Block:
    """Statements that share a scope; its value is that of the last one."""

    statements: "tuple[Statement, ...]" = ()
    source: str = ""


Argument: TypeAlias = Node | Block


@dataclass(frozen=True, slots=True)
class MenuCommand:
    """``/disk add …``: ``arguments`` with a value, ``flags`` without, ``condition`` after ``where``.

    ``properties`` are those that the condition may name.
    """

    menu: Menu
    name: str
    arguments: Mapping[str, Node]
    flags: frozenset[str]
    condition: Node | None
    properties: frozenset[str]
    line: int

    @property
    def place(self) -> str:
        """How a job's report names the statement that failed."""
        return f"({self.menu.path}/{self.name}; line {self.line})"


@dataclass(frozen=True, slots=True)
class GlobalCommand:
    """``:put …``"""

    name: str
    arguments: Mapping[str, Argument]
    flags: frozenset[str]
    line: int

    @property
    def place(self) -> str:
        """How a job's report names the statement that failed."""
        return f"(:{self.name}; line {self.line})"


@dataclass(frozen=True, slots=True)
class Call:
    """``$f 1 x=2``: runs what ``:local f do={…}`` holds; in it the arguments are ``$1`` and ``$x``."""

    name: str
    arguments: Mapping[str, Node]
    line: int

    @property
    def place(self) -> str:
        """How a job's report names the statement that failed."""
        return f"(${self.name}; line {self.line})"


Statement: TypeAlias = Block | MenuCommand | GlobalCommand | Call


@dataclass(frozen=True, slots=True)
class Signature:
    """What a global command takes.

    ``unnamed`` are the arguments that may come without a name, in their order; ``names`` is the one that is a
    variable's name (or names), ``declares`` says that the variable exists from then on; ``blocks`` are
    arguments in braces that are run, not evaluated; ``since`` is the first release that has the command.
    """

    unnamed: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    blocks: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()
    names: str = ""
    declares: bool = False
    since: tuple[int, int] = (7, 0)

    @property
    def known(self) -> frozenset[str]:
        """Every argument that takes a value."""
        return self.named | self.blocks | frozenset(self.unnamed)


def _of(*unnamed: str, optional: int = 0) -> Signature:
    return Signature(unnamed=unnamed, required=unnamed[: len(unnamed) - optional])


_DO = frozenset({"do"})
GLOBALS: Mapping[str, Signature] = {
    "local": Signature(("name", "value"), blocks=_DO, required=("name",), names="name", declares=True),
    "global": Signature(("name", "value"), blocks=_DO, required=("name",), names="name", declares=True),
    "set": Signature(("name", "value"), blocks=_DO, required=("name",), names="name"),
    "put": _of("message"),
    "if": Signature(("condition",), blocks=frozenset({"do", "else"}), required=("condition",)),
    "foreach": Signature(
        ("counter",),
        named=frozenset({"in"}),
        blocks=_DO,
        required=("counter", "in", "do"),
        names="counter",
        declares=True,
    ),
    "for": Signature(
        ("counter",),
        named=frozenset({"from", "to", "step"}),
        blocks=_DO,
        required=("counter", "from", "to", "do"),
        names="counter",
        declares=True,
    ),
    "while": Signature(("condition",), blocks=_DO, required=("condition", "do")),
    "do": Signature(
        ("command",),
        named=frozenset({"while"}),
        blocks=frozenset({"command", "on-error"}),
        required=("command",),
    ),
    "onerror": Signature(
        ("error",),
        blocks=frozenset({"in", "do"}),
        required=("error", "in", "do"),
        names="error",
        declares=True,
        since=(7, 13),
    ),
    "error": _of("message"),
    "return": _of("value", optional=1),
    "len": _of("value"),
    "typeof": _of("value"),
    "tostr": _of("value"),
    "tonum": _of("value"),
    "tobool": _of("value"),
    "toid": _of("value"),
    "totime": _of("value"),
    "toarray": _of("value"),
    "pick": _of("counter", "begin", "end", optional=1),
    "find": _of("where", "what", "from", optional=1),
    "serialize": Signature(
        ("value",),
        named=frozenset({"to", "options"}),
        required=("value", "to"),
        since=(7, 13),
    ),
    "delay": _of("delay-time", optional=1),
    "execute": Signature(
        ("script",),
        blocks=frozenset({"script"}),
        flags=frozenset({"as-string"}),
        required=("script",),
    ),
    "time": Signature(("command",), blocks=frozenset({"command"}), required=("command",)),
    "nothing": Signature(),
}
