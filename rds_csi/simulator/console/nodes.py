"""Parts of expressions: each can be evaluated in a script, and bound once to be asked of many items (``where``)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rds_csi.simulator.console.operators import (
    SCRIPT_OPERATORS,
    WHERE_OPERATORS,
    element,
    inverted,
    minus,
    negated,
    where_negated,
    where_truth,
)
from rds_csi.simulator.console.values import (
    ItemId,
    Map,
    Value,
    checked_array,
    checked_text,
    to_text,
    truth,
    typed,
)
from rds_csi.simulator.menu import Item

Getter = Callable[[Item], Value]


class Frame(Protocol):
    """Where an expression is evaluated."""

    def read(self, name: str) -> Value:
        """The value of a variable; NOTHING when it was never set."""

    async def substitute(self, block: object) -> Value:
        """The value of the last statement of a block in ``[ ]``."""


Anchors = tuple[tuple[str, str], ...]
# Sets of anchors that are kept of one condition.
_MAX_ANCHORS = 8


@dataclass(frozen=True, slots=True)
class Bound:
    """A part of a condition with everything known but the item.

    ``constant`` says that the item does not matter; each of ``anchors`` is a set of pairs of property and
    text of which at least one must be equal for the condition to hold, so that indexes can find the candidates.
    """

    get: Getter
    constant: bool = False
    property: str = ""
    anchors: tuple[Anchors, ...] = ()


class Node(Protocol):
    """A part of an expression."""

    async def evaluate(self, frame: Frame, /) -> Value:
        """Its value in a script."""

    async def bind(self, frame: Frame, properties: frozenset[str], /) -> Bound:
        """Its value for any item of a menu with these properties. ``[…]`` in it is run once, here."""


def _constant(value: Value) -> Bound:
    return Bound(lambda _item: value, constant=True)


def _property(name: str) -> Bound:
    if name == ".id":
        return Bound(lambda item: ItemId(item.id), property=name)
    return Bound(lambda item: item.values.get(name), property=name)


async def _bind_all(
    nodes: Sequence[Node], frame: Frame, properties: frozenset[str], combine: Callable[[list[Value]], Value]
) -> Bound:
    bound = [await node.bind(frame, properties) for node in nodes]
    getters = [entry.get for entry in bound]
    if all(entry.constant for entry in bound):
        nobody = Item("")
        return _constant(combine([get(nobody) for get in getters]))
    return Bound(lambda item: combine([get(item) for get in getters]))


async def _evaluate_all(nodes: Sequence[Node], frame: Frame) -> list[Value]:
    return [await node.evaluate(frame) for node in nodes]


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: Value

    async def evaluate(self, _frame: Frame) -> Value:
        return self.value

    async def bind(self, _frame: Frame, _properties: frozenset[str]) -> Bound:
        return _constant(self.value)


@dataclass(frozen=True, slots=True)
class Word:
    """A word without quotes. A command gets its text, a script its typed value."""

    text: str

    async def evaluate(self, _frame: Frame) -> Value:
        return typed(self.text)

    async def bind(self, _frame: Frame, _properties: frozenset[str]) -> Bound:
        return _constant(self.text)


@dataclass(frozen=True, slots=True)
class Template:
    """A string with ``$name``, ``$(…)`` or ``$[…]`` in it."""

    parts: tuple[Node, ...]

    async def evaluate(self, frame: Frame) -> Value:
        return self._joined(await _evaluate_all(self.parts, frame))

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        return await _bind_all(self.parts, frame, properties, self._joined)

    @staticmethod
    def _joined(values: list[Value]) -> Value:
        return checked_text("".join(map(to_text, values)))


@dataclass(frozen=True, slots=True)
class Variable:
    """``$name``. In ``where`` a property of that name hides the variable, as it does on a device."""

    name: str

    async def evaluate(self, frame: Frame) -> Value:
        return frame.read(self.name)

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        return _property(self.name) if self.name in properties else _constant(frame.read(self.name))


@dataclass(frozen=True, slots=True)
class Property:
    """A bare name in ``where``."""

    name: str

    async def evaluate(self, _frame: Frame) -> Value:
        return None

    async def bind(self, _frame: Frame, _properties: frozenset[str]) -> Bound:
        return _property(self.name)


@dataclass(frozen=True, slots=True)
class Substitution:
    """``[command]``"""

    block: object

    async def evaluate(self, frame: Frame) -> Value:
        return await frame.substitute(self.block)

    async def bind(self, frame: Frame, _properties: frozenset[str]) -> Bound:
        return _constant(await frame.substitute(self.block))


@dataclass(frozen=True, slots=True)
class Unary:
    """``!``, ``-`` and ``~`` before an operand."""

    sign: str
    operand: Node

    async def evaluate(self, frame: Frame) -> Value:
        return {"!": negated, "-": minus, "~": inverted}[self.sign](await self.operand.evaluate(frame))

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        apply = {"!": where_negated, "-": minus, "~": inverted}[self.sign]
        return await _bind_all((self.operand,), frame, properties, lambda values: apply(values[0]))


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands that are both always evaluated."""

    sign: str
    left: Node
    right: Node

    async def evaluate(self, frame: Frame) -> Value:
        return SCRIPT_OPERATORS[self.sign](await self.left.evaluate(frame), await self.right.evaluate(frame))

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        apply = WHERE_OPERATORS[self.sign]
        left, right = await self.left.bind(frame, properties), await self.right.bind(frame, properties)
        one, other = left.get, right.get
        if not right.constant:
            return Bound(lambda item: apply(one(item), other(item)))
        value = other(Item(""))
        if left.constant:
            return _constant(apply(one(Item("")), value))
        # An unset property equals "", and no index knows those.
        exact = self.sign == "=" and left.property != "" and value != ""
        anchors = (((left.property, value),),) if exact and isinstance(value, str) else ()
        return Bound(lambda item: apply(one(item), value), anchors=anchors)


@dataclass(frozen=True, slots=True)
class Logic:
    """``&&`` and ``||``: the right side is looked at only when it matters."""

    every: bool
    left: Node
    right: Node

    async def evaluate(self, frame: Frame) -> Value:
        if truth(await self.left.evaluate(frame)) is not self.every:
            return not self.every
        return truth(await self.right.evaluate(frame))

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        left, right = await self.left.bind(frame, properties), await self.right.bind(frame, properties)
        one, other = left.get, right.get
        if self.every:
            known = (left.anchors + right.anchors)[:_MAX_ANCHORS]
            return Bound(lambda item: where_truth(one(item)) and where_truth(other(item)), anchors=known)
        both = tuple(some + more for some in left.anchors for more in right.anchors)[:_MAX_ANCHORS]
        return Bound(lambda item: where_truth(one(item)) or where_truth(other(item)), anchors=both)


@dataclass(frozen=True, slots=True)
class Join:
    """``a,b``: an array of both; an array on the left takes what follows in."""

    entries: tuple[Node, ...]

    async def evaluate(self, frame: Frame) -> Value:
        return self._joined(await _evaluate_all(self.entries, frame))

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        return await _bind_all(self.entries, frame, properties, self._joined)

    @staticmethod
    def _joined(values: list[Value]) -> Value:
        entries: list[Value] = []
        for value in values:
            if isinstance(value, list | tuple):
                entries.extend(value)
            else:
                entries.append(value)
        return checked_array(entries)


@dataclass(frozen=True, slots=True)
class Element:
    """``array->key``"""

    base: Node
    key: Node

    async def evaluate(self, frame: Frame) -> Value:
        return element(await self.base.evaluate(frame), await self.key.evaluate(frame))

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        return await _bind_all((self.base, self.key), frame, properties, lambda values: element(values[0], values[1]))


@dataclass(frozen=True, slots=True)
class ArrayLiteral:
    """``{1;2}`` or ``{a=1;b=2}``; in a mixed one the entries without a key have their position as key."""

    entries: tuple[tuple[str | None, Node], ...]

    async def evaluate(self, frame: Frame) -> Value:
        return self._built(await _evaluate_all([node for _key, node in self.entries], frame))

    async def bind(self, frame: Frame, properties: frozenset[str]) -> Bound:
        return await _bind_all([node for _key, node in self.entries], frame, properties, self._built)

    def _built(self, values: list[Value]) -> Value:
        checked_array(values)
        keys = [key for key, _node in self.entries]
        if all(key is None for key in keys):
            return values
        result: Map = {}
        for position, (key, value) in enumerate(zip(keys, values, strict=True)):
            result[str(position) if key is None else key] = value
        return result
