"""The JSON of the REST server: every value is a string, errors have a number, queries work on a stack."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from rds_csi.simulator.http import Reply
from rds_csi.simulator.menu import Item, Menu, RouterosError, Value

_JSON = ("Content-Type", "application/json")
_MESSAGES = {
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
}
_QUERY_SIGN = re.compile(r"^\??[-<>=]?")
_OPERATION = re.compile(r"([0-9]*)([^0-9]?)")
# Digits of a number that is looked at as one: more than any size or index has.
_DIGITS = 19
BAD_IDENTIFIER = "missing or invalid resource identifier"


class RestError(Exception):
    """A refusal: its HTTP status, and the text of its ``detail`` if it has one."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(f"{status} {detail}")
        self.status = status
        self.detail = detail

    def reply(self) -> Reply:
        """As RouterOS writes it: keys in alphabetical order, ``error`` as a number."""
        body: dict[str, object] = {"detail": self.detail} if self.detail else {}
        return json_reply(self.status, {**body, "error": self.status, "message": _MESSAGES[self.status]})


def json_reply(status: int, content: object, *headers: tuple[str, str]) -> Reply:
    """A reply with a JSON body."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    # "replace": whatever it is, one value must not break the whole list.
    return Reply(status, text.encode("utf-8", "replace"), (_JSON, *headers))


def as_text(value: Value) -> str:
    """A value as REST shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def as_object(item: Item, *, shown: Collection[str] | None = None, hidden: Collection[str] = ()) -> dict[str, str]:
    """An item as REST shows it: ``.id`` first, properties that are not set are left out."""
    names = (".id", *item.values) if shown is None else shown
    return {
        name: as_text(value)
        for name in names
        if (value := (item.id or None) if name == ".id" else item.values.get(name)) is not None and name not in hidden
    }


def parse_body(body: bytes, content_type: str) -> dict[str, object]:
    """The object that a request carries; RestError for what is none. No body is an empty object."""
    if not body:
        return {}
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise RestError(415)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise RestError(400, "Failed to parse json") from None
    if not isinstance(content, dict):
        raise RestError(400, "Failed to parse json")
    return content


def argument(name: str, value: object) -> str:
    """What a request gives as JSON, as the text that an argument takes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    if isinstance(value, list) and not any(isinstance(each, list) for each in value):
        return ",".join(argument(name, each) for each in value)
    if isinstance(value, str | int | float) and is_text(str(value)):
        return str(value)
    raise RestError(400, f"invalid value for argument {name}")


def is_text(text: str) -> bool:
    """Whether it can be written: JSON can name half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def proplist(value: object) -> list[str] | None:
    """The names in a ``.proplist``, which is a list or a text with commas; None when there is none."""
    text = argument(".proplist", value)
    return [name.strip() for name in text.split(",") if name.strip()] or None


def query_of(words: object) -> Callable[[Mapping[str, str]], bool]:
    """Whether an object meets a ``.query``: words that are pushed on a stack, and operations on it.

    ``name`` and ``-name``: it has the property or not; ``name=value``, ``>name=value``, ``<name=value``;
    ``#`` and operations. What is on the stack in the end must all be true. Source: manual, API, "Queries".
    """
    if words is None:
        return lambda _: True
    texts = words if isinstance(words, list) else [words]
    if not all(isinstance(word, str) for word in texts):
        raise RestError(400, "invalid value for argument .query")
    tests = [_pushed(str(word).removeprefix("?")) for word in texts]

    def holds(values: Mapping[str, str]) -> bool:
        stack: list[bool] = []
        for test in tests:
            test(stack, values)
        return all(stack)

    return holds


def queried(words: object) -> frozenset[str]:
    """The properties that a ``.query`` asks for: nothing else of an object is looked at."""
    texts = words if isinstance(words, list) else [words]
    return frozenset(_QUERY_SIGN.sub("", str(word)).partition("=")[0] for word in texts)


def _pushed(word: str) -> Callable[[list[bool], Mapping[str, str]], None]:
    if word.startswith("#"):
        return lambda stack, _: _operate(stack, word[1:])
    sign, rest = (word[:1], word[1:]) if word[:1] in {"-", "<", ">", "="} else ("=", word)
    name, equals, wanted = rest.partition("=")
    if sign == "-":
        return lambda stack, values: stack.append(rest not in values)
    if not equals:
        return lambda stack, values: stack.append(rest in values)
    return lambda stack, values: stack.append(name in values and _compared(sign, values[name], wanted))


def _compared(sign: str, value: str, wanted: str) -> bool:
    if sign == "=":
        return value == wanted
    if _is_number(value) and _is_number(wanted):
        return int(value) < int(wanted) if sign == "<" else int(value) > int(wanted)
    return value < wanted if sign == "<" else value > wanted


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def _operate(stack: list[bool], operations: str) -> None:
    """Digits are an index from the top: alone at the end, everything else goes; before another sign, a copy is
    pushed first."""
    after_index = False
    for index, sign in _OPERATION.findall(operations):
        if len(index) > _DIGITS:
            raise RestError(400, "invalid query")
        try:
            if index and sign:
                stack.append(stack[-1 - int(index)])
            elif index:
                stack[:] = [stack[-1 - int(index)]]
            _apply(stack, sign, after_index=bool(index) or after_index)
        except IndexError:
            raise RestError(400, "invalid query") from None
        after_index = False


def _apply(stack: list[bool], sign: str, *, after_index: bool) -> None:
    if sign == "!":
        stack.append(not stack.pop())
    elif sign in {"&", "|"}:
        right, left = stack.pop(), stack.pop()
        stack.append((left and right) if sign == "&" else (left or right))
    elif sign == ".":
        if not after_index:
            stack.append(stack[-1])
    elif sign:
        raise RestError(400, "invalid query")


def item_of(menu: Menu, text: str) -> Item | None:
    """The item of that id, or of that name where the menu has names."""
    if text.startswith("*"):
        return menu.item(text)
    for name in ("name", "slot"):
        for item in menu.lookup(name, text) or ():
            if menu.name_of(item) == text:
                return item
    return next((item for item in menu.items() if text and menu.name_of(item) == text), None)


def items_of(menu: Menu, text: str) -> Sequence[Item]:
    """The items of a list of ids and names; RouterosError when one is not there."""
    found = [(item_of(menu, each.strip())) for each in text.split(",") if each.strip()]
    known = [item for item in found if item is not None]
    if len(known) < len(found):
        raise RouterosError("no such item")
    return known
