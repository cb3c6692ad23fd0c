"""Reading a script against the device's menus: every name is known, or the whole text is refused."""

import re
from collections.abc import Mapping

from rds_csi.simulator.console.errors import ParseError
from rds_csi.simulator.console.expressions import ExpressionParser
from rds_csi.simulator.console.lexer import Cursor
from rds_csi.simulator.console.nodes import Constant, Element, Node, Variable
from rds_csi.simulator.console.program import (
    GLOBALS,
    Argument,
    Block,
    Call,
    GlobalCommand,
    MenuCommand,
    Signature,
    Statement,
)
from rds_csi.simulator.menu import ArgumentKind, Menu
from rds_csi.simulator.versions import Version

_WORD = re.compile(r"[A-Za-z0-9-]+")
_ARGUMENT = re.compile(r"[a-z][a-z0-9-]*(?==)")
_FLAG = re.compile(r"[a-z][a-z0-9-]*(?=[\s;\]})]|$)")
_CALL = re.compile(r"[A-Za-z0-9]+(?==)")
_VARIABLE = re.compile(r"[A-Za-z0-9]+")
_ENDS = frozenset(("", "\n", ";", "}", "]"))
_CLOSING = {"}": "expected closing brace", "]": "expected closing bracket"}
_ROOT = ""


class Parser(ExpressionParser):
    """Reads one script. ``menus`` by path, ``version`` for what the language itself has."""

    def __init__(self, text: str, menus: Mapping[str, Menu], version: Version) -> None:
        super().__init__(Cursor(text))
        self._menus = menus
        self._version = version
        self._prefixes = {path[:end] for path in menus for end in _ends(path)}
        self._path = _ROOT
        self._names: list[set[str]] = [set()]
        self._properties: frozenset[str] = frozenset()
        # A menu may have to look at its items to know its properties: it is asked once.
        self._known: dict[str, frozenset[str]] = {}

    def parse(self) -> Block:
        """The whole text; ParseError when any of it is not understood."""
        return self.statements("")

    def statements(self, end: str) -> Block:
        """The statements up to ``end`` ("}", "]", or "" for the end of the text), which is read too."""
        cursor, path, start = self.cursor, self._path, self.cursor.position
        self._names.append(set())
        found: list[Statement] = []
        while True:
            cursor.space()
            if cursor.next == end:
                break
            if not cursor.next:
                cursor.fail(_CLOSING[end], start - 1)
            if not cursor.accept(";"):
                statement = self._statement()
                if statement is not None:
                    found.append(statement)
                self._expect_end(end)
        source = cursor.text[start : cursor.position]
        cursor.position += len(end)
        self._names.pop()
        self._path = path
        return Block(tuple(found), source)

    def check_property(self, name: str, at: int) -> None:
        """Refuses a name that is no property of the menu whose condition is read."""
        if name != ".id" and name not in self._properties:
            self.cursor.fail("expected end of command", at)

    def _expect_end(self, end: str) -> None:
        self.cursor.blanks()
        if self.cursor.next not in ("\n", ";", "", end):
            self.cursor.fail("expected end of command")

    def _statement(self) -> Statement | None:
        cursor = self.cursor
        if cursor.next == "{":
            return self._block()
        if cursor.next == "$":
            return self._call()
        if cursor.accept(":"):
            start = cursor.position
            return self._global(cursor.take(_WORD), start)
        if cursor.accept("/"):
            self._path = _ROOT
            cursor.accept(":")
        elif not _WORD.match(cursor.next):
            cursor.fail("expected command name")
        return self._in_menus()

    def _block(self) -> Block:
        if self.cursor.next != "{":
            self.cursor.fail("syntax error")
        self.cursor.position += 1
        self.enter()
        block = self.statements("}")
        self.leave()
        return block

    def _in_menus(self) -> Statement | None:
        """Follows the path; a path alone makes that menu the current one."""
        cursor = self.cursor
        path = self._path
        while True:
            cursor.blanks()
            if cursor.next in _ENDS:
                self._path = path
                return None
            start = cursor.position
            word = cursor.take(_WORD)
            if not word:
                cursor.fail("expected command name")
            if f"{path}/{word}" not in self._prefixes:
                return self._command(path, word, start)
            path = f"{path}/{word}"
            cursor.accept("/")

    def _command(self, path: str, word: str, start: int) -> Statement:
        menu = self._menus.get(path)
        kinds = menu.arguments(word) if menu is not None else None
        if menu is not None and kinds is not None:
            before, properties, self._path = self._path, self._properties, menu.path
            command = self._menu_command(menu, word, kinds, start)
            self._path, self._properties = before, properties
            return command
        if path == _ROOT and word in GLOBALS:
            return self._global(word, start)
        raise self._bad_command(word, start)

    def _bad_command(self, word: str, start: int) -> ParseError:
        return self.cursor.refusal(f"bad command name {word}" if word else "expected command name", start)

    # Commands of menus.

    def _menu_command(self, menu: Menu, name: str, kinds: Mapping[str, ArgumentKind], start: int) -> MenuCommand:
        arguments: dict[str, Node] = {}
        flags: set[str] = set()
        condition = None
        items = [argument for argument, kind in kinds.items() if kind is ArgumentKind.ITEMS]
        unnamed = [] if name == "print" else items
        unnamed += ["value-name"] if "value-name" in kinds else []
        while not self._at_end():
            word = self._flag(kinds)
            if word == "where" or (name == "find" and not word):
                condition = self._condition(menu)
            elif word:
                flags.add(word)
            else:
                self._argument(kinds, unnamed, arguments)
        known = self._properties if condition is not None else frozenset[str]()
        return MenuCommand(menu, name, arguments, frozenset(flags), condition, known, self.cursor.place(start)[0])

    def _at_end(self) -> bool:
        before = self.cursor.position
        self.cursor.blanks()
        if self.cursor.next in _ENDS:
            return True
        if self.cursor.position == before and self.cursor.text[before - 1 : before] not in (" ", "\t", "\n"):
            self.cursor.fail("expected end of command")
        return False

    def _flag(self, kinds: Mapping[str, ArgumentKind]) -> str:
        """Reads a word that stands alone and is known to; "" when none is next."""
        start = self.cursor.position
        word = self.cursor.take(_FLAG)
        if kinds.get(word) in (ArgumentKind.FLAG, ArgumentKind.CONDITION):
            return word
        self.cursor.position = start
        return ""

    def _condition(self, menu: Menu) -> Node:
        self.cursor.blanks()
        known = self._known.get(menu.path)
        self._properties = self._known[menu.path] = menu.properties if known is None else known
        return self.condition()

    def _argument(self, kinds: Mapping[str, ArgumentKind], unnamed: list[str], arguments: dict[str, Node]) -> None:
        cursor = self.cursor
        start = cursor.position
        name = cursor.take(_ARGUMENT)
        if name:
            if kinds.get(name) in (None, ArgumentKind.FLAG, ArgumentKind.CONDITION) or name in arguments:
                cursor.fail("expected end of command", start)
            cursor.position += 1
        else:
            waiting = [argument for argument in unnamed if argument not in arguments]
            if not waiting:
                cursor.fail("expected end of command")
            name = waiting[0]
        arguments[name] = self.value()

    # Global commands.

    def _global(self, word: str, start: int) -> GlobalCommand:
        signature = GLOBALS.get(word)
        if signature is None or not self._version.at_least(*signature.since):
            raise self._bad_command(word, start)
        arguments: dict[str, Argument] = {}
        flags: set[str] = set()
        declared: list[str] = []
        while not self._at_end():
            flag = self.cursor.position
            text = self.cursor.take(_FLAG)
            if text and text in signature.flags:
                flags.add(text)
                continue
            self.cursor.position = flag
            self._global_argument(word, signature, arguments, declared)
        missing = [name for name in signature.required if name not in arguments]
        if missing:
            raise ParseError(f"missing value(s) of argument(s) {' '.join(missing)}")
        if word in ("local", "global"):
            self._names[-1].update(declared)
        return GlobalCommand(word, arguments, frozenset(flags), self.cursor.place(start)[0])

    def _global_argument(
        self, word: str, signature: Signature, arguments: dict[str, Argument], declared: list[str]
    ) -> None:
        cursor = self.cursor
        start = cursor.position
        name = cursor.take(_ARGUMENT)
        if name:
            if name not in signature.known or name in arguments:
                cursor.fail("expected end of command", start)
            cursor.position += 1
        else:
            waiting = [argument for argument in signature.unnamed if argument not in arguments]
            if not waiting:
                cursor.fail("expected end of command")
            name = waiting[0]
        if name == signature.names:
            arguments[name] = self._variables(signature, declared)
        elif name in signature.blocks and (name != "script" or cursor.next == "{"):
            arguments[name] = self._scoped_block(word, name, declared)
        else:
            arguments[name] = self.value()

    def _scoped_block(self, word: str, argument: str, declared: list[str]) -> Block:
        """A block in which loop counters and the like exist; a function or a job sees nothing of outside."""
        outside = self._names
        if word in ("local", "global", "set") or argument == "script":
            self._names = [set()]
        seen = set() if word == "onerror" and argument == "in" else set(declared)
        self._names = [*self._names, seen]
        block = self._block()
        self._names = outside
        self.cursor.expect_delimiter()
        return block

    def _variables(self, signature: Signature, declared: list[str]) -> Node:
        """A variable's name (``k,v`` for foreach); for ``:set`` it must exist, and may be an array's element."""
        cursor = self.cursor
        start = cursor.position
        if cursor.next == "(" and not signature.declares:
            node = self.value()
            if not (isinstance(node, Element) and isinstance(node.base, Variable)):
                cursor.fail("syntax error", start)
            self._expect_declared(node.base.name, start)
            return node
        names = [self._variable_name()]
        if signature.names == "counter" and cursor.accept(","):
            names.append(self._variable_name())
        cursor.expect_delimiter()
        if not signature.declares:
            self._expect_declared(names[0], start)
        declared.extend(names)
        return Constant(",".join(names))

    def _variable_name(self) -> str:
        start = self.cursor.position
        if self.cursor.next == '"':
            node = self.string()
            if isinstance(node, Constant) and isinstance(node.value, str) and node.value and "," not in node.value:
                return node.value
            self.cursor.fail("syntax error", start)
        name = self.cursor.take(_VARIABLE)
        return name or self.cursor.fail("syntax error")

    def _expect_declared(self, name: str, at: int) -> None:
        if not any(name in names for names in self._names):
            self.cursor.fail("syntax error", at)

    # Functions.

    def _call(self) -> Call:
        start = self.cursor.position
        target = self.variable()
        assert isinstance(target, Variable)
        arguments: dict[str, Node] = {}
        position = 0
        while not self._at_end():
            name = self.cursor.take(_CALL)
            if name:
                self.cursor.position += 1
            else:
                position += 1
                name = str(position)
            arguments[name] = self.value()
        return Call(target.name, arguments, self.cursor.place(start)[0])


def _ends(path: str) -> list[int]:
    """Where the prefixes of a path end: those of ``/disk`` and ``/disk/btrfs`` in ``/disk/btrfs``."""
    return [position for position in range(1, len(path) + 1) if position == len(path) or path[position] == "/"]
