"""The grammar of expressions: operands, operators and their precedence, with the differences of ``where``."""

import re

from rds_csi.simulator.console.lexer import UNQUOTED, Cursor
from rds_csi.simulator.console.nodes import (
    ArrayLiteral,
    Binary,
    Constant,
    Element,
    Join,
    Logic,
    Node,
    Property,
    Substitution,
    Template,
    Unary,
    Variable,
    Word,
)
from rds_csi.simulator.console.values import ItemId, typed

# Nesting of parentheses, brackets and braces; deeper text is refused before Python's own stack ends.
MAX_DEPTH = 40
_NAME = re.compile(r"[A-Za-z0-9]+")
_PROPERTY = re.compile(r"\.?[A-Za-z](?:[A-Za-z0-9.]|-(?!>))*")
_LITERAL = re.compile(r"(?:[0-9]{1,4}:[0-9:.]+|[0-9]+(?:\.[0-9]+){3}(?:/[0-9]+)?|\*[0-9A-Fa-f]+|[0-9][0-9A-Za-z]*)")
_CONDITION_WORD = re.compile(r"""[^\s"'=()$\[\]{}`;?\\!&|<>~,]+""")
_KEY = re.compile(r"[A-Za-z0-9.*-]+(?==)")
_OPERATOR = re.compile(r"&&|\|\||<=|>=|!=|<<|>>|->|[=~<>+\-*/%&|^.]|(?:and|or|in)(?![A-Za-z0-9-])")
_PRECEDENCE = {
    **dict.fromkeys(("||", "or"), 1),
    **dict.fromkeys(("&&", "and"), 2),
    **dict.fromkeys(("=", "!=", "<", ">", "<=", ">=", "~", "in"), 3),
    ".": 4,
    "|": 5,
    "^": 6,
    "&": 7,
    **dict.fromkeys(("<<", ">>"), 8),
    **dict.fromkeys(("+", "-"), 9),
    **dict.fromkeys(("*", "/", "%"), 10),
    "->": 11,
}
_COMPARISONS = frozenset(("=", "!=", "<", ">", "<=", ">=", "~"))
_WORDS = {"yes": True, "no": False, "true": True, "false": False}


class ExpressionParser:
    """Reads expressions and values from a cursor; the statements inside ``[ ]`` are its subclass's affair."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._depth = 0

    def statements(self, end: str) -> object:
        """The statements up to ``end``, which is read too."""
        raise NotImplementedError

    def check_property(self, name: str, at: int) -> None:
        """Refuses a name that is no property of the menu whose condition is read."""
        raise NotImplementedError

    def enter(self) -> None:
        """One level deeper; refused when it is too deep."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.cursor.fail("syntax error")

    def leave(self) -> None:
        """One level up."""
        self._depth -= 1

    # Values, as arguments take them.

    def value(self) -> Node:
        """A value outside parentheses: string, variable, ``( )``, ``[ ]``, array or a word without quotes."""
        first = self.cursor.next
        if first and first in '"$([{':
            node = self._enclosed(first)
        else:
            text = self.cursor.take(UNQUOTED)
            if not text:
                self.cursor.fail("syntax error")
            node = Word(text)
        self.cursor.expect_delimiter()
        return node

    def _enclosed(self, first: str) -> Node:
        if first == '"':
            return self.string()
        if first == "$":
            return self.variable()
        if first == "(":
            return self.parenthesis(condition=False)
        return self.substitution() if first == "[" else self.array()

    def string(self) -> Node:
        """A string; without expansions it is a constant."""
        start = self.cursor.position
        self.cursor.position += 1
        parts: list[str | Node] = []
        while self.cursor.next != '"':
            if not self.cursor.next:
                self.cursor.fail("expected closing quote", start)
            parts.append(self._string_part())
        self.cursor.position += 1
        if all(isinstance(part, str) for part in parts):
            return Constant("".join(part for part in parts if isinstance(part, str)))
        return Template(tuple(Constant(part) if isinstance(part, str) else part for part in parts))

    def _string_part(self) -> str | Node:
        cursor = self.cursor
        if cursor.next == "\\":
            return cursor.escape()
        if cursor.next != "$":
            return cursor.raw()
        following = cursor.text[cursor.position + 1 : cursor.position + 2]
        if following in ("(", "["):
            cursor.position += 1
            return self._enclosed(following)
        if _NAME.match(following):
            return self.variable()
        # A lone "$", as at the end of a regular expression, stands for itself.
        cursor.position += 1
        return "$"

    def variable(self) -> Node:
        """``$name`` or ``$"any name"``."""
        self.cursor.position += 1
        if self.cursor.next == '"':
            name = self.string()
            if isinstance(name, Constant) and isinstance(name.value, str):
                return Variable(name.value)
            self.cursor.fail("syntax error")
        text = self.cursor.take(_NAME)
        return Variable(text) if text else self.cursor.fail("syntax error")

    def substitution(self) -> Node:
        """``[command]``"""
        self.cursor.position += 1
        self.enter()
        block = self.statements("]")
        self.leave()
        return Substitution(block)

    def array(self) -> Node:
        """``{1;2}`` or ``{a=1;b=2}``."""
        start = self.cursor.position
        self.cursor.position += 1
        self.enter()
        entries: list[tuple[str | None, Node]] = []
        self.cursor.space()
        while not self.cursor.accept("}"):
            if not self.cursor.next:
                self.cursor.fail("expected closing brace", start)
            if not self.cursor.accept(";"):
                entries.append((self._key(), self.value()))
            self.cursor.space()
        self.leave()
        return ArrayLiteral(tuple(entries))

    def _key(self) -> str | None:
        key = self.cursor.take(_KEY)
        if key:
            self.cursor.position += 1
            return key
        start = self.cursor.position
        if self.cursor.next == '"':
            text = self.string()
            if self.cursor.accept("=") and isinstance(text, Constant) and isinstance(text.value, str):
                return text.value
            self.cursor.position = start
        return None

    # Expressions, as parentheses and "where" take them.

    def parenthesis(self, *, condition: bool) -> Node:
        """``( … )``; ``condition`` says that bare names are properties."""
        self.cursor.position += 1
        self.enter()
        self.cursor.space()
        node = self._joined(condition)
        self.cursor.space()
        if not self.cursor.accept(")"):
            self.cursor.fail("syntax error" if self.cursor.next else "expected closing parenthesis")
        self.leave()
        return node

    def _joined(self, condition: bool) -> Node:
        entries = [self._operation(1, condition, inside=True)]
        self.cursor.space()
        while self.cursor.accept(","):
            self.cursor.space()
            entries.append(self._operation(1, condition, inside=True))
            self.cursor.space()
        return entries[0] if len(entries) == 1 else Join(tuple(entries))

    def condition(self) -> Node:
        """What follows ``where`` or ``find``; several expressions side by side must all hold."""
        node = self._operation(1, condition=True, inside=False)
        self.cursor.blanks()
        while self.cursor.next not in ("", "\n", ";", "]", "}", ")"):
            node = Logic(True, node, self._operation(1, condition=True, inside=False))
            self.cursor.blanks()
        return node

    def _operation(self, lowest: int, condition: bool, *, inside: bool) -> Node:
        left = self._operand(condition)
        while True:
            start = self.cursor.position
            self._skip(inside)
            sign = self.cursor.take(_OPERATOR)
            rank = _PRECEDENCE.get(sign, 0)
            # Between conditions side by side a dot begins a name (".id").
            if rank < max(lowest, 1) or (sign == "." and condition and not inside):
                self.cursor.position = start
                return left
            self._skip(inside)
            left = self._applied(sign, rank, left, condition, inside)

    def _applied(self, sign: str, rank: int, left: Node, condition: bool, inside: bool) -> Node:
        if condition and sign in _COMPARISONS:
            # A word after a comparison is text, not a property.
            text = self.cursor.take(_CONDITION_WORD)
            if text:
                return Binary(sign, left, Word(text))
        right = self._operation(rank + 1, condition, inside=inside)
        if sign in ("&&", "and", "||", "or"):
            return Logic(sign in ("&&", "and"), left, right)
        return Element(left, right) if sign == "->" else Binary(sign, left, right)

    def _skip(self, inside: bool) -> None:
        if inside:
            self.cursor.space()
        else:
            self.cursor.blanks()

    def _operand(self, condition: bool) -> Node:
        cursor = self.cursor
        first = cursor.next
        if first and first in "!-~":
            cursor.position += 1
            self.enter()
            cursor.blanks()
            operand = self._operation(_PRECEDENCE["->"], condition, inside=False)
            self.leave()
            return Unary(first, operand)
        if first == "(":
            return self.parenthesis(condition=condition)
        if first and first in '"$[{':
            return self._enclosed(first)
        return self._bare(condition)

    def _bare(self, condition: bool) -> Node:
        start = self.cursor.position
        literal = self.cursor.take(_LITERAL)
        if literal:
            value = typed(literal)
            if isinstance(value, ItemId) or not isinstance(value, str) or "." in value:
                return Constant(value)
            self.cursor.fail("syntax error", start)
        name = self.cursor.take(_PROPERTY)
        if name in _WORDS:
            return Constant(_WORDS[name])
        if name and condition:
            self.check_property(name, start)
            return Property(name)
        raise self.cursor.refusal("syntax error", start)
