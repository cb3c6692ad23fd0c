"""POSIX extended regular expressions, as ``~`` takes them, in the words of Python's ``re``."""

import functools
import re

from rds_csi.simulator.menu import RouterosError

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_BRACKET = re.compile(r"\[(\^?)(\]?(?:\[:[a-z]+:\]|[^\]])*)\]")
_CLASS = re.compile(r"\[:([a-z]+):\]")
_REPEAT = re.compile(r"\{[0-9]{1,3}(?:,[0-9]{0,3})?\}")
_PLAIN = frozenset("^$.|()")


@functools.lru_cache(maxsize=256)
def posix(pattern: str) -> re.Pattern[str]:
    """The compiled pattern; RouterosError when it is not an extended regular expression."""
    try:
        return re.compile("".join(_pieces(pattern)), re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise RouterosError("invalid regular expression") from error


def _pieces(pattern: str) -> list[str]:
    pieces: list[str] = []
    position = 0
    while position < len(pattern):
        piece, length = _piece(pattern, position)
        # POSIX reads "a**" as "a*"; in Python a second sign would mean "lazy" or "possessive".
        if not (piece in ("*", "+", "?") and pieces and pieces[-1] in ("*", "+", "?")):
            pieces.append(piece)
        position += length
    return pieces


def _piece(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position]
    if char == "[":
        return _bracket(pattern, position)
    if char == "\\":
        return (re.escape(pattern[position + 1 : position + 2]) or re.escape(char)), 2
    if char in "*+?":
        # At the beginning of a branch there is nothing to repeat: the sign stands for itself.
        return (re.escape(char) if position == 0 or pattern[position - 1] in "(|^" else char), 1
    repeat = _REPEAT.match(pattern, position) if char == "{" else None
    if repeat is not None and position > 0:
        return repeat[0], len(repeat[0])
    return (char if char in _PLAIN else re.escape(char)), 1


def _bracket(pattern: str, position: int) -> tuple[str, int]:
    found = _BRACKET.match(pattern, position)
    if found is None:
        raise RouterosError("invalid regular expression")
    negated, inside = found.groups()
    result = ""
    at = 0
    while at < len(inside):
        named = _CLASS.match(inside, at)
        if named is not None:
            result += _CLASSES.get(named[1], "")
            at = named.end()
            continue
        # A backslash inside brackets stands for itself in POSIX.
        result += "\\" + inside[at] if inside[at] in "\\[]^&~|" else inside[at]
        at += 1
    return f"[{negated}{result}]", len(found[0])
