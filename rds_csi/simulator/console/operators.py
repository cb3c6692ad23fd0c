"""What the operators of expressions do, in scripts and (with looser types) in ``where``."""

import operator
from collections.abc import Callable

from rds_csi.simulator.console.regex import posix
from rds_csi.simulator.console.values import (
    NOTHING,
    Time,
    Value,
    checked_array,
    checked_text,
    number_from,
    to_argument,
    to_number,
    to_text,
    truth,
    type_name,
    wrapped,
)
from rds_csi.simulator.menu import RouterosError

Operator = Callable[[Value, Value], Value]


def _number(value: Value, verb: str, other: Value) -> int:
    number = None if isinstance(value, bool) else to_number(value)
    if number is None:
        raise RouterosError(f"cannot {verb} {type_name(value)} and {type_name(other)}")
    return number


def _arithmetic(verb: str, function: Callable[[int, int], int]) -> Operator:
    def apply(left: Value, right: Value) -> Value:
        if isinstance(left, Time) and isinstance(right, Time) and verb in ("add", "subtract"):
            return Time(function(left.milliseconds, right.milliseconds))
        return wrapped(function(_number(left, verb, right), _number(right, verb, left)))

    return apply


def _divide(left: int, right: int) -> int:
    if right == 0:
        raise RouterosError("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _remainder(left: int, right: int) -> int:
    return left - right * _divide(left, right)


def _shift(function: Callable[[int, int], int]) -> Callable[[int, int], int]:
    return lambda left, right: function(left, right % 64)


def concatenated(left: Value, right: Value) -> Value:
    """``.``: the texts one after the other; an array takes the other value in."""
    if isinstance(left, list | tuple):
        return checked_array([*left, *(right if isinstance(right, list | tuple) else [right])])
    return checked_text(to_text(left) + to_text(right))


def equal(left: Value, right: Value) -> bool:
    """``=`` of scripts: same type and same value; an unset value equals nil."""
    if left is None or left is NOTHING:
        return right is None or right is NOTHING
    if isinstance(left, str) and isinstance(right, str):
        return str(left) == str(right)
    return type(left) is type(right) and left == right


def less(left: Value, right: Value) -> bool:
    """``<`` of scripts: numbers, durations, or texts by their characters."""
    if isinstance(left, Time) and isinstance(right, Time):
        return left < right
    if isinstance(left, str) and isinstance(right, str):
        return str(left) < str(right)
    return _number(left, "compare", right) < _number(right, "compare", left)


def matches(left: Value, right: Value) -> bool:
    """``~``: whether the POSIX extended regular expression on the right is found in the text on the left."""
    return posix(to_text(right)).search(to_argument(left)) is not None


def _in(left: Value, right: Value) -> bool:
    entries = right if isinstance(right, list | tuple) else [right]
    return any(equal(left, entry) for entry in entries)


def where_equal(left: Value, right: Value) -> bool:
    """``=`` of ``where``: the text of a condition is read as the property's type; nil is the empty text."""
    if type(left) is not type(right) and isinstance(right, str):
        if isinstance(left, bool):
            return right == ("yes" if left else "no") or right == ("true" if left else "false")
        if isinstance(left, int):
            return left == number_from(right)
        return (to_argument(left) if isinstance(left, list | tuple) else to_text(left)) == right
    if isinstance(left, str) and not isinstance(right, str):
        return where_equal(right, left)
    return equal(left, right)


def where_less(left: Value, right: Value) -> bool:
    """``<`` of ``where``: nil is less than nothing and more than nothing."""
    one = None if isinstance(left, bool) else to_number(left)
    other = None if isinstance(right, bool) else to_number(right)
    if one is not None and other is not None:
        return one < other
    return isinstance(left, str) and isinstance(right, str) and str(left) < str(right)


def _comparisons(same: Callable[[Value, Value], bool], below: Callable[[Value, Value], bool]) -> dict[str, Operator]:
    return {
        "=": same,
        "!=": lambda left, right: not same(left, right),
        "<": below,
        ">": lambda left, right: below(right, left),
        "<=": lambda left, right: below(left, right) or same(left, right),
        ">=": lambda left, right: below(right, left) or same(left, right),
    }


_COMMON: dict[str, Operator] = {
    "~": matches,
    "in": _in,
    ".": concatenated,
    "+": _arithmetic("add", operator.add),
    "-": _arithmetic("subtract", operator.sub),
    "*": _arithmetic("multiply", operator.mul),
    "/": _arithmetic("divide", _divide),
    "%": _arithmetic("divide", _remainder),
    "&": _arithmetic("and", operator.and_),
    "|": _arithmetic("or", operator.or_),
    "^": _arithmetic("xor", operator.xor),
    "<<": _arithmetic("shift", _shift(operator.lshift)),
    ">>": _arithmetic("shift", _shift(operator.rshift)),
}
SCRIPT_OPERATORS: dict[str, Operator] = {**_COMMON, **_comparisons(equal, less)}
WHERE_OPERATORS: dict[str, Operator] = {**_COMMON, **_comparisons(where_equal, where_less)}


def negated(value: Value) -> Value:
    """``!``"""
    return not truth(value)


def where_negated(value: Value) -> Value:
    """``!`` of ``where``: a property that is not set, or empty, is false."""
    return not where_truth(value)


def where_truth(value: Value) -> bool:
    """Whether an item is listed: a boolean as it is, anything else when it is set and not empty."""
    if isinstance(value, bool):
        return value
    return value is not NOTHING and value is not None and value not in ("", "no", "false")


def minus(value: Value) -> Value:
    """Unary ``-``"""
    return wrapped(-_number(value, "negate", value))


def inverted(value: Value) -> Value:
    """Unary ``~``: all bits turned."""
    return wrapped(~_number(value, "invert", value))


def element(base: Value, key: Value) -> Value:
    """``->``: the entry of an array by position or by key; an absent one is nothing."""
    if isinstance(base, dict):
        return base.get(to_text(key), NOTHING)
    if not isinstance(base, list | tuple):
        return NOTHING
    position = to_number(key)
    if position is not None and 0 <= position < len(base):
        return base[position]
    if len(base) == 1 and isinstance(base[0], dict) and isinstance(key, str):
        # "([print as-value where …]->"size")": the only entry of a listing may be asked directly.
        return base[0].get(key, NOTHING)
    return NOTHING
